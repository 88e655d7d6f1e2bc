"""The prompt panel: text and chat, tokens that follow the typing, errors in place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QMimeData, QPoint, Qt
from PySide6.QtGui import QHelpEvent, QTextCursor
from PySide6.QtWidgets import QApplication, QToolTip
from pytestqt.qtbot import QtBot

from app.state import intents as i
from app.widgets.text_edit import TextEdit
from core.contract import StartRun, Tokenize
from tests.ui.fake_lab import FakeLab
from tests.ui.harness import Driven, driven

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Driven]:
    with driven(tmp_path / "settings.ini") as driven_window:
        yield driven_window


def tokenized(one: Driven) -> bool:
    draft = one.state.draft
    return draft.tokenized_generation == draft.generation


def settle(one: Driven, qtbot: object) -> None:
    """Until typing has rested and the tokens are there."""

    def there() -> bool:
        one.frames()
        return tokenized(one)

    qtbot.waitUntil(there)  # type: ignore[attr-defined]
    one.frames()


def test_tokens_follow_the_typing_and_are_counted(one: Driven, qtbot: object) -> None:
    settle(one, qtbot)
    panel = one.panel("prompt")
    assert panel.summary.count.text() == "9 tokens of 512"
    panel.text.selectAll()
    qtbot.keyClicks(panel.text, "one two")  # type: ignore[attr-defined]
    settle(one, qtbot)
    assert panel.summary.count.text() == "2 tokens of 512"
    assert panel.summary.chips.accessibleDescription() == "one  two"
    panel.text.selectAll()
    qtbot.keyClicks(panel.text, "x")  # type: ignore[attr-defined]
    settle(one, qtbot)
    assert panel.summary.count.text() == "1 token of 512"


def test_fast_typing_is_tokenised_once(one: Driven, qtbot: object) -> None:
    settle(one, qtbot)
    before = len(one.lab.sent(Tokenize))
    for text in ("a", "a b", "a b c"):
        one.panel("prompt").text.setPlainText(text)
        one.frames()
    settle(one, qtbot)
    assert len(one.lab.sent(Tokenize)) == before + 1


def test_a_prompt_that_cannot_be_tokenised_says_so_in_place(one: Driven, qtbot: object) -> None:
    one.panel("prompt").text.clear()
    settle(one, qtbot)
    count = one.panel("prompt").summary.count
    assert count.text() == "The prompt is empty; write something first."
    assert count.property("error") is True
    assert one.state.notices == ()


def test_what_is_typed_survives_rendering(one: Driven, qtbot: object) -> None:
    editor = one.panel("prompt").text
    editor.setPlainText("abcdef")
    cursor = editor.textCursor()
    cursor.setPosition(3)
    editor.setTextCursor(cursor)
    one.frames(3)
    qtbot.keyClicks(editor, "X")  # type: ignore[attr-defined]
    one.frames(3)
    assert editor.toPlainText() == "abcXdef"
    assert editor.textCursor().position() == 4


def test_chat_appends_the_answer_and_goes_on(one: Driven, qtbot: object) -> None:
    panel = one.panel("prompt")
    panel.tabs.setCurrentIndex(1)
    one.frames()
    panel.chat.system.setPlainText("Be brief.")
    panel.chat.message.setPlainText("Why is the sea salty?")
    one.do(i.SetParameter("max_new_tokens", 3))
    one.do(i.Run())
    one.until(lambda: one.state.run is not None and one.state.run.finish is not None)
    one.frames(2)
    roles = [turn.role.text() for turn in panel.chat.turns()]
    assert roles == ["user", "assistant"]
    assert panel.chat.turns()[1].text.toPlainText() == " lived at the"
    assert panel.chat.message.toPlainText() == ""
    panel.chat.message.setPlainText("And why blue?")
    one.do(i.Run())
    sent = one.lab.sent(StartRun)[-1].spec.prompts[0].messages
    assert [m.role for m in sent] == ["system", "user", "assistant", "user"]
    settle(one, qtbot)
    one.until(lambda: one.state.run is not None and one.state.run.finish is not None)


def test_turns_can_be_edited_removed_and_cleared(one: Driven) -> None:
    panel = one.panel("prompt")
    panel.tabs.setCurrentIndex(1)
    one.do(i.SetParameter("max_new_tokens", 2))
    one.do(i.Run())
    one.until(lambda: len(one.state.draft.turns) == 2)
    one.frames()
    first, answer = panel.chat.turns()
    first.text.setPlainText("Changed?")
    assert one.state.draft.turns[0].content == "Changed?"
    first.text.clear()  # emptied, but not removed
    assert len(one.state.draft.turns) == 2
    assert one.state.draft.turns[0].content == "", "what is seen is what would be sent"
    answer.remove.click()
    one.frames()
    assert [t.role for t in one.state.draft.turns] == ["user"]
    panel.chat.clear.click()
    one.frames()
    assert panel.chat.turns() == []


def test_rendered_prompt_is_plain_text_on_demand(one: Driven, qtbot: object) -> None:
    panel = one.panel("prompt")
    assert not panel.summary.toggle.isVisible()
    panel.tabs.setCurrentIndex(1)
    panel.chat.message.setPlainText("<b>bold</b>?")
    settle(one, qtbot)
    panel.summary.toggle.click()
    assert panel.summary.rendered.isVisible()
    assert "<|user|><b>bold</b>?" in panel.summary.rendered.toPlainText()


def test_chat_is_disabled_with_the_reason_where_there_is_no_template(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini", FakeLab(chat=False)) as one:
        tabs = one.panel("prompt").tabs
        assert not tabs.isTabEnabled(1)
        assert tabs.tabToolTip(1) == "tiny-gpt2 has no chat template, so it cannot chat."


def test_before_a_model_is_there_the_panel_says_what_will_come(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.ini", load=False) as one:
        panel = one.panel("prompt")
        assert panel.summary.count.text() == "Tokens appear here once a model is loaded."
        panel.text.setPlainText("mine")
        one.frames(2)
        assert not one.lab.sent(Tokenize)


def test_long_prompts_show_the_tokens_that_fit_and_count_the_rest(one: Driven, qtbot: object) -> None:
    one.panel("prompt").text.setPlainText("word " * 5000)
    settle(one, qtbot)
    chips = one.panel("prompt").summary.chips
    assert chips.hidden_tokens > 4900
    assert one.panel("prompt").summary.count.text() == "5,001 tokens of 512"


@pytest.mark.qt_log_ignore("does not support raise", extend=True)  # offscreen
def test_hovering_a_token_tells_its_id_and_never_renders_markup(one: Driven, qtbot: object) -> None:
    one.panel("prompt").text.setPlainText("<b>bold</b> x")
    settle(one, qtbot)
    chips = one.panel("prompt").summary.chips
    spot = QPoint(6, 8)
    QApplication.sendEvent(chips, QHelpEvent(QEvent.Type.ToolTip, spot, chips.mapToGlobal(spot)))
    assert QToolTip.text() == "&lt;b&gt;bold&lt;/b&gt;<br>token id 0"
    QToolTip.hideText()


def test_a_line_of_a_million_characters_is_kept_whole_and_shown_in_part(qtbot: QtBot) -> None:
    edit = TextEdit()
    qtbot.addWidget(edit)
    edit.resize(400, 200)
    edit.show()
    edit.show_text("é👍 before ")
    told: list[str] = []
    edit.edited.connect(told.append)
    data = QMimeData()
    data.setText("x" * 1_000_000)
    edit.insertFromMimeData(data)
    assert told == ["é👍 before " + "x" * 1_000_000] == [edit.text()]
    assert len(edit.toPlainText()) == 2000
    assert edit.isReadOnly()
    assert edit._note.isVisible()
    edit.show_text(edit.text())  # what comes back from the state changes nothing
    qtbot.keyClick(edit, Qt.Key.Key_A)
    assert len(told) == 1
    data.setText("short")
    edit.insertFromMimeData(data)
    assert told[-1] == edit.text() == edit.toPlainText() == "short"
    assert not edit.isReadOnly()
    assert not edit._note.isVisible()
    edit.show_text("y" * 60_000)
    qtbot.keyClick(edit, Qt.Key.Key_Delete)
    assert told[-1] == edit.text() == ""
    edit.show_text("line\n" * 10_000)  # many lines are no trouble
    assert not edit.isReadOnly()
    data.setText("a\n" * 9_000)
    for _ in range(2):  # but piece by piece they become too many
        edit.insertFromMimeData(data)
    assert edit.isReadOnly()
    assert edit.text() == told[-1] == "line\n" * 10_000 + "a\n" * 18_000


def test_what_was_typed_is_found_again_after_a_long_paste_or_a_recent_prompt(one: Driven, qtbot: QtBot) -> None:
    editor = one.panel("prompt").text
    editor.selectAll()
    qtbot.keyClicks(editor, "mine")
    data = QMimeData()
    data.setText("x" * 60_000)
    editor.insertFromMimeData(data)
    one.frames(2)
    assert len(one.state.draft.text) == 60_004
    one.do(i.Undo())
    one.frames(2)
    assert editor.text() == "mine"
    one.panel("prompt")._take("once more")
    one.frames(2)
    assert editor.text() == "once more"
    one.do(i.Undo())
    one.frames(2)
    assert editor.text() == "mine"


def test_a_long_paste_replaces_the_selection(qtbot: QtBot) -> None:
    edit = TextEdit()
    qtbot.addWidget(edit)
    edit.show_text("👍ab👍")
    cursor = edit.textCursor()
    cursor.setPosition(2)
    cursor.setPosition(4, QTextCursor.MoveMode.KeepAnchor)
    edit.setTextCursor(cursor)
    data = QMimeData()
    data.setText("z" * 60_000)
    edit.insertFromMimeData(data)
    assert edit.text() == "👍" + "z" * 60_000 + "👍"


@pytest.mark.parametrize("text", ["a\u00a0b", "a\u2028b", "a\u202fb\u3000", "a\tb\n\nc"])
def test_every_character_is_the_models(qtbot: QtBot, text: str) -> None:
    edit = TextEdit()
    qtbot.addWidget(edit)
    told: list[str] = []
    edit.edited.connect(told.append)
    mime = QMimeData()
    mime.setText(text)
    edit.insertFromMimeData(mime)
    assert told == [text]
    qtbot.keyClick(edit, Qt.Key.Key_Z)
    assert told[-1] == edit.text() == text + "z"
    edit.selectAll()
    edit.copy()
    assert QApplication.clipboard().text() == text + "z"


COPIES = """
from PySide6.QtWidgets import QApplication
from app.widgets.text_edit import TextEdit
app = QApplication(["", "-platform", "offscreen"])
edit = TextEdit()
edit.show_text("a text")
edit.selectAll()
edit.copy()
print(QApplication.clipboard().text())
"""


def test_a_process_ends_in_order_with_a_text_on_the_clipboard() -> None:
    done = subprocess.run([sys.executable, "-c", COPIES], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "a text\n")


@pytest.mark.parametrize("key", [Qt.Key.Key_Return, Qt.Key.Key_Enter])
def test_shift_and_enter_is_a_line_break_to_the_model(qtbot: QtBot, key: Qt.Key) -> None:
    edit = TextEdit()
    qtbot.addWidget(edit)
    told: list[str] = []
    edit.edited.connect(told.append)
    qtbot.keyClicks(edit, "one")
    qtbot.keyClick(edit, key, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(edit, "two")
    assert told[-1] == edit.text() == "one\ntwo"
    edit.show_text("z" * 60_000)  # too long to be edited
    qtbot.keyClick(edit, key, Qt.KeyboardModifier.ShiftModifier)
    assert edit.text() == "z" * 60_000


def test_a_text_of_other_line_breaks_is_put_in_once(qtbot: QtBot) -> None:
    edit = TextEdit()
    qtbot.addWidget(edit)
    edit.show_text("one\r\ntwo")
    cursor = edit.textCursor()
    cursor.setPosition(1)
    edit.setTextCursor(cursor)
    edit.show_text("one\r\ntwo")
    assert edit.textCursor().position() == 1, "the same text again moves nothing"
    edit.show_text("three")
    assert edit.text() == "three"


def test_ctrl_z_in_the_editor_takes_back_what_was_not_typed_there(one: Driven, qtbot: QtBot) -> None:
    editor, control = one.panel("prompt").text, Qt.KeyboardModifier.ControlModifier
    editor.setFocus()
    editor.selectAll()
    qtbot.keyClicks(editor, "mine")
    one.panel("prompt")._take("once more")
    one.frames(2)
    qtbot.keyClick(editor, Qt.Key.Key_Z, control)
    one.frames(2)
    assert editor.text() == one.state.draft.text == "mine"
    qtbot.keyClick(editor, Qt.Key.Key_Z, control | Qt.KeyboardModifier.ShiftModifier)
    one.frames(2)
    assert editor.text() == one.state.draft.text == "once more"
    qtbot.keyClicks(editor, "!")
    qtbot.keyClick(editor, Qt.Key.Key_Z, control)
    one.frames(2)
    assert editor.text() == one.state.draft.text == "once more", "what is typed goes first"
