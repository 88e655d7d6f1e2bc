"""Interventions and branches together, on the real engine: each branch has its own, whatever row it is of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.panels import branch_rows
from app.state import acting_intents as a
from app.state import branch_intents as b
from app.state import intents as i
from app.state import select
from core.contract import MutePositions, ScaleHeads, Steer
from tests.ui.acting import paused_after
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened

MUTED = ScaleHeads(0, tuple(range(8)))


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 14))
        driven.do(i.SetParameter("do_sample", False))
        driven.do(i.SetParameter("eos_token_id", ()))
        yield driven


def on(one: Driven) -> tuple[object, ...]:
    """What is in force for the run shown, which the list says, too."""
    live(one, lambda: one.state.acting.epoch is None)
    assert one.state.acting.interventions == select.interventions(one.state.run)
    return one.state.acting.interventions


def test_a_position_of_another_row_stays_muted_in_a_branch(one: Driven) -> None:
    one.do(i.SelectTab("batch"))
    one.do(i.EditBatch("Once upon a time there was a dog\nThe cat sat"))
    paused_after(one, 3)
    one.do(i.ShowRow(1))
    one.do(a.MutePosition(1, 1))
    assert on(one) == (MutePositions(1, (1,)),)
    one.do(b.Rewind(1))
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    assert on(one) == (MutePositions(1, (1,)),)
    assert one.panel("output").flow._marks.struck == {1}
    one.do(a.MutePosition(select.listed_row(one.state.run), 0))
    one.do(a.MuteHead(0, 0))
    assert on(one) == (MutePositions(1, (0, 1)), ScaleHeads(0, (0,)))
    one.do(i.Step())
    live(one, lambda: one.state.run.count == 2 and select.is_paused(one.state))
    one.do(b.Rewind(1))  # a branch of a branch
    live(one, lambda: one.state.run.branch_id == 2 and select.is_paused(one.state))
    assert on(one) == (MutePositions(1, (0, 1)), ScaleHeads(0, (0,)))
    one.do(b.ShowBranch(0))
    live(one, lambda: one.state.run.branch_id == 0 and select.is_paused(one.state))
    assert on(one) == ()  # the position was muted for the branch: no token of the run was chosen under it
    assert one.state.errors == ()


def test_what_was_still_made_ready_for_the_run_before_is_in_the_next_one(one: Driven) -> None:
    paused_after(one, 1)
    steer = Steer(3, 4.0, "I love you " * 30, "I hate you")
    one.do(a.AddIntervention(steer))
    one.do(i.Run())
    live(one, lambda: one.state.run.run_id == 2 and finished(one))
    assert on(one) == (steer,)
    assert one.state.errors == ()


def test_going_back_to_a_branch_leaves_it_as_it_was(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    plain = one.state.run.finish.sequences[0]
    paused_after(one, 6)
    one.do(b.Rewind(4))
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    for head in MUTED.heads:
        one.do(a.MuteHead(0, head))
    assert on(one) == (MUTED,)
    one.do(b.ShowBranch(0))
    live(one, lambda: one.state.run.branch_id == 0 and select.is_paused(one.state))
    assert on(one) == ()
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    assert one.state.run.finish.sequences[0] == plain
    one.do(b.ShowBranch(1))
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    assert on(one) == (MUTED,)
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    assert one.state.run.finish.sequences[0] != plain
    names = [lane.tooltip for lane in branch_rows.lanes(one.state)]
    assert ["muted" in name for name in names] == [False, True]
    assert branch_rows.table(one.state).columns[5].values == ["", "heads 0-7 of layer 0 muted"]


def test_a_mute_is_undone_where_it_was_made(one: Driven) -> None:
    paused_after(one, 6)
    one.do(b.Rewind(4))
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    one.do(a.MuteHead(0, 3))
    assert on(one) == (ScaleHeads(0, (3,)),)
    one.do(b.ShowBranch(0))
    live(one, lambda: one.state.run.branch_id == 0 and select.is_paused(one.state))
    QTest.keyClick(one.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    live(one, lambda: one.state.run.branch_id == 1 and select.is_paused(one.state))
    assert on(one) == ()
    QTest.keyClick(one.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    live(one, lambda: select.interventions(one.state.run) == (ScaleHeads(0, (3,)),))
    assert on(one) == (ScaleHeads(0, (3,)),)
    assert one.state.run.branch_id == 1
