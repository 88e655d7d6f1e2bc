"""Plain-text editors of the prompt panel: Tab leaves them, they may grow, they never emit for `show_text`."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QMimeData, QRect, QSize, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent, QTextCursor
from PySide6.QtWidgets import QApplication, QLabel, QPlainTextEdit, QSizePolicy, QWidget

from app.theme import fonts

FRAME_PX = 18  # border, padding and document margin, above and below
MEASURED = 2000  # characters that decide the height: enough for the few lines it may take
LONGEST_LINE = 20_000  # characters; Qt lays a line out again, as a whole, for every key: half a second for a million
MOST_LINES = 20_000  # Qt makes all of them when a text is put in: a second for half a million
EXCERPT = 2000  # characters shown of a text with a longer one, or with more


class TextEdit(QPlainTextEdit):
    """Emits `edited(text)` when the user changes the text. With `lines` it grows from the first to the second count.

    Of a text with a line beyond `LONGEST_LINE`, or more than `MOST_LINES`, only the beginning is shown, and it can only
    be replaced.
    """

    edited = Signal(str)

    def __init__(self, lines: tuple[int, int] | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines = lines
        self._quiet = False
        self.replacing = False  # what `edited` tells just now was put there as a whole
        self._whole: str | None = None  # the text, where only its beginning is shown
        self._given: str | None = None  # what is shown as it came: Qt knows one kind of line break only
        self._note = QLabel(self)
        self._note.setTextFormat(Qt.TextFormat.PlainText)
        self._note.setFont(fonts.ui(fonts.SMALL_PX))
        self._note.setProperty("secondary", True)
        self._note.setWordWrap(True)
        self._note.hide()
        self.setTabChangesFocus(True)
        self.textChanged.connect(self._changed)
        if lines is not None:
            self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self._grow()

    def text(self) -> str:
        """All of it, also what is not shown."""
        return self._shown() if self._whole is None else self._whole

    def _shown(self) -> str:
        """To the character: `toPlainText` makes other spaces and line separators plain ones."""
        return self.document().toRawText().replace("\u2029", "\n")

    def show_text(self, text: str) -> None:
        """Show a text that came from elsewhere; the cursor stays where it is if nothing changes."""
        if text != self._given and text != self.text():
            self._put(text)

    def _put(self, text: str) -> None:
        long = _is_too_long(text)
        self._whole, self._given = text if long else None, text
        self._quiet = True
        self.setPlainText(text[:EXCERPT] if long else text)
        self.moveCursor(QTextCursor.MoveOperation.Start if long else QTextCursor.MoveOperation.End)
        self._quiet = False
        self.setReadOnly(long)
        self._note.setVisible(long)
        if long:
            sentence = self.tr("The first {0} of {1} characters; the text is too long to edit. Delete clears it.")
            self._note.setText(sentence.format(f"{EXCERPT:,}", f"{len(text):,}"))
        self._place_note()
        self._grow()

    def _replace(self, text: str) -> None:
        self._put(text)
        self.replacing = True
        self.edited.emit(text)
        self.replacing = False

    @Slot()
    def _changed(self) -> None:
        self._grow()
        if not self._quiet:
            self._given = None
            self.edited.emit(self._shown())

    def createMimeDataFromSelection(self) -> QMimeData:
        """Copied to the character, too."""
        data = super().createMimeDataFromSelection()  # one made here would outlive Python on the clipboard, and crash
        data.text()  # Qt fills it when it is asked first
        data.clear()
        data.setText(self.textCursor().selectedText().replace("\u2029", "\n"))
        return data

    def insertFromMimeData(self, source: QMimeData) -> None:
        """A pasted or dropped text, at the cursor; in place of one that cannot be edited."""
        text = source.text()
        if self._whole is not None:
            self._replace(text)
        elif len(text) > LONGEST_LINE:
            cursor, before = self.textCursor(), self._shown()
            # Positions count UTF-16 units.
            units = before.encode("utf-16-le", "surrogatepass")
            start, stop = (units[: 2 * cursor.selectionStart()], units[2 * cursor.selectionEnd() :])
            parts = (start.decode("utf-16-le", "surrogatepass"), text, stop.decode("utf-16-le", "surrogatepass"))
            self._replace("".join(parts))
        else:
            super().insertFromMimeData(source)
            if _is_too_long(whole := self._shown()):  # piece by piece
                self._put(whole)

    def event(self, event: QEvent) -> bool:
        """What was typed here is taken back here; where there is nothing left of it, Ctrl+Z is the window's."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            undoes, redoes = event.matches(QKeySequence.StandardKey.Undo), event.matches(QKeySequence.StandardKey.Redo)
            document = self.document()
            if (undoes and not document.isUndoAvailable()) or (redoes and not document.isRedoAvailable()):
                event.ignore()
                return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """A text that cannot be edited can be cleared and replaced."""
        if self._whole is not None and event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self._replace("")
        elif self._whole is not None and event.matches(QKeySequence.StandardKey.Paste):
            self.insertFromMimeData(QApplication.clipboard().mimeData())
        elif self._whole is None and event.matches(QKeySequence.StandardKey.InsertLineSeparator):
            self.insertPlainText("\n")  # Shift+Enter; Qt's own line separator is another character to the model
            self.ensureCursorVisible()
        else:
            super().keyPressEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_note()
        self._grow()

    def _place_note(self) -> None:
        """Below the text, in a margin of its own."""
        if self._note.isHidden():
            self.setViewportMargins(0, 0, 0, 0)
            return
        room = self.width() - 16
        height = self._note.heightForWidth(room) + 4
        self.setViewportMargins(0, 0, 0, height)
        self._note.setGeometry(8, self.height() - height - 4, room, height)

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


def _is_too_long(text: str) -> bool:
    """To be laid out and edited as it is."""
    lines = text.split("\n") if len(text) > min(LONGEST_LINE, MOST_LINES) else []
    return len(lines) > MOST_LINES or max(map(len, lines), default=0) > LONGEST_LINE
