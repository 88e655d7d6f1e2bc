"""What the draft becomes: its tokens, their number against the model's positions, the rendered prompt on demand."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from app.state import batch
from app.state.state import Draft
from app.theme import fonts
from app.widgets.token_chips import TokenChips

RENDERED_PX = 96
LONGEST_RENDERED = 50_000  # characters


class TokenSummary(QWidget):
    """Chips, count or error, and the prompt as the chat template renders it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.chips = TokenChips()
        self.count = QLabel()
        self.count.setTextFormat(Qt.TextFormat.PlainText)
        self.count.setWordWrap(True)
        self.count.setProperty("secondary", True)
        self.toggle = QPushButton(self.tr("Rendered prompt"))
        self.toggle.setCheckable(True)
        self.toggle.setProperty("link", True)
        self.toggle.setToolTip(self.tr("The text that the chat template makes of the turns"))
        self.toggle.toggled.connect(self._toggled)
        self.rendered = QPlainTextEdit()
        self.rendered.setReadOnly(True)
        self.rendered.setTabChangesFocus(True)
        self.rendered.setFont(fonts.mono(fonts.SMALL_PX))
        self.rendered.setFixedHeight(RENDERED_PX)
        self.rendered.setAccessibleName(self.tr("Rendered prompt"))
        self.rendered.hide()
        self._rendered_text = ""
        line = QHBoxLayout()
        line.addWidget(self.count, 1)
        line.addWidget(self.toggle)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.chips)
        box.addLayout(line)
        box.addWidget(self.rendered)

    def show_draft(self, draft: Draft, positions: int | None) -> None:
        """Tokens and count of the draft; until they are known again, the old ones, paler."""
        stale = draft.tokenized_generation != draft.generation
        self.chips.show_row(draft.tokenized, stale)
        error = draft.token_error is not None and not stale
        self.count.setText(self._sentence(draft, positions, error))
        if self.count.property("error") != error:
            self.count.setProperty("error", error)
            self.count.style().polish(self.count)
        in_chat = draft.tab == "chat" and draft.tokenized is not None
        self.toggle.setVisible(in_chat)
        self.rendered.setVisible(in_chat and self.toggle.isChecked())
        text = draft.tokenized.rendered if in_chat and draft.tokenized else ""
        if text != self._rendered_text:
            self._rendered_text = text
            left_out = self.tr("… {0} more characters").format(f"{len(text) - LONGEST_RENDERED:,}")
            shown = text if len(text) <= LONGEST_RENDERED else f"{text[:LONGEST_RENDERED]}\n{left_out}"
            self.rendered.setPlainText(shown)

    def _sentence(self, draft: Draft, positions: int | None, error: bool) -> str:
        if positions is None:
            return self.tr("Tokens appear here once a model is loaded.")
        if error and draft.token_error is not None:
            return draft.token_error.message
        if draft.tokenized is None:
            return ""
        count = len(draft.tokenized.token_ids)
        noun = self.tr("1 token") if count == 1 else self.tr("{0} tokens").format(f"{count:,}")
        if draft.tab == "batch":
            return self._batch(draft, noun)
        return self.tr("{0} of {1}").format(noun, f"{positions:,}")

    def _batch(self, draft: Draft, first: str) -> str:
        many, left_out = batch.count(draft.batch), batch.empty_lines(draft.batch)
        if not many:
            return ""
        said = (
            self.tr("1 prompt") if many == 1 else self.tr("{0} prompts, the first has {1}").format(f"{many:,}", first)
        )
        if left_out:
            said += self.tr("; empty lines left out: {0}").format(f"{left_out:,}")
        return said

    @Slot(bool)
    def _toggled(self, on: bool) -> None:
        self.rendered.setVisible(on)
