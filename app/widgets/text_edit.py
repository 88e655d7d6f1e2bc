"""Plain-text editors of the prompt panel: Tab leaves them, they may grow, they never emit for `show_text`."""

from __future__ import annotations

from PySide6.QtCore import QRect, QSize, Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QSizePolicy, QWidget

FRAME_PX = 18  # border, padding and document margin, above and below
MEASURED = 2000  # characters that decide the height: enough for the few lines it may take


class TextEdit(QPlainTextEdit):
    """Emits `edited(text)` when the user changes the text. With `lines` it grows from the first to the second count."""

    edited = Signal(str)

    def __init__(self, lines: tuple[int, int] | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines = lines
        self._quiet = False
        self.setTabChangesFocus(True)
        self.textChanged.connect(self._changed)
        if lines is not None:
            self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self._grow()

    def show_text(self, text: str) -> None:
        """Show a text that came from elsewhere; the cursor stays where it is if nothing changes."""
        if text == self.toPlainText():
            return
        self._quiet = True
        self.setPlainText(text)
        self.moveCursor(QTextCursor.MoveOperation.End)
        self._quiet = False

    @Slot()
    def _changed(self) -> None:
        self._grow()
        if not self._quiet:
            self.edited.emit(self.toPlainText())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._grow()

    def _grow(self) -> None:
        if self._lines is None:
            return
        fewest, most = self._lines
        metrics = self.fontMetrics()
        room = QRect(0, 0, max(40, self.viewport().width() - 2 * round(self.document().documentMargin())), 1 << 20)
        start = self.toPlainText()[:MEASURED]
        flags = int(Qt.TextFlag.TextWordWrap | Qt.TextFlag.TextWrapAnywhere)
        wrapped = metrics.boundingRect(room, flags, start + "\u200b").height()  # so that a last empty line counts
        lines = max(fewest, min(most, round(wrapped / metrics.lineSpacing())))
        height = lines * metrics.lineSpacing() + FRAME_PX
        if height != self.height():
            self.setFixedHeight(height)

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self.fontMetrics().lineSpacing() + FRAME_PX)
