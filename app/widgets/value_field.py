"""An exact field: takes any precision, commits on Enter or when it loses the focus, Esc takes the edit back.

A number that is too long for its field is shown in three digits until the field has the focus: without its first ones
it would be another number.
"""

from __future__ import annotations

import re

from PySide6.QtCore import QEvent, Qt, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QLineEdit, QStyle, QStyleOptionFrame, QWidget

from app.theme import fonts

MARGIN_PX = 4  # that Qt keeps free within the padding, both sides together


class ValueField(QLineEdit):
    """Emits `committed(text)` for an edit, `stepped(±1)` for the up and down keys."""

    committed = Signal(str)
    stepped = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFont(fonts.mono())
        self._shown = ""
        self.editingFinished.connect(self._commit)

    def show_text(self, text: str) -> None:
        """Show a value, unless the user is typing another one."""
        if text == self._shown and not self.isModified():
            return
        if self.hasFocus() and self.isModified():
            self._shown = text
            return
        self._replace(text)

    def revert(self) -> None:
        """Drop what was typed."""
        self._replace(self._shown)

    def setAlignment(self, flag: Qt.AlignmentFlag) -> None:
        """Numbers stand at the right, close to the frame."""
        super().setAlignment(flag)
        self.setProperty("figures", bool(flag & Qt.AlignmentFlag.AlignRight))

    def _replace(self, text: str) -> None:
        self._shown = text
        self._show()

    def _show(self) -> None:
        right = bool(self.alignment() & Qt.AlignmentFlag.AlignRight)
        text = self._shown if self.hasFocus() or not right or self._fits(self._shown) else in_short(self._shown)
        if text != self.text():
            self.setText(text)
        self.setModified(False)
        if self.alignment() & Qt.AlignmentFlag.AlignLeft:
            self.setCursorPosition(0)

    def _fits(self, text: str) -> bool:
        option = QStyleOptionFrame()
        self.initStyleOption(option)
        room = self.style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, self).width() - MARGIN_PX
        return self.fontMetrics().horizontalAdvance(text) <= room

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if not self.isModified():
            self._show()

    @Slot()
    def _commit(self) -> None:
        if self.isModified() and self.text() != self._shown:
            text = self.text()
            self.revert()  # the state decides what is shown next
            self.committed.emit(text)
        self.setModified(False)

    def event(self, event: QEvent) -> bool:
        # A field that holds no edit of its own leaves Ctrl+Z to the window.
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and not self.isModified():
            steps = (QKeySequence.StandardKey.Undo, QKeySequence.StandardKey.Redo)
            if any(event.matches(step) for step in steps):
                event.ignore()
                return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.isModified():
            self.revert()
        elif event.key() == Qt.Key.Key_Up:
            self.stepped.emit(1)
        elif event.key() == Qt.Key.Key_Down:
            self.stepped.emit(-1)
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        if not self.isModified():
            self._show()

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        if not self.isModified():
            self._show()
        if event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason):
            self.selectAll()


def in_short(text: str) -> str:
    """A number in three significant digits, `1.23e6`; anything else as it is."""
    try:
        short = f"{float(text):.3g}"
    except (ValueError, OverflowError):
        return text
    return re.sub(r"e\+?(-?)0*", r"e\1", short)
