"""Colour scales side by side: a name, the lowest number, the colours, the highest number."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from app.theme import fonts
from app.theme.colormaps import Rgb
from app.theme.palette import Palette
from app.widgets.legend import MapLegend

STRIP_PX = 40


class ScaleLine(QWidget):
    """One scale for each of `names`, shown as far as there are any."""

    def __init__(self, names: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        self.scales: list[tuple[QLabel, MapLegend]] = []
        for name in names:
            label, legend = QLabel(name), MapLegend(STRIP_PX)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setFont(fonts.ui(fonts.SMALL_PX))
            label.setProperty("secondary", True)
            row.addWidget(label)
            row.addWidget(legend)
            row.addSpacing(8)
            self.scales.append((label, legend))
        row.addStretch(1)
        self.show_scales((), None)

    def show_scales(self, shown: Sequence[tuple[Rgb, str, str]], palette: Palette | None) -> None:
        """Colours, lowest and highest number of the first so many names; the others are hidden."""
        for place, (label, legend) in enumerate(self.scales):
            for widget in (label, legend):
                widget.setVisible(place < len(shown))
            if place < len(shown) and palette is not None:
                legend.show_map(*shown[place], palette, label.text())
