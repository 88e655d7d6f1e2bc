"""Files asked for: nothing that is said or asked about them holds up the window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from app import asking
from app.asking import FileDialog

Choose = Callable[[str], None]


@pytest.fixture
def parent(qtbot: QtBot) -> QWidget:
    widget = QWidget()
    qtbot.addWidget(widget)
    widget.show()
    return widget


def typed(qtbot: QtBot, parent: QWidget, path: Path) -> FileDialog:
    """The dialog, after a name was typed and the key pressed that takes it."""
    dialog = next(d for d in parent.findChildren(FileDialog) if d.isVisible())
    field = dialog.findChild(QLineEdit, "fileNameEdit")
    field.setText(str(path))
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert QApplication.activeModalWidget() is None
    return dialog


def press(qtbot: QtBot, dialog: FileDialog, text: str) -> None:
    assert dialog.box is not None
    assert not dialog.box.isModal()
    button = next(b for b in dialog.box.buttons() if b.text().replace("&", "") == text)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_a_file_is_replaced_only_when_that_was_said(qtbot: QtBot, parent: QWidget, tmp_path: Path) -> None:
    chosen: list[str] = []
    there, other = tmp_path / "<b>there.csv", tmp_path / "other.csv"
    there.write_text("mine")
    asking.save_file(parent, "Export", chosen.append, "there.csv", "CSV (*.csv)")
    dialog = typed(qtbot, parent, there)
    assert dialog.box is not None
    assert "<b>there.csv" in dialog.box.text()
    assert dialog.box.textFormat() == Qt.TextFormat.PlainText
    assert dialog.box.defaultButton().text().replace("&", "") == "Cancel"
    press(qtbot, dialog, "Cancel")
    assert (chosen, dialog.isVisible()) == ([], True)
    typed(qtbot, parent, there)
    dialog.findChild(QLineEdit, "fileNameEdit").setText(str(other))  # the answer is about what was asked
    press(qtbot, dialog, "Replace")
    assert (chosen, dialog.isVisible(), dialog.box) == ([str(there)], False, None)
    asking.save_file(parent, "Export", chosen.append, "there.csv", "CSV (*.csv)")
    assert not typed(qtbot, parent, other.with_suffix("")).isVisible()
    assert chosen == [str(there), str(other)]


@pytest.mark.parametrize("ask", [asking.open_file, asking.open_folder])
def test_what_is_not_there_is_said_beside_the_dialog(
    qtbot: QtBot, parent: QWidget, tmp_path: Path, ask: Callable[[QWidget, str, Choose], None]
) -> None:
    chosen: list[str] = []
    there = tmp_path / "there"
    there.write_text("") if ask is asking.open_file else there.mkdir()
    ask(parent, "Open", chosen.append)
    dialog = typed(qtbot, parent, tmp_path / ("gone" * 70))
    assert dialog.box is not None
    assert "is not there" in dialog.box.text()
    press(qtbot, dialog, "OK")
    assert dialog.isVisible()
    typed(qtbot, parent, tmp_path / "gone")
    box = dialog.box
    assert not typed(qtbot, parent, there).isVisible()
    assert not box.isVisible()
    assert chosen == [str(there)]
