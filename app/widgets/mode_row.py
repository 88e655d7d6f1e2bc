"""The mode of the next run, and what it needs besides parameters: phrases, a draft model, a negative prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app.state.modes import MODES, ModeChoice
from app.state.state import ModeTexts
from app.state.texts import tr
from app.widgets.choice import Choice
from app.widgets.text_edit import TextEdit

NOBODY = ""  # no draft model chosen yet


class ModeRow(QWidget):
    """Calls `chosen(key)` for a mode and `typed(field, text)` for what it needs."""

    def __init__(
        self, chosen: Callable[[str], None], typed: Callable[[str, str], None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._typed = typed
        self._shown: object = None
        self.mode = Choice("", self.tr("Decoding mode"), chosen)
        self.mode.set_options([(mode.key, tr(mode.title)) for mode in MODES])
        label = QLabel(self.tr("mode"))
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(label)
        line.addWidget(self.mode)
        line.addStretch(1)
        self.doc = QLabel()
        self.doc.setTextFormat(Qt.TextFormat.PlainText)
        self.doc.setWordWrap(True)
        self.doc.setProperty("secondary", True)
        self.assistant = Choice(self.tr("draft model"), self.tr("Draft model"), self._assistant_chosen)
        self.text = TextEdit((1, 5))
        self.text.edited.connect(self._edited)
        box = QVBoxLayout(self)
        box.setContentsMargins(12, 0, 8, 2)
        box.setSpacing(2)
        box.addLayout(line)
        box.addWidget(self.doc)
        box.addWidget(self.assistant, 0, Qt.AlignmentFlag.AlignLeft)
        box.addWidget(self.text)
        self._field = ""

    def show_mode(self, mode: ModeChoice, doc: str, texts: ModeTexts, models: Sequence[tuple[str, str]]) -> None:
        """Show the mode in force, what it will do, and its text; `models` could draft. Never calls back."""
        shown = (mode.key, doc, texts, tuple(models))
        if shown == self._shown:
            return
        self._shown, self._field = shown, mode.text
        self.mode.show_key(mode.key)
        self.mode.setToolTip(doc)
        self.doc.setText(doc)
        self.doc.setVisible(mode.key != "plain")
        self.assistant.setVisible(mode.text == "assistant")
        self.assistant.set_options([(NOBODY, self.tr("choose one…")), *models])
        self.assistant.show_key(texts.assistant or NOBODY)
        hint = {
            "force_words": self.tr("Phrases to be said, one a line, alternatives between |; begin with a space"),
            "negative": self.tr("Negative prompt; empty: the last token of the prompt alone"),
        }.get(mode.text, "")
        self.text.setVisible(bool(hint))
        self.text.setPlaceholderText(hint)
        self.text.setAccessibleName(self.tr("What the mode needs"))
        self.text.setAccessibleDescription(hint)
        self.text.show_text(getattr(texts, mode.text, None) or "" if mode.text else "")

    def _assistant_chosen(self, key: str) -> None:
        self._typed("assistant", key)

    def _edited(self, text: str) -> None:
        if self._field in ("force_words", "negative"):
            self._typed(self._field, text)
