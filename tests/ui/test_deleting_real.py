"""Positions deleted from the cache of the real engine, with real clicks: in the output and in the cache's content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot

from app.state import branch_intents as b
from app.state import intents as i
from app.state import select
from core.contract import CacheSpec, DeletePositions
from tests.ui.acting import chosen_from_menu, paused_after, written
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened

pytestmark = pytest.mark.qt_log_ignore("This plugin does not support")  # of menus that pop up offscreen


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 10))
        driven.do(i.SetParameter("do_sample", False))
        yield driven


def place_of(one: Driven, token: int) -> QPoint:
    flow = one.panel("output").flow
    points = (QPoint(x, y) for y in range(4, 200, 6) for x in range(4, 600, 6))
    return next(point for point in points if flow.token_at(point) == token)


def applied(one: Driven) -> bool:
    return one.state.acting.epoch is None


def test_positions_leave_the_cache_by_clicks_for_good_and_a_branch_from_before_has_them(
    one: Driven, qtbot: QtBot
) -> None:
    one.do(i.SetLayout("cache"))
    paused_after(one, 4)
    flow, run = one.panel("output").flow, one.state.run
    first, second = run.prompt_tokens - 2, run.prompt_tokens + 1
    entry = chosen_from_menu(flow, place_of(one, first), "Delete position")
    assert entry == f"Delete position {first} from the cache"
    live(one, lambda: applied(one))
    assert select.interventions(one.state.run) == (DeletePositions(0, (first,)),)

    panel = one.panel("cache")
    panel.tabs.setCurrentIndex(1)
    live(one, lambda: panel.content._answer is not None)
    strip = panel.content.norms
    at = QPointF(strip._boxes()[0].left() + (second + 0.5) * strip._cell_px(), strip._boxes()[0].center().y())
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=at.toPoint())
    one.frames(2)
    assert panel.content.delete.text() == "Delete from the cache"
    qtbot.mouseClick(panel.content.delete, Qt.MouseButton.LeftButton)
    live(one, lambda: applied(one))
    gone = {first, second}
    assert one.state.acting.interventions == (DeletePositions(0, (first, second)),)
    assert flow._marks.gone == gone
    live(one, lambda: set(np.flatnonzero(np.isnan(panel.content._answer.key_norms).all(axis=0))) == gone)
    one.frames(2)
    assert "2 positions are gone" in panel.content.note.text()
    assert not panel.content.delete.isVisible()
    assert not panel.content.mute.isVisible()

    before = one.state.run.step(3).cache
    one.do(i.Step())
    live(one, lambda: one.state.run.count == 5 and select.is_paused(one.state))
    after = one.state.run.step(4).cache
    position = before.used_bytes // before.length
    assert after.used_bytes == before.used_bytes + position - 2 * position
    assert {layout.dropped for layout in after.layouts} == {2}

    _the_list_keeps_it(one)
    _menu_says_so(one, first)
    one.do(b.Rewind(4))  # the token before which it was deleted
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    assert one.state.acting.interventions == ()
    assert flow._marks.gone == frozenset()
    form = one.panel("interventions").form
    written(form, "delete", "2, 0-1")
    live(one, lambda: applied(one))
    assert one.state.acting.interventions == (DeletePositions(0, (0, 1, 2)),)
    assert flow._marks.gone == {0, 1, 2}
    written(form, "delete", "some")
    assert "Name positions by their numbers" in form.problem.text()
    one.do(b.ShowBranch(0))
    live(one, lambda: one.state.run.branch_id == 0)
    assert one.state.acting.interventions == (DeletePositions(0, (first, second)),)
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run.run_id != run.run_id)
    assert one.state.acting.acts == ()
    assert select.interventions(one.state.run) == ()


def _the_list_keeps_it(one: Driven) -> None:
    panel = one.panel("interventions")
    (row,) = panel.list.rows.values()
    assert row.isVisible()
    assert row.text.text().endswith("deleted from the cache")
    assert row.note.text() == "no undo"
    kept = one.state.acting.acts
    for widget in (row.box, row.remove, panel.clear):
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(8, widget.height() // 2))
    assert one.state.acting.acts == kept


def _menu_says_so(one: Driven, token: int) -> None:
    flow, at = one.panel("output").flow, place_of(one, token)
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, at, flow.viewport().mapToGlobal(at))
    QApplication.sendEvent(flow.viewport(), event)
    menu = next(m for m in flow.findChildren(QMenu) if m.isVisible())
    said = next(action for action in menu.actions() if action.text().endswith("is deleted from the cache"))
    assert not said.isEnabled()
    menu.close()


def test_a_kind_that_cannot_delete_says_why_and_nothing_is_marked(one: Driven) -> None:
    one.do(i.SetCache(CacheSpec("sink", window=8, sinks=2)))
    paused_after(one, 2)
    flow = one.panel("output").flow
    chosen_from_menu(flow, place_of(one, 2), "Delete position")
    live(one, lambda: applied(one))
    assert "drops positions by its own rule" in one.state.notices[-1].text
    assert one.state.acting.acts == ()
    assert flow._marks.gone == frozenset()
