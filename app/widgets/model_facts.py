"""What a model would take, before it is loaded: its numbers, the precisions, whether it fits."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from app.state.model_facts import Facts
from app.theme import fonts
from app.widgets.elided_label import ElidedLabel

HEADINGS = ("", "weights", "KV a token", "KV full")


class ModelFacts(QWidget):
    """Labels only; rebuilt when another model is looked at."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("What the model would take"))
        self.title = ElidedLabel()
        self.title.setFont(fonts.ui(bold=True))
        self.verdict = _label()
        self.verdict.setWordWrap(True)
        self.notes = _label(secondary=True)
        self.notes.setWordWrap(True)
        self._lines = QGridLayout()
        self._lines.setHorizontalSpacing(12)
        self._lines.setVerticalSpacing(4)
        self._lines.setColumnStretch(1, 1)
        self._table = QGridLayout()
        self._table.setHorizontalSpacing(16)
        self._table.setVerticalSpacing(4)
        self._table.setColumnStretch(len(HEADINGS), 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(10)
        box.addWidget(self.title)
        box.addLayout(self._lines)
        box.addLayout(self._table)
        box.addWidget(self.verdict)
        box.addWidget(self.notes)
        box.addStretch(1)

    def show_facts(self, facts: Facts) -> None:
        """Show these facts."""
        self._clear()
        self.title.setText(facts.title)
        for row, (name, value) in enumerate(facts.lines):
            self._lines.addWidget(_label(name, secondary=True), row, 0)
            shown = ElidedLabel(value)
            shown.setFont(fonts.mono())
            self._lines.addWidget(shown, row, 1)
        for column, heading in enumerate(HEADINGS if facts.precisions else ()):
            self._table.addWidget(_label(self.tr(heading) if heading else "", secondary=True), 0, column)
        for row, line in enumerate(facts.precisions, start=1):
            self._table.addWidget(_label(f"{line.dtype} ✓" if line.used else line.dtype, bold=line.used), row, 0)
            for column, text in enumerate((line.weights, line.per_token, line.full), start=1):
                self._table.addWidget(_label(text, mono=True), row, column, Qt.AlignmentFlag.AlignRight)
        self._say(facts.verdict, error=not facts.fits)
        self.notes.setText("\n".join(facts.notices))
        texts = [f"{name} {value}" for name, value in facts.lines]
        self.setAccessibleDescription(". ".join([facts.title, *texts, facts.verdict]))

    def show_sentence(self, title: str, text: str, *, error: bool = False) -> None:
        """A sentence in place of facts: what to do, that they are on their way, or why there are none."""
        self._clear()
        self.title.setText(title)
        self.notes.setText("")
        self._say(text, error=error)
        self.setAccessibleDescription(f"{title}. {text}" if title else text)

    def _say(self, text: str, *, error: bool) -> None:
        self.verdict.setText(text)
        self.verdict.setProperty("error", error)
        self.verdict.style().polish(self.verdict)

    def _clear(self) -> None:
        for grid in (self._lines, self._table):
            while (item := grid.takeAt(0)) is not None:
                widget = item.widget()
                if widget is not None:
                    widget.hide()
                    widget.deleteLater()


def _label(text: str = "", *, bold: bool = False, mono: bool = False, secondary: bool = False) -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setFont(fonts.mono() if mono else fonts.ui(bold=bold))
    label.setProperty("secondary", secondary)
    return label
