"""A field for text that is to stand at a place of the output, with a button that makes a branch of it."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.theme import fonts
from app.widgets.text_edit import TextEdit

LINES = (1, 5)


class EditBar(QWidget):
    """Hidden until `ask`; Ctrl+Enter or the button gives the text, Esc gives up."""

    given = Signal(int, str)  # position, text
    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._position = 0
        self.label = QLabel()
        self.label.setTextFormat(Qt.TextFormat.PlainText)
        self.label.setFont(fonts.ui(fonts.SMALL_PX))
        self.label.setProperty("secondary", True)
        self.field = TextEdit(LINES)
        self.field.setFont(fonts.mono(fonts.BODY_PX))
        self.field.setAccessibleName(self.tr("Text that stands here instead"))
        self.field.setAccessibleDescription(self.tr("Ctrl+Enter makes a branch of it, Esc gives up"))
        self.field.installEventFilter(self)
        self.field.setPlaceholderText(self.tr("Text that stands here instead; the model goes on after it"))
        self.go = QPushButton(self.tr("Branch"))
        self.go.setToolTip(self.tr("Make a branch with this text (Ctrl+Enter)"))
        self.go.clicked.connect(self._give)
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setToolTip(self.tr("Leave everything as it is (Esc)"))
        self.cancel.clicked.connect(self.leave)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.field, 1)
        row.addWidget(self.go, 0, Qt.AlignmentFlag.AlignBottom)
        row.addWidget(self.cancel, 0, Qt.AlignmentFlag.AlignBottom)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 8, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.label)
        box.addLayout(row)
        self.hide()

    def ask(self, position: int, label: str, text: str) -> None:
        """For the text at a position of the sequence, which so far is `text`."""
        self._position = position
        self.label.setText(label)
        self.field.show_text(text)
        self.show()
        self.field.setFocus(Qt.FocusReason.OtherFocusReason)
        self.field.selectAll()

    def leave(self) -> None:
        """Nothing is made of it."""
        self.hide()
        self.closed.emit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Esc and Ctrl+Enter mean this field while it has the focus, not the run."""
        if not isinstance(event, QKeyEvent):
            return False
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        gives = enter and event.modifiers() & Qt.KeyboardModifier.ControlModifier
        if not gives and event.key() != Qt.Key.Key_Escape:
            return False
        if event.type() == QEvent.Type.ShortcutOverride:
            event.accept()
        elif event.type() == QEvent.Type.KeyPress:
            self._give() if gives else self.leave()
        return True

    def _give(self) -> None:
        text = self.field.text()
        self.hide()
        self.given.emit(self._position, text)
        self.closed.emit()
