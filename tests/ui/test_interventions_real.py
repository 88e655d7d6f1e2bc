"""Interventions on the real engine, with real clicks: the thumbnails, the list, the form, the preview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.state import intents as i
from app.state import select
from app.widgets.thumbnails import LEFT_PX, TOP_PX
from core.contract import ScaleHeads, WorkerState
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 12))
        driven.do(i.SetParameter("do_sample", False))
        yield driven


def place_of(one: Driven, layer: int, head: int) -> QPoint:
    """The middle of a thumbnail in its viewport."""
    maps = one.panel("attention").thumbnails
    pitch = maps._grid.pitch
    assert layer in maps.visible_layers()
    return QPoint(LEFT_PX + head * pitch + pitch // 2, TOP_PX + (layer - maps.first) * pitch + pitch // 2)


def paused_after(one: Driven, tokens: int) -> None:
    """A run that is paused after so many tokens."""
    one.do(i.Step())
    for count in range(1, tokens + 1):
        live(one, lambda count=count: one.state.run is not None and one.state.run.count == count)
        live(one, lambda: select.is_paused(one.state))
        if count < tokens:
            one.do(i.Step())


def test_a_head_is_muted_by_a_click_in_the_middle_of_a_run_and_the_model_obeys(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    untouched = one.state.run.finish.sequences[0]
    paused_after(one, 4)
    live(one, lambda: answered(one))
    viewport = one.panel("attention").thumbnails.viewport()
    shift = Qt.KeyboardModifier.ShiftModifier
    for head in range(one.state.model.heads):
        QTest.mouseClick(viewport, Qt.MouseButton.LeftButton, shift, place_of(one, 0, head))
    heads = tuple(range(one.state.model.heads))
    assert one.state.acting.interventions == (ScaleHeads(0, heads),)
    live(one, lambda: one.state.acting.epoch is None)
    assert [act.index for act in one.state.run.acts] == [4] * len(heads)
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    changed = one.state.run.finish.sequences[0]
    prompt = one.state.run.prompt_tokens
    assert changed[: prompt + 4] == untouched[: prompt + 4]
    assert changed[prompt + 4 :] != untouched[prompt + 4 :]
    flags = one.panel("timeline")._flags
    assert flags[-1].index == 4
    assert "heads 0.0, 0.1" in flags[-1].text
    assert one.state.run.plan.interventions == one.state.run.acts[-1].plan.interventions != ()
    assert one.panel("attention").head._options[-1][1].endswith("(muted)") is (one.state.focus.layer == 0)
    assert one.state.worker is WorkerState.READY
