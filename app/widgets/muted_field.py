"""The positions of the cache that no later token may look at: shown, and changed in place."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from app.theme import fonts
from app.widgets.value_field import ValueField
from core.contract import parse_positions, position_ranges


class MutedField(QWidget):
    """Calls `changed(positions)` with what was typed; what is no list of positions is said beside it."""

    def __init__(self, changed: Callable[[tuple[int, ...]], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._changed = changed
        label = QLabel(self.tr("muted positions"))
        label.setFont(fonts.ui(fonts.SMALL_PX))
        label.setProperty("secondary", True)
        self.field = ValueField()
        self.field.setFont(fonts.mono(fonts.SMALL_PX))
        self.field.setPlaceholderText("3, 5-7")
        self.field.setAccessibleName(self.tr("Muted positions"))
        tip = self.tr("Positions whose keys later tokens do not see, such as 3, 5-7; their keys stay in the cache")
        self.field.setToolTip(tip)
        self.field.setAccessibleDescription(tip)
        self.field.committed.connect(self._committed)
        self.problem = QLabel()
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.setFont(fonts.ui(fonts.SMALL_PX))
        self.problem.setProperty("error", True)
        self.problem.hide()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(label)
        row.addWidget(self.field, 1)
        row.addWidget(self.problem)

    def show_positions(self, positions: frozenset[int]) -> None:
        """Those in force from the next token on."""
        self.field.show_text(position_ranges(positions))

    def _committed(self, text: str) -> None:
        try:
            positions = parse_positions(text) if text.strip() else ()
        except ValueError:
            self.problem.setText(self.tr("Write positions such as 3, 5-7."))
            self.problem.show()
            return
        self.problem.hide()
        self._changed(positions)
