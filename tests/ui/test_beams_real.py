"""The Beams card on the real engine: beams live, a hypothesis clicked, every panel on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QAbstractSlider

from app.state import intents as i
from app.widgets.beam_lanes import BeamLanes, Cell
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.ini") as driven_window:
        yield driven_window


def test_beams_and_hypotheses_of_a_real_run_can_be_looked_at(one: Driven) -> None:
    for name, value in {"max_new_tokens": 16, "num_beams": 4, "do_sample": False}.items():
        one.do(i.SetParameter(name, value))
    model = one.state.model
    assert model is not None
    one.do(i.SetParameter("eos_token_id", (model.eos_token_ids[0], 12, 14, 259)))  # hypotheses end on the way
    one.window.workspace.cards["beams"].toggleViewAction().trigger()
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    run = one.state.run
    assert run is not None
    assert run.finish is not None
    assert run.finish.error is None
    assert run.text() == run.finish.texts[0]
    assert (run.place.row, run.place.beam, run.place.index) == run.finish.places[0]
    ended = [event.hypothesis for event in run.sequences.hypotheses]
    early = [h for h in ended if h.beam >= 4]  # those that never were a lane
    assert early
    if folder := os.environ.get("TOKENGLASS_PICTURES"):
        one.window.grab().save(f"{folder}/beams.png")
    for hypothesis in (early[0], ended[-1]):
        one.do(i.ShowBeam(hypothesis.row, hypothesis.beam, hypothesis.index))
        live(one, lambda: answered(one))
        shown = one.state.run
        assert shown is not None
        assert [step.token_id for step in shown.steps()] == list(hypothesis.token_ids)
        assert {answer.error for answer in one.state.answers.values()} == {None}


def test_beams_at_reading_speed_tell_their_hypotheses_when_their_tokens_are_shown(one: Driven) -> None:
    for name, value in {"max_new_tokens": 16, "num_beams": 4, "do_sample": False, "stop_strings": (".",)}.items():
        one.do(i.SetParameter(name, value))
    one.do(i.EditText("Once upon a time there was a dog."))
    one.do(i.SetSpeed(40.0))
    one.window.workspace.cards["beams"].toggleViewAction().trigger()
    one.do(i.Run())

    def over() -> bool:
        run = one.state.run
        if run is None:
            return False
        known = {row: len(lanes) for row, lanes in run.sequences.lanes.items()}  # one told too soon has no tokens
        assert all(told.hypothesis.index < known.get(told.hypothesis.row, 0) for told in run.sequences.hypotheses)
        return finished(one) and run.finish is not None

    live(one, over)
    assert one.state.run is not None
    assert one.state.run.sequences.hypotheses
    assert not one.state.errors


def test_the_chosen_step_stays_in_view_until_the_user_scrolls(qtbot: object) -> None:
    lanes = BeamLanes()
    qtbot.addWidget(lanes)  # type: ignore[attr-defined]
    lanes.resize(300, 120)
    lanes.show()
    cell = Cell("token", 0xFFFFFF, 0, "-1.0", "")

    def add(steps: int) -> None:
        for _ in range(steps):
            lanes.add(dict.fromkeys(range(4), cell), "1234")

    def seen(step: int) -> bool:
        return lanes.cell_at(lanes._box(step, 0).center()) is not None

    add(20)
    lanes.show_path(dict.fromkeys(range(20), 0), 15, pinned=True)
    for width in (300, 1600, 400):  # a layout makes cards wide for a moment
        lanes.resize(width, 120)
        assert seen(15)
    lanes.show_path(dict.fromkeys(range(20), 0), 19, pinned=True)
    add(10)  # the run goes on
    assert seen(19)
    lanes.show_path(dict.fromkeys(range(30), 0), 29)
    assert seen(29)
    lanes.horizontalScrollBar().triggerAction(QAbstractSlider.SliderAction.SliderToMinimum)
    lanes.resize(500, 120)
    assert seen(0)
    assert not seen(29)
