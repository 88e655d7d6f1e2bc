"""The watched tokens: what colour each has, how probable it is now, and a button that removes it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSize, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QToolButton, QWidget

from app.theme import fonts
from app.widgets.elided_label import ElidedLabel
from app.widgets.scroll_column import ScrollColumn

WIDTH_PX, ROW_PX, SWATCH_PX = 176, 24, 10


class Swatch(QWidget):
    """A square in the colour of a curve."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.colour = QColor()
        self.setFixedSize(SWATCH_PX, SWATCH_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The square."""
        QPainter(self).fillRect(QRectF(self.rect()), self.colour)


class PinRow(QWidget):
    """One token."""

    def __init__(self, owner: PinList, number: int) -> None:
        super().__init__()
        self.swatch = Swatch()
        self.text = ElidedLabel()
        self.text.setFont(fonts.mono(fonts.SMALL_PX))
        self.value = QLabel()
        self.value.setFont(fonts.mono(fonts.SMALL_PX))
        self.remove = QToolButton()
        self.remove.setText("×")
        self.remove.setProperty("plain", True)
        self.remove.setToolTip(self.tr("Watch this token no more"))
        self.remove.clicked.connect(lambda: owner.removed.emit(number))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        row.setSpacing(6)
        row.addWidget(self.swatch)
        row.addWidget(self.text, 1)
        row.addWidget(self.value)
        row.addWidget(self.remove)
        self.setFixedHeight(ROW_PX)

    def show_pin(self, text: str, value: str, colour: str, tip: str) -> None:
        """Show it as it is now."""
        if self.text.text() != text:
            self.text.setText(text)
            self.remove.setAccessibleName(self.tr("Watch {0} no more").format(text))
        if self.value.text() != value:
            self.value.setText(value)
        if self.swatch.colour.name().casefold() != colour.casefold():
            self.swatch.colour = QColor(colour)
            self.swatch.update()
        self.setToolTip(tip)
        self.setAccessibleName(f"{text} {value}")


class PinList(ScrollColumn):
    """Rows (text, value, colour, tooltip) in the order of the curves."""

    removed = Signal(int)  # its number in the list

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[PinRow] = []
        self.column.setSpacing(0)
        self.column.addStretch(1)

    def show_pins(self, pins: Sequence[tuple[str, str, str, str]]) -> None:
        """Show these."""
        while len(self.rows) > len(pins):
            row = self.rows.pop()
            self.column.removeWidget(row)
            row.hide()
            row.deleteLater()
        while len(self.rows) < len(pins):
            row = PinRow(self, len(self.rows))
            self.rows.append(row)
            self.column.insertWidget(len(self.rows) - 1, row)
        for row, pin in zip(self.rows, pins, strict=True):
            row.show_pin(*pin)

    def minimumSizeHint(self) -> QSize:
        """Two rows."""
        return QSize(0, 2 * ROW_PX)
