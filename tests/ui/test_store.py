"""The store: one state, commands out, events in, views rendered in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication

from app.state import intents as i
from app.state.state import AppState
from app.store import Store
from app.tempo import FRAME_MS
from core.contract import LoadModel
from tests.ui.fake_lab import FakeLab


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class View:
    """Records what it was given; rendering takes `cost_s` on the clock."""

    def __init__(self, clock: Clock, *, heavy: bool = False, cost_s: float = 0.0) -> None:
        self.heavy = heavy
        self.clock = clock
        self.cost_s = cost_s
        self.visible = True
        self.rendered: list[AppState] = []
        self.hides = 0

    def render(self, state: AppState) -> None:
        self.rendered.append(state)
        self.clock.now += self.cost_s

    def isVisible(self) -> bool:
        return self.visible

    def hidden(self) -> None:
        self.hides += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(qapp: QApplication, clock: Clock) -> Iterator[Store]:
    store = Store(FakeLab(), AppState(), clock)
    yield store
    store.stop()
    store.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def test_dispatch_changes_the_state_at_once_and_submits_the_command(store: Store) -> None:
    store.dispatch(i.ChooseModel("tiny-gpt2"))
    assert store.state.loading is not None
    assert [type(c) for c in store.lab.commands] == [LoadModel]  # type: ignore[attr-defined]


def test_calm_views_rest_every_other_frame_while_tokens_stream(store: Store, clock: Clock) -> None:
    lively, calm, heavy = View(clock), View(clock), View(clock, heavy=True)
    calm.calm = heavy.calm = True  # type: ignore[attr-defined]
    for view in (lively, calm, heavy):
        store.add(view)
    store.state = replace(store.state, requested=object())  # type: ignore[arg-type]
    counts = []
    for frame in range(8):
        store.state = replace(store.state, last_generation=frame)  # something new in every frame
        store.frame()
        counts.append([len(view.rendered) for view in (lively, calm, heavy)])
    assert counts[-1] == [8, 4, 4]
    store.state = replace(store.state, requested=None)  # nothing streams: nothing waits
    for _ in range(2):
        store.frame()
    assert all(view.rendered[-1] is store.state for view in (lively, calm, heavy))
    assert [len(view.rendered) for view in (lively, calm, heavy)] == [9, 5, 5]


def test_views_are_rendered_once_per_state(store: Store, clock: Clock) -> None:
    view = View(clock)
    store.add(view)
    store.frame()
    store.frame()
    store.frame()
    assert len(view.rendered) == 1
    store.dispatch(i.SetTheme("dark"))
    store.frame()
    assert view.rendered[-1].theme == "dark"


def test_a_whole_batch_of_events_is_rendered_once(store: Store, clock: Clock) -> None:
    view = View(clock)
    store.add(view)
    store.dispatch(i.ChooseModel("tiny-gpt2"))
    store.frame()
    store.lab.steps_per_drain = 50  # type: ignore[attr-defined]
    store.dispatch(i.Run())
    before = len(view.rendered)
    store.frame()
    assert len(view.rendered) == before + 1
    assert store.state.run is not None
    assert store.state.run.count == 50


def test_hidden_views_are_told_once_and_catch_up_when_shown(store: Store, clock: Clock) -> None:
    view = View(clock)
    store.add(view)
    store.frame()
    view.visible = False
    store.dispatch(i.SetTheme("dark"))
    store.frame()
    store.frame()
    assert view.hides == 1
    assert len(view.rendered) == 1
    view.visible = True
    store.frame()
    assert view.rendered[-1].theme == "dark"


def test_heavy_views_take_turns_when_the_frame_is_short(store: Store, clock: Clock) -> None:
    light = View(clock)
    heavy = [View(clock, heavy=True, cost_s=0.01) for _ in range(3)]
    for view in (light, *heavy):
        store.add(view)
    themes = ["dark", "light"] * 3
    for theme in themes:
        store.dispatch(i.SetTheme(theme))  # type: ignore[arg-type]
        store.frame()
    assert len(light.rendered) == 6
    assert [len(v.rendered) for v in heavy] == [2, 2, 2]
    for _ in range(3):
        store.frame()
    assert all(v.rendered[-1] is store.state for v in heavy)


def test_cheap_heavy_views_share_one_frame(store: Store, clock: Clock) -> None:
    heavy = [View(clock, heavy=True, cost_s=0.0005) for _ in range(3)]
    for view in heavy:
        store.add(view)
    store.frame()
    assert [len(v.rendered) for v in heavy] == [1, 1, 1]


def test_intent_from_a_rendering_view_reaches_everybody_in_the_next_frame(store: Store, clock: Clock) -> None:
    class Asking(View):
        def render(self, state: AppState) -> None:
            super().render(state)
            if state.colour_by == "probability":
                store.dispatch(i.SetColour("rank"))

    first, second = Asking(clock), View(clock)
    store.add(first)
    store.add(second)
    store.frame()
    assert second.rendered[-1].colour_by == "probability"
    store.frame()
    assert first.rendered[-1].colour_by == second.rendered[-1].colour_by == "rank"


def test_one_broken_view_does_not_stop_the_others(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(View):
        def render(self, state: AppState) -> None:
            raise ZeroDivisionError("broken")

    reported: list[type] = []
    monkeypatch.setattr("sys.excepthook", lambda kind, *_: reported.append(kind))
    view = View(clock)
    store.add(Broken(clock))
    store.add(view)
    store.frame()
    assert reported == [ZeroDivisionError]
    assert len(view.rendered) == 1


def test_cost_reports_frame_work_and_lateness(store: Store, clock: Clock) -> None:
    store.add(View(clock, cost_s=0.002))
    store.dispatch(i.SetTheme("dark"))
    store._tick()
    clock.now += 0.001 * FRAME_MS - 0.002 + 0.004
    store._tick()
    cost = store.cost()
    assert cost.work_mean_ms == pytest.approx(1.0)  # 2 ms, then nothing to render
    assert cost.lateness_max_ms == pytest.approx(4.0)
    store.forget_costs()
    assert store.cost().work_mean_ms == 0.0


def test_the_timer_drains_the_lab(store: Store, qtbot: object) -> None:
    store.start()
    store.dispatch(i.ChooseModel("tiny-gpt2"))
    qtbot.waitUntil(lambda: store.state.model is not None)  # type: ignore[attr-defined]
