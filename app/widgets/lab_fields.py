"""The sizes of an experiment: a field each, side by side as far as they fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

from app.state.cache_lab import SIZES
from app.state.desk_intents import ExperimentSize
from app.widgets.value_field import ValueField
from core.contract import Experiment

FIELD_PX, WIDE_PX, SPACE_PX = 56, 128, 6


class LabFields(QWidget):
    """Calls `changed(name, text)` with what was typed; an empty field stands for the usual size."""

    def __init__(self, changed: Callable[[ExperimentSize, str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.fields: dict[ExperimentSize, ValueField] = {}
        self._labels: dict[ExperimentSize, QLabel] = {}
        self._asked: Experiment | None = None
        self._columns = 0
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(SPACE_PX)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        words: tuple[tuple[ExperimentSize, str, str], ...] = (
            ("new_tokens", self.tr("tokens"), self.tr("Tokens that are generated")),
            ("positions", self.tr("positions"), self.tr("Positions that are fed; the prompt is repeated")),
            ("chunk_sizes", self.tr("sizes"), self.tr("Positions fed at once, such as 8, 64, 256")),
            (
                "window",
                self.tr("window"),
                self.tr("Last positions that are kept; empty: half of the text"),
            ),
            ("sinks", self.tr("sinks"), self.tr("First positions that are kept beside a window")),
            (
                "heavy",
                self.tr("heavy"),
                self.tr("Positions kept for the attention they got; empty: a quarter"),
            ),
        )
        for name, text, tip in words:
            label, field = QLabel(text, self), ValueField(self)
            field.setAccessibleName(tip)
            field.setFixedWidth(WIDE_PX if name == "chunk_sizes" else FIELD_PX)
            field.setAlignment(Qt.AlignmentFlag.AlignRight)
            field.committed.connect(partial(changed, name))
            for widget in (label, field):
                widget.setToolTip(tip)
                widget.hide()
            self._labels[name], self.fields[name] = label, field

    def show_experiment(self, asked: Experiment) -> None:
        """Show its sizes; never calls back."""
        if asked == self._asked:
            return
        other = self._asked is None or asked.name != self._asked.name
        self._asked = asked
        usual = {
            "positions": "512" if asked.name == "chunks" else self.tr("all"),
            "chunk_sizes": self.tr("powers of 2"),
            "window": "1/2",
            "heavy": "1/4",
        }
        for name in SIZES[asked.name]:
            value = getattr(asked, name)
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
            self.fields[name].setPlaceholderText(usual.get(name, ""))
            self.fields[name].show_text(text)
        if other:
            self._columns = 0
            self._lay_out()

    def _lay_out(self) -> None:
        """As many pairs in a line as fit; they stand below each other in columns."""
        shown = () if self._asked is None else SIZES[self._asked.name]
        columns = len(shown)
        while columns > 1 and self._wanted(shown, columns) > self.width():
            columns = (columns + 1) // 2
        if columns == self._columns:
            return
        self._columns = columns
        for name, field in self.fields.items():
            for widget in (self._labels[name], field):
                self._grid.removeWidget(widget)
                widget.setVisible(name in shown)
        for place, name in enumerate(shown):
            row, column = divmod(place, max(1, columns))
            self._grid.addWidget(self._labels[name], row, 2 * column)
            self._grid.addWidget(self.fields[name], row, 2 * column + 1)
        for column in range(2 * len(self.fields) + 1):
            self._grid.setColumnStretch(column, 1 if column == 2 * columns else 0)
        self.updateGeometry()

    def _wanted(self, names: tuple[ExperimentSize, ...], columns: int) -> int:
        pairs = [self._labels[n].sizeHint().width() + self.fields[n].width() + 2 * SPACE_PX for n in names]
        return sum(max(pairs[column::columns]) for column in range(columns))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another width, perhaps another number of lines."""
        self._lay_out()

    def minimumSizeHint(self) -> QSize:
        """Any width will do."""
        return QSize(0, self._grid.minimumSize().height())
