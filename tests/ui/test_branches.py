"""Branches by mouse and keyboard, on a real run: every moment can become a new beginning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot

from app.panels import branch_rows
from app.state import branch_intents as b
from app.state import branches, select
from app.state import intents as i
from app.state.run import RunView
from app.state.state import Tab
from app.widgets.branch_strip import LANE_PX
from tests.ui.harness import Driven, clipped
from tests.ui.real import answered, finished, live, opened

TOKENS = 24
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    """A window after a run, every question answered."""
    with opened(tmp_path / "settings.ini", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", TOKENS))
        driven.do(i.SetParameter("eos_token_id", ()))
        driven.do(i.Run())
        live(driven, lambda: driven.state.run is not None and finished(driven))
        live(driven, lambda: answered(driven))
        yield driven


def run_of(one: Driven) -> RunView:
    run = one.state.run
    assert run is not None
    return run


def ids(run: RunView) -> list[int]:
    return [step.token_id for step in run.steps()]


def until_branch(one: Driven, branch_id: int) -> RunView:
    """This branch is in use and has said everything."""
    live(one, lambda: run_of(one).branch_id == branch_id and finished(one))
    live(one, lambda: answered(one))
    return run_of(one)


def click_token(one: Driven, qtbot: QtBot, index: int) -> None:
    flow = one.panel("output").flow
    where = flow.token_rect(run_of(one).prompt_tokens + index).center()
    qtbot.mouseClick(flow.viewport(), LEFT, pos=where)
    one.frames(2)


def click_candidate(one: Driven, qtbot: QtBot, row: int) -> int:
    """A click on the candidate in this row; returns its id."""
    bars = one.panel("candidates").bars
    y = bars._head_px + row * bars._row_px + bars._row_px // 2
    found = bars.row_at(y)
    assert found is not None
    qtbot.mouseClick(bars.viewport(), LEFT, pos=QPoint(60, y))
    return int(found.token_id)


def click_lane(one: Driven, qtbot: QtBot, row: int) -> None:
    strip = one.panel("output").strip
    qtbot.mouseClick(strip.viewport(), LEFT, pos=QPoint(40, row * LANE_PX + LANE_PX // 2))
    one.frames(3)


@pytest.fixture(autouse=True)
def quiet_menus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offscreen a menu takes the focus from the window for good: it is made, but not brought up."""
    monkeypatch.setattr(QMenu, "popup", lambda menu, where: None)


def menu_on(one: Driven, token: int) -> QMenu:
    """The menu of a token of the output, opened by the right mouse button."""
    viewport = one.panel("output").flow.viewport()
    where = one.panel("output").flow.token_rect(token).center()
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, where, viewport.mapToGlobal(where))
    QApplication.sendEvent(viewport, event)
    (menu,) = one.panel("output").flow.findChildren(QMenu)
    return menu


def shut(menu: QMenu) -> None:
    menu.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def choose(one: Driven, menu: QMenu, text: str) -> None:
    (action,) = [a for a in menu.actions() if a.text() == text]
    action.trigger()
    shut(menu)
    one.frames(2)


def test_a_click_on_another_candidate_grows_a_branch_from_there(one: Driven, qtbot: QtBot) -> None:
    first = run_of(one)
    assert not one.panel("output").strip.isVisible()
    click_token(one, qtbot, 9)
    chosen = next(n for n, row in enumerate(one.panel("candidates").bars._rows) if row.chosen)
    other = click_candidate(one, qtbot, 1 if chosen != 1 else 2)
    run = until_branch(one, 1)
    assert ids(run)[:10] == [*ids(first)[:9], other]
    assert run.step(9).put
    assert run.count == TOKENS
    reused = run.prompt_tokens + 8
    assert one.window.statusbar.aside.text() == f"re-used {reused} positions, recomputed 1"
    strip = one.panel("output").strip
    assert strip.isVisible()
    assert [lane.name for lane in strip._lanes] == ["run", "1 · forced"]
    assert strip._lanes[1].begins == run.prompt_tokens + 9
    assert strip._lanes[1].token.strip("␣ ") in run.step(9).piece or run.step(9).piece.isspace()
    assert {a.error for a in one.state.answers.values()} == {None}
    assert one.panel("output").flow.text(run.prompt_tokens, run.prompt_tokens + TOKENS - 1) == run.text()
    if folder := os.environ.get("TOKENGLASS_PICTURES"):
        one.window.grab().save(f"{folder}/branches.png")


def test_lanes_are_switched_by_click_and_by_keyboard(one: Driven, qtbot: QtBot) -> None:
    first = run_of(one)
    one.do(b.AnotherTry(6))
    second = until_branch(one, 1)
    assert ids(second)[:6] == ids(first)[:6]
    assert ids(second) != ids(first)
    click_lane(one, qtbot, 0)
    assert ids(run_of(one)) == ids(first)
    strip = one.panel("output").strip
    strip.setFocus()
    qtbot.keyClick(strip, Qt.Key.Key_Down)
    one.frames(3)
    assert ids(run_of(one)) == ids(second)
    qtbot.keyClick(one.window, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    one.frames(3)
    assert run_of(one).branch_id == 0
    assert one.panel("candidates")._run.branch_id == 0
    live(one, lambda: answered(one))


def test_rewind_waits_and_the_next_token_obeys_the_changed_parameter(one: Driven, qtbot: QtBot) -> None:
    first = run_of(one)
    click_token(one, qtbot, 8)
    qtbot.keyClick(one.window, Qt.Key.Key_Backspace, Qt.KeyboardModifier.ControlModifier)
    live(one, lambda: run_of(one).branch_id == 1 and select.is_paused(one.state))
    assert run_of(one).count == 8
    one.do(i.SetParameter("temperature", 0.05))
    qtbot.mouseClick(one.window.toolbar.buttons["step"], LEFT)
    live(one, lambda: run_of(one).count == 9)
    assert run_of(one).step(8).rank == 0
    assert ids(run_of(one))[:8] == ids(first)[:8]
    qtbot.mouseClick(one.window.toolbar.buttons["pause"], LEFT)
    assert until_branch(one, 1).count == TOKENS


def test_after_a_rewind_to_the_beginning_the_cards_say_how_to_go_on(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetLayout("everything"))
    one.do(b.Rewind(0))
    live(one, lambda: run_of(one).branch_id == 1 and select.is_paused(one.state))
    one.panel("cache").tabs.setCurrentIndex(1)
    said = {}
    for name in ("lens", "walk", "attention", "cache", "candidates"):
        card = one.window.workspace.cards[name]
        if card.isHidden():
            card.toggleViewAction().trigger()
        card.raise_()
        one.frames(3)
        panel = one.panel(name)
        said[name] = {
            "lens": lambda p: p.table._message,
            "walk": lambda p: p.empty._words,
            "attention": lambda p: p.heatmap._message,
            "cache": lambda p: (*p.bars._empty, *p.content.norms._empty),
            "candidates": lambda p: p.bars._empty,
        }[name](panel)
    for name, words in said.items():
        text = " ".join(words)
        assert "Ctrl+Enter" not in text, name
        assert "Deriving…" not in text, name
        assert "Walking…" not in text, name
    assert all("F5 goes on" in " ".join(said[name]) for name in ("walk", "attention", "cache", "candidates"))


def test_the_menu_of_a_token_offers_what_can_begin_there(one: Driven, qtbot: QtBot) -> None:
    start = run_of(one).prompt_tokens
    assert menu_texts(one, start + 5)[:5] == [
        "Who looks at this token",
        "Rewind to here",
        "Another try from here",
        "Edit text here…",
        "Fork after this token",
    ]
    assert menu_texts(one, 2)[:2] == ["Who looks at this token", "Edit text here…"]
    choose(one, menu_on(one, start + 5), "Fork after this token")
    live(one, lambda: run_of(one).branch_id == 1 and select.is_paused(one.state))
    assert run_of(one).count == 6
    choose(one, menu_on(one, start + 2), "Another try from here")
    assert until_branch(one, 2).started.plan.draws.reroll == 1


def menu_texts(one: Driven, token: int) -> list[str]:
    menu = menu_on(one, token)
    texts = [a.text() for a in menu.actions() if not a.isSeparator()]
    shut(menu)
    return texts


def test_text_is_edited_in_place_in_the_output_and_in_the_prompt(one: Driven, qtbot: QtBot) -> None:
    first, panel = run_of(one), one.panel("output")
    choose(one, menu_on(one, first.prompt_tokens + 7), "Edit text here…")
    assert panel.edit.isVisible()
    assert panel.edit.field.text() == first.step(7).text
    qtbot.keyClicks(panel.edit.field, " under the sea")
    qtbot.mouseClick(panel.edit.go, LEFT)
    run = until_branch(one, 1)
    assert "".join(s.text for s in run.steps()[7:]).startswith(" under the sea")
    assert not panel.edit.isVisible()
    choose(one, menu_on(one, 2), "Edit text here…")
    assert panel.edit.field.text() == "".join(first.prompt.pieces[2:])
    qtbot.keyClicks(panel.edit.field, " hill")
    qtbot.keyClick(panel.edit.field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    run = until_branch(one, 2)
    assert run.run_id == first.run_id  # the shortcut of Run means the field here
    assert run.prompt.pieces[:2] == first.prompt.pieces[:2]
    assert "".join(run.prompt.pieces[2:]) == " hill"
    qtbot.keyClick(one.window, Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert panel.edit.isVisible()
    qtbot.keyClick(panel.edit.field, Qt.Key.Key_Escape)
    assert not panel.edit.isVisible()
    assert run_of(one).branch_id == 2


def test_another_token_is_forced_by_keyboard_alone(one: Driven, qtbot: QtBot) -> None:
    click_token(one, qtbot, 4)
    shift = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(one.window, Qt.Key.Key_T, shift)
    bars = one.panel("candidates").bars
    assert bars.hasFocus()
    qtbot.keyClick(bars, Qt.Key.Key_Down)
    wanted = bars._pointed
    if any(row.token_id == wanted and row.chosen for row in bars._rows):
        qtbot.keyClick(bars, Qt.Key.Key_Down)
        wanted = bars._pointed
    qtbot.keyClick(bars, Qt.Key.Key_Return)
    assert until_branch(one, 1).step(4).token_id == wanted


def test_a_branch_is_renamed_and_deleted_and_comes_back(one: Driven, qtbot: QtBot) -> None:
    one.do(b.AnotherTry(6))
    second = until_branch(one, 1)
    strip = one.panel("output").strip
    qtbot.mouseDClick(strip.viewport(), LEFT, pos=QPoint(50, LANE_PX + 12))
    qtbot.keyClicks(strip._field, "wilder")
    qtbot.keyClick(strip._field, Qt.Key.Key_Return)
    one.frames(2)
    assert strip._lanes[1].name == "wilder"
    click_lane(one, qtbot, 0)
    assert strip.hasFocus()  # by the click
    qtbot.keyClick(strip, Qt.Key.Key_F2)
    assert strip._field.isVisible()
    assert strip._field.hasFocus()
    qtbot.keyClicks(strip._field, "not this")
    qtbot.keyClick(strip._field, Qt.Key.Key_Escape)
    assert strip._lanes[0].name == "run"
    qtbot.keyClick(strip, Qt.Key.Key_F2)
    qtbot.keyClicks(strip._field, "first")
    qtbot.keyClick(strip._field, Qt.Key.Key_Return)
    one.frames(2)
    assert [lane.name for lane in strip._lanes] == ["first", "wilder"]
    qtbot.keyClick(strip, Qt.Key.Key_Down)
    one.frames(2)
    qtbot.keyClick(strip, Qt.Key.Key_Delete)
    one.frames(3)
    assert run_of(one).branch_id == 0
    assert not strip.isVisible()
    qtbot.keyClick(one.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    live(one, lambda: run_of(one).branch_id == 1)
    assert ids(run_of(one)) == ids(second)
    live(one, lambda: one.window.statusbar.aside.text().startswith("re-used"))
    assert "recomputed 0" not in one.window.statusbar.aside.text()
    live(one, lambda: answered(one))
    assert {a.error for a in one.state.answers.values()} == {None}
    assert strip.isVisible()


def test_undo_and_redo_go_back_to_the_branch_before_and_the_run_before(one: Driven, qtbot: QtBot) -> None:
    first = run_of(one)
    one.do(i.Run())
    live(one, lambda: run_of(one).run_id != first.run_id and finished(one))
    one.do(b.Fork(3))
    live(one, lambda: run_of(one).branch_id == 1)
    one.frames(2)
    assert one.window.actions_["undo"].text() == "Undo fork"
    ctrl = Qt.KeyboardModifier.ControlModifier
    qtbot.keyClick(one.window, Qt.Key.Key_Z, ctrl)
    one.frames(2)
    assert run_of(one).branch_id == 0
    assert one.window.actions_["undo"].text() == "Undo run"
    qtbot.keyClick(one.window, Qt.Key.Key_Z, ctrl)
    live(one, lambda: run_of(one).run_id == first.run_id)
    assert ids(run_of(one)) == ids(first)
    live(one, lambda: answered(one))
    assert {a.error for a in one.state.answers.values()} == {None}
    for _ in range(2):
        qtbot.keyClick(one.window, Qt.Key.Key_Z, ctrl | Qt.KeyboardModifier.ShiftModifier)
        one.frames(2)
    assert run_of(one).branch_id == 1
    assert run_of(one).run_id == first.run_id + 1


def test_what_core_refuses_is_said_and_changes_nothing(one: Driven, qtbot: QtBot) -> None:
    before = run_of(one)
    one.do(b.PutTokens(before.prompt_tokens + 3, (10**6,)))
    live(one, lambda: bool(one.state.notices))
    assert "1000000 does not exist" in one.state.notices[-1].text
    one.do(b.Fork())
    live(one, lambda: len(one.state.notices) > 0 and "max_new_tokens" in one.state.notices[-1].text)
    assert run_of(one) is not None
    assert run_of(one).branch == before.branch
    assert one.state.branches.requested is None
    one.do(b.EditFrom(0, ""))
    live(one, lambda: any("Nothing would be left" in notice.text for notice in one.state.notices))


def test_the_table_and_the_description_say_the_same(one: Driven, qtbot: QtBot) -> None:
    one.do(b.AnotherTry(6))
    run = until_branch(one, 1)
    panel = one.panel("output")
    qtbot.mouseClick(panel.twins.button, LEFT)
    panel.twins.tabs.setCurrentIndex(1)
    one.frames(2)
    table = branch_rows.table(one.state)
    cells = [[column.cell(row) for column in table.columns] for row in range(table.rows)]
    assert cells[1][:2] == ["1 · another try", f"{run.prompt_tokens + 6}"]
    assert panel.twins.views[1].model().rowCount() == 2
    assert panel.strip.accessibleDescription() == "2 branches, 1 · another try is shown."
    panel._choose_branch(0)
    one.frames(2)
    assert run_of(one).branch_id == 0


def test_many_branches_fit_the_smallest_window(one: Driven, qtbot: QtBot) -> None:
    one.window.resize(1024, 640)
    one.do(i.SetTheme("dark"))
    for index in range(7):
        one.do(b.AnotherTry(index))
        until_branch(one, index + 1)
    strip = one.panel("output").strip
    assert len(strip._lanes) == 8
    assert strip.verticalScrollBar().maximum() > 0
    assert strip.height() == 5 * LANE_PX
    one.panel("output").edit_text()
    one.frames(2)
    assert [c for c in clipped(one.window) if "Output" in c or "EditBar" in c] == []
    assert strip.lane_at(QPointF(40, 10)) is not None


def test_in_a_chat_the_answer_is_that_of_the_branch_in_use(qtbot: QtBot, tmp_path: Path) -> None:
    from tests.models import CHAT_TEMPLATE, build_gpt2, build_tokenizer

    folder = build_gpt2(tmp_path / "chatty", tokenizer=False)
    build_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    with opened(tmp_path / "settings.ini", str(folder)) as one:
        chat: Tab = "chat"
        one.do(i.SelectTab(chat))
        one.do(i.EditMessage("Hi"))
        one.do(i.SetParameter("max_new_tokens", 8))
        one.do(i.SetParameter("eos_token_id", ()))
        one.do(i.Run())
        live(one, lambda: one.state.run is not None and finished(one))
        first = one.state.draft.turns[-1].content
        one.do(b.AnotherTry(1))
        until_branch(one, 1)
        assert [turn.role for turn in one.state.draft.turns] == ["user", "assistant"]
        second = one.state.draft.turns[-1].content
        assert second != first
        one.do(b.ShowBranch(0))
        one.frames(2)
        assert one.state.draft.turns[-1].content == first
        assert branches.lanes(one.state) == [((1, 0), 0), ((1, 1), 1)]


def test_after_a_rewind_to_the_first_token_everything_said_is_true(one: Driven, qtbot: QtBot) -> None:
    one.do(b.Rewind(0))
    live(one, lambda: run_of(one).branch_id == 1 and select.is_paused(one.state))
    live(one, lambda: run_of(one).branch in one.state.branches.memory)
    fed = run_of(one).prompt_tokens - 1
    bar = one.window.statusbar
    assert bar.context.value.text().startswith(f"{fed} / ")
    assert bar.cache.value.text() == "shared"
    assert branch_rows.lanes(one.state)[1].memory == "shared"
    for empty in (one.panel("candidates").bars, one.panel("timeline").plot):
        live(one, lambda shown=empty: "F5" in shown._empty[1])
    one.window.resize(1024, 640)
    one.frames(3)
    assert bar.aside.shown in (f"re-used {fed} positions, recomputed 1", f"re-used {fed}, fed 1")
    one.do(b.RenameBranch(1, "a name that is rather long"))
    one.frames(2)
    strip = one.panel("output").strip
    assert strip._track()[0] > 130
    assert strip._track()[1] - strip._track()[0] > 90
