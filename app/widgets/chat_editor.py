"""The chat: a system message, the turns so far, the message being written. Every turn can be edited or removed."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from app.panels.panel import Dispatch
from app.state.intents import ClearChat, EditMessage, EditSystem, EditTurn
from app.state.state import Draft
from app.theme import fonts
from app.widgets.scroll_column import ScrollColumn
from app.widgets.text_edit import TextEdit
from core.contract import ChatMessage


class TurnEditor(QWidget):
    """One earlier turn: who spoke, what, and a button that removes it."""

    def __init__(self, dispatch: Dispatch, index: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self._index = index
        self.role = QLabel()
        self.role.setProperty("secondary", True)
        self.role.setFont(fonts.ui(fonts.SMALL_PX))
        self.remove = QToolButton()
        self.remove.setText("×")
        self.remove.setProperty("plain", True)
        self.remove.setToolTip(self.tr("Remove this turn"))
        self.remove.setAccessibleName(self.tr("Remove turn {0}").format(index + 1))
        self.text = TextEdit(lines=(1, 5))
        top = QHBoxLayout()
        top.addWidget(self.role)
        top.addStretch(1)
        top.addWidget(self.remove)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addLayout(top)
        box.addWidget(self.text)
        self.text.edited.connect(self._edited)
        self.remove.clicked.connect(self._removed)

    def show_turn(self, turn: ChatMessage) -> None:
        """Show this turn."""
        self.role.setText(turn.role)
        self.text.setAccessibleName(self.tr("Turn {0}, {1}").format(self._index + 1, turn.role))
        self.text.show_text(turn.content)

    @Slot(str)
    def _edited(self, text: str) -> None:
        if text.strip():  # an emptied turn stays until it is removed on purpose
            self._dispatch(EditTurn(self._index, text))

    @Slot()
    def _removed(self) -> None:
        self._dispatch(EditTurn(self._index, ""))


class ChatEditor(QWidget):
    """Emits edits of the chat; turn editors are reused from one state to the next."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self._turns: list[TurnEditor] = []
        self._count = 0
        self.system = TextEdit(lines=(1, 3))
        self.system.setPlaceholderText(self.tr("System message, optional"))
        self.system.setAccessibleName(self.tr("System message"))
        self.message = TextEdit(lines=(2, 6))
        self.message.setPlaceholderText(self.tr("Your message. Ctrl+Enter sends it."))
        self.message.setAccessibleName(self.tr("Message"))
        self.clear = QPushButton(self.tr("New chat"))
        self.clear.setProperty("link", True)
        self.area = ScrollColumn()
        self._list = QVBoxLayout()
        self._list.setSpacing(4)
        self.area.column.setContentsMargins(0, 0, 4, 0)
        self.area.column.addWidget(self.system)
        self.area.column.addLayout(self._list)
        self.area.column.addWidget(self.message)
        self.area.column.addWidget(self.clear, 0, Qt.AlignmentFlag.AlignLeft)
        self.area.column.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.area)
        # The message field stays in view when turns are added above it, unless the user has scrolled up.
        self._at_end = True
        self.area.verticalScrollBar().valueChanged.connect(self._scrolled)
        self.area.verticalScrollBar().rangeChanged.connect(self._grown)
        self.system.edited.connect(lambda text: dispatch(EditSystem(text)))
        self.message.edited.connect(lambda text: dispatch(EditMessage(text)))
        self.clear.clicked.connect(lambda: dispatch(ClearChat()))

    def show_draft(self, draft: Draft) -> None:
        """Follow the draft."""
        self.system.show_text(draft.system)
        self.message.show_text(draft.message)
        while len(self._turns) < len(draft.turns):
            editor = TurnEditor(self._dispatch, len(self._turns))
            self._turns.append(editor)
            self._list.addWidget(editor)
        for index, editor in enumerate(self._turns):
            editor.setVisible(index < len(draft.turns))
        for editor, turn in zip(self._turns, draft.turns, strict=False):
            editor.show_turn(turn)
        self.clear.setVisible(bool(draft.turns))
        self._count = len(draft.turns)

    def turns(self) -> list[TurnEditor]:
        """The editors of the turns shown."""
        return self._turns[: self._count]

    @Slot(int)
    def _scrolled(self, value: int) -> None:
        self._at_end = value >= self.area.verticalScrollBar().maximum() - 4

    @Slot(int, int)
    def _grown(self, least: int, most: int) -> None:
        if self._at_end:
            self.area.verticalScrollBar().setValue(most)
