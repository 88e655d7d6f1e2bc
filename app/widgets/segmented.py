"""A choice between few words, all visible at once."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, Signal, Slot
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QWidget

from app.widgets.arrow_keys import claims_arrows


class Segmented(QWidget):
    """Emits `chosen(index)` when the user picks another segment; `show_choice` never emits."""

    chosen = Signal(int)

    def __init__(self, labels: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        self.group = QButtonGroup(self)
        for index, label in enumerate(labels):
            button = QPushButton(label)
            button.setCheckable(True)
            button.setAccessibleName(label)
            button.setProperty("segment", "first" if index == 0 else "last" if index == len(labels) - 1 else "middle")
            self.group.addButton(button, index)
            row.addWidget(button, 1)
        self.group.idClicked.connect(self._clicked)

    def setToolTip(self, text: str) -> None:
        super().setToolTip(text)
        for button in self.buttons():
            button.setToolTip(text)

    def show_choice(self, index: int) -> None:
        """Mark a segment as chosen."""
        self.group.button(index).setChecked(True)

    def buttons(self) -> list[QPushButton]:
        """The segments, in order."""
        return [b for b in self.group.buttons() if isinstance(b, QPushButton)]

    @Slot(int)
    def _clicked(self, index: int) -> None:
        self.chosen.emit(index)

    def event(self, event: QEvent) -> bool:
        return claims_arrows(event) or super().event(event)
