"""The constraint of the next run: its kind, and beneath it what is typed for that kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.theme import fonts
from app.widgets.choice import Choice
from app.widgets.text_edit import TextEdit
from core.contract import Grammar, GrammarKind

NONE = "none"


class ConstraintRow(QWidget):
    """Calls `changed(grammar)` with what the user wants; an empty text is one that is still being written."""

    def __init__(self, changed: Callable[[Grammar | None], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._changed = changed
        self._grammar: Grammar | None = None
        self.kind = Choice(self.tr("constraint"), self.tr("Constraint"), self._kind_chosen)
        self.kind.setToolTip(self.tr("What the generated text as a whole must be. Takes effect with the next run."))
        self.kind.set_options(
            (
                (NONE, self.tr("none")),
                ("regex", self.tr("regex")),
                ("json_schema", self.tr("JSON schema")),
                ("choice", self.tr("choice")),
            )
        )
        self.kind.show_key(NONE)
        self.text = TextEdit((1, 6))
        self.text.setFont(fonts.mono(fonts.SMALL_PX))
        self.text.setAccessibleName(self.tr("Constraint, text"))
        self.text.edited.connect(self._edited)
        self.text.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(12, 0, 8, 0)
        box.setSpacing(4)
        box.addWidget(self.kind, 0, Qt.AlignmentFlag.AlignLeft)
        box.addWidget(self.text)

    def show_grammar(self, grammar: Grammar | None) -> None:
        """Show the constraint in force; never calls back."""
        if grammar == self._grammar:
            return
        self._grammar = grammar
        self.kind.show_key(NONE if grammar is None else grammar.kind)
        self.text.setVisible(grammar is not None)
        if grammar is not None:
            hint = self._hints()[grammar.kind]
            self.text.setPlaceholderText(hint)
            self.text.setAccessibleDescription(hint)
            self.text.show_text(grammar.text)

    def _hints(self) -> dict[GrammarKind, str]:
        return {
            "regex": self.tr("A pattern for the whole text, such as (yes|no)"),
            "json_schema": self.tr("A JSON schema, such as {0}").format('{"type": "object"}'),
            "choice": self.tr("One text a line"),
        }

    def _kind_chosen(self, key: str) -> None:
        kind = next((kind for kind in get_args(GrammarKind) if kind == key), None)
        self._changed(None if kind is None else Grammar(kind, self.text.text()))

    @Slot(str)
    def _edited(self, text: str) -> None:
        if self._grammar is not None:
            self._changed(Grammar(self._grammar.kind, text))
