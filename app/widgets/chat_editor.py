"""The chat: a system message, the turns so far, the message being written. Every turn can be edited or removed."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from app.panels.panel import Dispatch
from app.state.intents import AddTurn, ClearChat, EditMessage, EditSystem, EditTurn, Regenerate, RemoveTurn
from app.state.state import Draft
from app.state.turns import turn_rows
from app.theme import fonts
from app.widgets.scroll_column import ScrollColumn
from app.widgets.text_edit import TextEdit
from app.widgets.token_chips import TokenChips
from core.contract import ChatMessage, PromptRow


class TurnEditor(QWidget):
    """One earlier turn: who spoke, what, and a button that removes it."""

    def __init__(self, dispatch: Dispatch, index: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self._index = index
        self.role = QLabel()
        self.role.setProperty("secondary", True)
        self.role.setFont(fonts.ui(fonts.SMALL_PX))
        self.remove = self._button("×", self.tr("Remove turn {0}").format(index + 1))
        self.remove.setToolTip(self.tr("Remove this turn"))
        self.again = self._button("↻", self.tr("Answer again from turn {0}").format(index + 1))
        self.again.setToolTip(self.tr("Answer again from here with other draws; later turns go (undo returns them)"))
        self.tokens = self._button("tokens", self.tr("Tokens of turn {0}").format(index + 1))
        self.tokens.setToolTip(self.tr("Show this turn as the model reads it"))
        self.tokens.setCheckable(True)
        self.chips = TokenChips(lines=3)
        self.chips.setAccessibleName(self.tr("Tokens of turn {0}").format(index + 1))
        self.chips.hide()
        self.text = TextEdit(lines=(1, 5))
        self.text.setAccessibleDescription(self.tr("An earlier turn of the chat, to be edited"))
        top = QHBoxLayout()
        top.addWidget(self.role)
        top.addStretch(1)
        top.addWidget(self.tokens)
        top.addWidget(self.again)
        top.addWidget(self.remove)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addLayout(top)
        box.addWidget(self.text)
        box.addWidget(self.chips)
        self.again.clicked.connect(lambda: dispatch(Regenerate(index)))
        self.tokens.toggled.connect(self.chips.setVisible)
        self.text.edited.connect(self._edited)
        self.remove.clicked.connect(self._removed)

    @staticmethod
    def _button(text: str, name: str) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setProperty("plain", True)
        button.setAccessibleName(name)
        return button

    def show_turn(self, turn: ChatMessage, tokens: PromptRow | None, stale: bool) -> None:
        """Show this turn and its tokens, if they are known."""
        self.chips.show_row(tokens, stale)
        self.tokens.setEnabled(tokens is not None)
        self.role.setText(turn.role)
        self.text.setAccessibleName(self.tr("Turn {0}, {1}").format(self._index + 1, turn.role))
        self.text.show_text(turn.content)

    @Slot(str)
    def _edited(self, text: str) -> None:
        self._dispatch(EditTurn(self._index, text))  # an emptied turn stays, and is not sent, until it is removed

    @Slot()
    def _removed(self) -> None:
        self._dispatch(RemoveTurn(self._index))


class ChatEditor(QWidget):
    """Emits edits of the chat; turn editors are reused from one state to the next."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self._turns: list[TurnEditor] = []
        self._count = 0
        self._tokenized: PromptRow | None = None
        self._rows_of: tuple[ChatMessage, ...] = ()
        self._rows: tuple[PromptRow | None, ...] = ()
        self.system = TextEdit(lines=(1, 3))
        self.system.setPlaceholderText(self.tr("System message, optional"))
        self.system.setAccessibleName(self.tr("System message"))
        self.system.setAccessibleDescription(self.tr("Instructions for the whole chat, optional"))
        self.message = TextEdit(lines=(2, 6))
        self.message.setPlaceholderText(self.tr("Your message. Ctrl+Enter sends it."))
        self.message.setAccessibleName(self.tr("Message"))
        self.message.setAccessibleDescription(self.tr("Your next message; Ctrl+Enter sends it"))
        self.add = QPushButton(self.tr("Add turn"))
        self.add.setProperty("link", True)
        self.add.setToolTip(self.tr("A turn to write by hand, of the other role than the last one"))
        self.add.clicked.connect(lambda: dispatch(AddTurn()))
        self.clear = QPushButton(self.tr("New chat"))
        self.clear.setToolTip(self.tr("Remove every turn (Ctrl+Z brings them back)"))
        self.clear.setProperty("link", True)
        self.area = ScrollColumn()
        self._list = QVBoxLayout()
        self._list.setSpacing(4)
        self.area.column.setContentsMargins(0, 0, 4, 0)
        self.area.column.addWidget(self.system)
        self.area.column.addLayout(self._list)
        self.area.column.addWidget(self.message)
        links = QHBoxLayout()
        links.setSpacing(16)
        links.addWidget(self.add)
        links.addWidget(self.clear)
        links.addStretch(1)
        self.area.column.addLayout(links)
        self.area.column.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.area)
        # The message field stays in view when turns are added above it, unless the user has scrolled up.
        self._at_end = True
        self.area.verticalScrollBar().valueChanged.connect(self._scrolled)
        self.area.verticalScrollBar().rangeChanged.connect(self._grown)
        self.system.edited.connect(lambda text: dispatch(EditSystem(text)))
        self.message.edited.connect(lambda text: dispatch(EditMessage(text, whole=self.message.replacing)))
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
        stale = draft.tokenized_generation != draft.generation
        if draft.tokenized is not self._tokenized or draft.turns != self._rows_of:
            self._tokenized, self._rows_of = draft.tokenized, draft.turns
            self._rows = turn_rows(draft.tokenized, draft.turns)
        for editor, turn, row in zip(self._turns, draft.turns, self._rows, strict=False):
            editor.show_turn(turn, row, stale)
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
