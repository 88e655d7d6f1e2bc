"""Twin runs and comparisons by mouse and keyboard, on a real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAccessible, QContextMenuEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QLineEdit, QMenu, QWidget
from pytestqt.qtbot import QtBot

from app.state import acting_intents as a
from app.state import branch_intents as b
from app.state import intents as i
from app.state import select, twins
from app.state import twin_intents as t
from app.state.branch_state import TwinChange
from app.state.twins import Pair
from app.widgets.branch_strip import LANE_PX
from app.widgets.modified_dot import ModifiedDot
from core.contract import AttentionQuery, MutePositions, ProbabilityBelow, ScaleHeads, WorkerState
from tests.models import build_gpt2
from tests.ui.harness import Driven, clipped
from tests.ui.real import answered, finished, live, opened

TOKENS = 28
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driven]:
    monkeypatch.setattr(QMenu, "popup", lambda menu, where: None)  # offscreen a menu would keep the focus
    with opened(tmp_path / "settings.ini", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", TOKENS))
        driven.do(i.SetParameter("eos_token_id", ()))
        driven.do(i.SetParameter("temperature", 0.7))
        yield driven


def pair_of(one: Driven) -> Pair:
    pair = twins.columns(one.state)
    assert pair is not None
    return pair


def edit(one: Driven, qtbot: QtBot, text: str, begin: int) -> Any:
    """The editor, opened by the toolbar: another temperature, typed; where it begins, clicked."""
    qtbot.mouseClick(one.window.toolbar.branch_buttons["twin"], LEFT)
    editor = one.window.twin_editor
    one.frames(2)
    field = editor.rows["temperature"].field
    field.selectAll()
    QTest.keyClicks(field, text)
    QTest.keyClick(field, Qt.Key.Key_Return)
    qtbot.mouseClick(editor.begin.buttons()[begin], LEFT)
    one.frames(2)
    return editor


def run_twin(one: Driven, qtbot: QtBot, begin: int = 0) -> Pair:
    editor = edit(one, qtbot, "1.6", begin)
    assert editor.go.isEnabled()
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.columns(one.state) is not None and finished(one))
    live(one, lambda: answered(one))
    return pair_of(one)


def run_alone(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and finished(one))
    live(one, lambda: answered(one))


def test_a_new_run_and_its_twin_stream_side_by_side_in_lockstep(one: Driven, qtbot: QtBot) -> None:
    editor = edit(one, qtbot, "1.6", 0)
    assert editor.note.text() == "temperature 0.7 ↔ 1.6; the same draws."
    one.do(i.SetParameter("max_new_tokens", 300))
    qtbot.mouseClick(editor.go, LEFT)
    assert not editor.isVisible()
    columns = one.panel("output").columns
    live(one, lambda: columns.beside.isVisible() and columns.beside.tokens > 20)
    buttons = one.window.toolbar.buttons
    qtbot.mouseClick(buttons["pause"], LEFT)
    live(one, lambda: one.state.worker is WorkerState.PAUSED)
    pair = pair_of(one)
    assert pair.first.count == pair.second.count > 0
    qtbot.mouseClick(buttons["step"], LEFT)
    live(one, lambda: pair_of(one).second.count == pair.second.count + 1 and one.state.worker is WorkerState.PAUSED)
    assert pair_of(one).first.count == pair_of(one).second.count
    qtbot.mouseClick(buttons["stop"], LEFT)
    live(one, lambda: finished(one))
    assert {view.finish.finish_reason for view in (pair_of(one).first, pair_of(one).second) if view.finish} == {
        "cancelled"
    }


def test_what_differs_is_marked_and_told(one: Driven, qtbot: QtBot) -> None:
    pair = run_twin(one, qtbot)
    panel = one.panel("output")
    ours, theirs = twins.token_ids(pair.first), twins.token_ids(pair.second)
    parted = int(np.flatnonzero(ours != theirs)[0])
    for flow in (panel.flow, panel.columns.beside):
        marks = flow._marks
        assert list(marks.same) == (ours == theirs).astype(int).tolist()
        assert marks.parted == parted
    assert panel.flow._marks.colour != panel.columns.beside._marks.colour
    assert [head.text() for head in panel.columns.heads] == ["temperature 0.7", "temperature 1.6"]
    words = one.panel("compare").summary.text()
    assert words.startswith(f"temperature 0.7 ↔ 1.6; first difference at token {parted - pair.prompt_tokens}, ")
    assert [s.u for s in pair.first.steps()] == [s.u for s in pair.second.steps()]
    qtbot.mouseClick(panel.twins.button, LEFT)
    one.frames(2)
    model = panel.twins.views[0].model()
    titles = [model.headerData(n, Qt.Orientation.Horizontal) for n in range(model.columnCount())]
    column = titles.index("other branch")
    same = [model.index(n, 1).data() == model.index(n, column).data() for n in range(TOKENS)]
    assert same == (ours == theirs)[pair.prompt_tokens :].tolist()


def test_a_step_of_one_side_is_marked_on_the_other_and_a_click_changes_sides(one: Driven, qtbot: QtBot) -> None:
    pair = run_twin(one, qtbot)
    columns, flow = one.panel("output").columns, one.panel("output").flow
    token = pair.prompt_tokens + 20
    qtbot.mouseClick(flow.viewport(), LEFT, pos=flow.token_rect(token).center())
    one.frames(2)
    assert (one.state.selected, columns.beside._marks.selected) == (20, token)
    assert flow.x() < columns.beside.x()  # the older branch is on the left
    said = pair.second.step(22).piece
    qtbot.mouseClick(columns.beside.viewport(), LEFT, pos=columns.beside.token_rect(token + 2).center())
    one.frames(3)
    assert one.state.run is not None
    assert (one.state.run.branch_id, one.state.selected) == (pair.second.branch_id, 22)
    assert said in "".join(one.state.run.columns.texts) or one.state.run.step(22).piece == said
    assert flow.x() > columns.beside.x()
    assert columns.beside._marks.selected == token + 2
    assert select.params(one.state).temperature == 1.6  # the controls are those of the side in use
    qtbot.mouseClick(columns.heads[0], LEFT)
    one.frames(3)
    assert one.state.run.branch_id == pair.first.branch_id
    assert select.params(one.state).temperature == 0.7


def test_the_columns_scroll_together(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("max_new_tokens", 80))
    one.window.resize(1024, 640)
    run_twin(one, qtbot)
    columns, flow = one.panel("output").columns, one.panel("output").flow
    bar, other = flow.verticalScrollBar(), columns.beside.verticalScrollBar()
    assert min(bar.maximum(), other.maximum()) > 4
    bar.setValue(3)
    assert other.value() == columns.beside._layout.line_of(flow.top_token) > 0
    other.setValue(other.maximum())
    assert bar.value() == bar.maximum()


def test_the_card_shows_divergence_probability_and_attention(one: Driven, qtbot: QtBot) -> None:
    pair = run_twin(one, qtbot)
    card = one.panel("compare")
    assert card.isVisible()
    live(one, lambda: card.steps.count == TOKENS and card.matrix.rows == pair.prompt_tokens + TOKENS - 1)
    parted = twins.first_difference(pair)
    assert parted is not None
    same = parted - pair.prompt_tokens
    assert card.kind.text() == "KL of the model’s own ▾"
    assert card.steps.kl_bits[: same + 1].max() < 1e-6  # the model knows no temperature
    assert card.steps.kl_bits[same + 1 :].min() > 0
    assert np.isfinite(card.steps.kl_bits).all()
    card._set_final(True)
    live(one, lambda: card.steps.count == TOKENS)
    assert card.kind.text() == "KL after the pipeline ▾"
    assert (card.steps.kl_bits[: same + 1] > 0).all()  # the temperature alone
    assert [flag.index for flag in card._flags] == [same]
    chosen = np.exp(pair.first.column("final_logprob"))
    assert np.allclose(card.steps.probability[:, 0, 0], chosen, atol=1e-4)
    plot = card.plot
    qtbot.mouseClick(plot, LEFT, pos=QPoint(round(plot.axis.x(9)), plot.height() // 2))
    one.frames(2)
    assert one.state.selected == 9
    assert card.heatmap._row == pair.prompt_tokens + 8
    first = card.matrix.values[:parted, :parted]
    assert float(np.nanmax(np.abs(first))) < 1e-6
    qtbot.mouseClick(card.twins.button, LEFT)
    one.frames(2)
    table = card.twins.views[0]
    assert table.model().rowCount() == TOKENS


def test_a_twin_of_the_run_shown_catches_up_and_stays_when_it_is_let_go(one: Driven, qtbot: QtBot) -> None:
    run_alone(one)
    before = one.state.run
    assert before is not None
    pair = run_twin(one, qtbot, begin=1)
    assert pair.first.run_id == before.run_id
    assert pair.second.kept == 0
    one.do(t.EndTwinRun())
    one.frames(2)
    assert twins.beside(one.state) is None
    assert twins.columns(one.state) is not None  # still compared
    qtbot.mouseClick(one.panel("output").columns.close_button, LEFT)
    one.frames(2)
    assert twins.columns(one.state) is None
    assert one.panel("output").columns.beside.isHidden()


def test_a_change_on_the_way_acts_on_both_but_for_what_differs(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("max_new_tokens", 400))
    editor = edit(one, qtbot, "1.6", 0)
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.beside(one.state) is not None and pair_of(one).second.count > 8)
    one.do(i.SetParameter("top_k", 11))
    one.do(i.SetParameter("temperature", 0.4))
    live(one, lambda: not one.state.pending and bool(pair_of(one).second.flags))
    first, second = pair_of(one).first.params, pair_of(one).second.params
    assert (first.top_k, first.temperature) == (11, 0.4)
    assert (second.top_k, second.temperature) == (11, 1.6)
    one.do(i.Stop())
    live(one, lambda: finished(one))


def test_any_two_branches_are_compared_from_the_strip(one: Driven, qtbot: QtBot) -> None:
    run_alone(one)
    one.do(b.AnotherTry(4))
    live(one, lambda: one.state.run is not None and one.state.run.branch_id == 1 and finished(one))
    strip = one.panel("output").strip
    strip.compared.emit(0)  # the menu of the lane, see below
    one.frames(3)
    pair = pair_of(one)
    assert (pair.first.branch_id, pair.second.branch_id) == (0, 1)
    assert one.panel("compare").summary.text().startswith("draws 0 ↔ 1; first difference at token 4")
    where = QPoint(40, LANE_PX // 2)
    QApplication.sendEvent(
        strip.viewport(), QContextMenuEvent(QContextMenuEvent.Reason.Mouse, where, strip.viewport().mapToGlobal(where))
    )
    menu = strip.findChildren(QMenu)[-1]
    compare = next(action for action in menu.actions() if action.text() == "Compare with the branch in use")
    assert compare.isEnabled()
    menu.close()
    one.do(t.CloseComparison())
    compare.trigger()
    one.frames(2)
    assert pair_of(one).first.branch_id == 0


def test_deleting_a_side_leaves_the_other_one_alone(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("max_new_tokens", 300))
    editor = edit(one, qtbot, "1.6", 0)
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.beside(one.state) is not None and pair_of(one).second.count > 5)
    one.do(b.DeleteBranch())  # the one in use
    live(one, lambda: one.state.run is not None and one.state.run.branch_id != 0)
    assert twins.columns(one.state) is None
    count = one.state.run.count if one.state.run else 0
    if select.is_paused(one.state):
        one.do(i.TogglePause())
    live(one, lambda: one.state.run is not None and one.state.run.count > count + 5)
    one.do(i.Stop())
    live(one, lambda: finished(one))
    assert not [n for n in one.state.notices if n.kind == "error"]


def test_another_precision_and_a_model_that_does_not_fit(one: Driven, qtbot: QtBot, tmp_path: Path) -> None:
    run_alone(one)
    qtbot.mouseClick(one.window.toolbar.branch_buttons["twin"], LEFT)
    editor = one.window.twin_editor
    one.frames(2)
    qtbot.mouseClick(editor.what.buttons()[3], LEFT)
    one.frames(2)
    assert editor.weights.group.checkedId() == 0  # bf16, because the run has fp32
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.columns(one.state) is not None and finished(one))
    assert pair_of(one).second.model.dtype == "bf16"
    assert one.panel("compare").summary.text().startswith("weights fp32 ↔ bf16; ")
    live(one, lambda: answered(one))
    one.do(t.RunTwin(TwinChange(model=pair_of(one).first.model.spec.__class__(str(build_gpt2(tmp_path / "x"))))))
    live(one, lambda: any(n.kind == "error" for n in one.state.notices))
    assert "their vocabularies differ" in one.state.notices[-1].text
    assert one.state.branches.requested is None


def test_a_twin_with_a_muted_head_has_its_own_list_of_interventions(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("max_new_tokens", 300))
    qtbot.mouseClick(one.window.toolbar.branch_buttons["twin"], LEFT)
    editor = one.window.twin_editor
    one.frames(2)
    qtbot.mouseClick(editor.what.buttons()[1], LEFT)
    QTest.keyClicks(editor.acts, "heads 99.1")
    QTest.keyClick(editor.acts, Qt.Key.Key_Return)
    assert "There is no layer 99" in editor.note.text()
    editor.acts.selectAll()
    QTest.keyClicks(editor.acts, "heads 2.1,4")
    QTest.keyClick(editor.acts, Qt.Key.Key_Return)
    one.frames(2)
    assert editor.note.text() == "interventions none ↔ heads 2.1, 2.4 muted; the same draws."
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.beside(one.state) is not None and pair_of(one).second.count > 8)
    one.do(a.MuteHead(0, 3))  # for the side in use only
    live(one, lambda: bool(pair_of(one).first.acts))
    assert not pair_of(one).second.acts or select.interventions(pair_of(one).second) == (ScaleHeads(2, (1, 4)),)
    qtbot.mouseClick(one.panel("output").columns.heads[1], LEFT)
    live(one, lambda: one.store.shows(lambda state: state.run is not None and state.run.branch == one.state.run.branch))
    assert one.state.acting.interventions == (ScaleHeads(2, (1, 4)),)
    qtbot.mouseClick(one.panel("output").columns.heads[0], LEFT)
    live(one, lambda: one.store.shows(lambda state: state.run is not None and state.run.branch == one.state.run.branch))
    assert one.state.acting.interventions == (ScaleHeads(0, (3,)),)
    one.do(i.Stop())
    live(one, lambda: finished(one))
    summary = one.panel("compare").summary.text()
    assert summary.startswith("interventions head 0.3 muted ↔ heads 2.1, 2.4 muted; first difference")


def test_positions_named_for_a_twin_are_those_of_the_row_shown(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SelectTab("batch"))
    one.do(i.EditBatch("Once upon a time there was a dog\nThe cat sat"))
    run_alone(one)
    one.do(i.ShowRow(1))
    one.frames(2)
    pair = twin_under(one, qtbot, "mute 1-2")
    muted = (MutePositions(1, (1, 2)),)
    assert select.interventions(pair.second) == muted
    query = AttentionQuery(pair.second.run_id, 1, branch_id=pair.second.branch_id, rows=(6, 8))
    one.do(i.AskView("by hand", query))
    live(one, lambda: select.answer(one.state, "by hand") is not None)
    weights = select.answer(one.state, "by hand").answer.weights
    assert weights[:, :, [1, 2]].max() == 0
    one.do(t.EndTwinRun())
    one.do(b.ShowBranch(pair.second.branch_id))  # of a branch of that row, too
    one.frames(3)
    again = twin_under(one, qtbot, "mute 0")
    assert select.interventions(again.second) == (MutePositions(1, (0,)),)
    assert "positions 1-2 muted in row 1 ↔ position 0 muted in row 1" in twins.summary(one.state, again)
    assert one.state.errors == ()


def twin_under(one: Driven, qtbot: QtBot, acts: str) -> Pair:
    """A twin from the prompt on, under interventions that are typed."""
    qtbot.mouseClick(one.window.toolbar.branch_buttons["twin"], LEFT)
    editor = one.window.twin_editor
    one.frames(2)
    qtbot.mouseClick(editor.what.buttons()[1], LEFT)
    field = editor.acts
    field.selectAll()
    QTest.keyClicks(field, acts)
    QTest.keyClick(field, Qt.Key.Key_Return)
    qtbot.mouseClick(editor.begin.buttons()[1], LEFT)
    one.frames(2)
    assert editor.go.isEnabled(), editor.note.text()
    before = one.state.branches.last_id
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: one.state.branches.last_id > before and one.state.branches.requested is None and finished(one))
    return pair_of(one)


def test_a_twin_with_another_kind_of_cache(one: Driven, qtbot: QtBot) -> None:
    run_alone(one)
    qtbot.mouseClick(one.window.toolbar.branch_buttons["twin"], LEFT)
    editor = one.window.twin_editor
    one.frames(2)
    qtbot.mouseClick(editor.what.buttons()[2], LEFT)
    one.frames(2)
    assert not editor.go.isEnabled()
    next(action for action in editor.cache.kind.menu().actions() if action.data() == "sliding_window").trigger()
    field = editor.cache.fields["window"]
    field.selectAll()
    QTest.keyClicks(field, "6")
    QTest.keyClick(field, Qt.Key.Key_Return)
    one.frames(2)
    assert editor.note.text() == "cache growing ↔ sliding_window 6; the same draws."
    qtbot.mouseClick(editor.go, LEFT)
    live(one, lambda: twins.columns(one.state) is not None and finished(one))
    pair = pair_of(one)
    assert pair.second.step(20).cache.held == 6 < pair.first.step(20).cache.held
    live(one, lambda: answered(one))
    assert one.panel("compare").summary.text().startswith("cache growing ↔ sliding_window 6; ")
    assert one.panel("compare").steps.count > 0


def test_from_a_surprising_token_to_the_comparison_with_a_muted_head(one: Driven, qtbot: QtBot) -> None:
    one.do(a.AddBreakpoint(ProbabilityBelow(0.2)))
    one.do(i.Run())
    live(one, lambda: bool(one.state.acting.hits))
    live(one, lambda: answered(one))
    at = one.state.selected
    assert at is not None
    one.do(a.RemoveBreakpoint(None))
    one.do(a.MuteHead(5, 2))
    one.do(b.Rewind(at))
    live(one, lambda: one.state.run is not None and one.state.run.branch_id == 1)
    qtbot.mouseClick(one.window.toolbar.buttons["pause"], LEFT)
    live(one, lambda: finished(one))
    one.panel("output").strip.compared.emit(0)
    card = one.panel("compare")
    live(one, lambda: card.steps.count > at and not select.is_waiting(one.state, "compare.steps"))
    assert "head 5.2 muted" in card.summary.text()
    assert not card.steps.kl_bits[:at].any()  # the same until there: the records are shared
    assert card.steps.kl_bits[at] > 0  # the position before was fed again, without the head
    assert one.panel("output").columns.beside.isVisible()


def test_beams_have_no_twin_and_the_editor_says_so(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("num_beams", 3))
    editor = edit(one, qtbot, "1.2", 0)
    assert not editor.go.isEnabled()
    assert "Beams are chosen together" in editor.note.text()
    one.do(i.ResetParameter("num_beams"))
    one.frames(2)
    assert editor.go.isEnabled()
    QTest.keyClicks(editor.rows["temperature"].field, "x")
    QTest.keyClick(editor.rows["temperature"].field, Qt.Key.Key_Return)
    assert "temperature cannot be" in editor.note.text()


def test_nothing_is_cut_at_either_size(one: Driven, qtbot: QtBot) -> None:
    run_twin(one, qtbot)
    for size in ((1024, 640), (1440, 900)):
        one.window.resize(*size)
        one.frames(3)
        assert clipped(one.panel("compare")) == []
        assert clipped(one.panel("output")) == []
    assert one.panel("compare").describe().startswith("temperature 0.7 ↔ 1.6")


def test_every_control_of_the_editor_and_the_columns_has_a_name_and_says_what_it_does(
    one: Driven, qtbot: QtBot
) -> None:
    run_twin(one, qtbot)
    editor = edit(one, qtbot, "1.1", 1)
    for page in range(5):
        qtbot.mouseClick(editor.what.buttons()[page], LEFT)
        one.frames(2)
        assert clipped(editor) == []
        for root in (editor, one.panel("output").columns, one.panel("compare")):
            for control in root.findChildren(QWidget):
                if control.isVisible() and isinstance(control, QAbstractButton | QLineEdit):
                    where = f"{type(control).__name__} “{control.accessibleName()}”"
                    face = QAccessible.queryAccessibleInterface(control)
                    assert face.text(QAccessible.Text.Name), where
                    said = control.accessibleDescription() or control.toolTip()
                    assert said or isinstance(control, ModifiedDot), where
                    assert control.focusPolicy() != Qt.FocusPolicy.NoFocus or isinstance(control, ModifiedDot), where
