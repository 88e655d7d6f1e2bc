"""Watched tokens on the real engine: past and new steps, their table, tokens by text, by id and from the candidates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.state import acting_intents as a
from app.state import intents as i
from app.widgets.candidate_bars import HEAD_PX, ROW_PX
from tests.ui.acting import chosen_from_menu, paused_after, written
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened

pytestmark = pytest.mark.qt_log_ignore("This plugin does not support")  # of menus that pop up offscreen


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 24))
        yield driven


def known(one: Driven) -> bool:
    """Whether every step of every watched token is known."""
    run, columns = one.state.run, one.panel("watches").columns.columns
    return run is not None and bool(columns) and all(column.done == run.count for column in columns)


def test_past_and_new_steps_are_drawn_as_they_were_recorded(one: Driven) -> None:
    paused_after(one, 8)
    bars, run = one.panel("candidates").bars, one.state.run
    assert chosen_from_menu(bars, QPoint(20, HEAD_PX + ROW_PX // 2), "Watch").startswith("Watch")
    first = int(run.step(7).top.token_ids[0])
    assert [pin.token for pin in one.state.acting.pins] == [first]
    live(one, lambda: known(one))  # the past, out of the record
    panel = one.panel("watches")
    assert panel.isVisible()
    written(panel.form, "text", " the")
    live(one, lambda: known(one))
    one.do(i.TogglePause())
    live(one, lambda: finished(one) and known(one))
    run = one.state.run
    assert len(panel.plot._series) == 4
    for column in panel.columns.columns:
        for step in run.steps():
            top = step.top.token_ids.tolist()
            p, rank = column.probability(run.count)[step.id.index], column.rank(run.count)[step.id.index]
            if column.token_id in top:
                place = top.index(column.token_id)
                assert p == pytest.approx(np.exp(step.top.logprob[place]), abs=1e-5)
                assert rank == (step.rank if column.token_id == step.token_id else place)
            else:
                assert rank >= 50
    assert panel.columns.columns[1].piece == " the"
    panel.twins.button.click()
    one.frames(2)
    assert panel.twins.shown == 0
    assert "rank" in panel.describe()
    QTest.mouseClick(panel.list.rows[0].remove, Qt.MouseButton.LeftButton)
    one.frames(2)
    assert [pin.token for pin in one.state.acting.pins] == [" the"]
    assert known(one)  # what was known of the other one stays


def test_wrong_tokens_are_refused_in_place(one: Driven) -> None:
    one.window.workspace.cards["watches"].toggleViewAction().trigger()
    one.frames(2)
    form = one.panel("watches").form
    written(form, "text", "")
    assert "Write the text of a token" in form.problem.text()
    written(form, "id", "seven")
    assert form.problem.text() == "The token id is a whole number."
    written(form, "id", "99999999")
    assert "no token 99999999" in one.state.notices[-1].text
    assert one.state.acting.pins == ()
    for token in range(9):
        one.do(a.PinToken(token, str(token)))
    assert len(one.state.acting.pins) == 8
    assert "At most 8" in one.state.notices[-1].text


def test_a_click_on_the_curves_selects_the_step(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    one.do(a.PinToken(13, "."))
    live(one, lambda: known(one))
    plot = one.panel("watches").plot
    x = int(plot.axis.x(5))
    QTest.mouseClick(plot, Qt.MouseButton.LeftButton, pos=QPoint(x, plot.height() // 2))
    assert one.state.selected == 5
