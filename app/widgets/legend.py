"""Legends: what a colour stands for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette


def lut_image(lut: NDArray[np.uint8]) -> QImage:
    """A colour map as a strip of 256 × 1 pixels."""
    rgb = np.ascontiguousarray(lut, dtype=np.uint8)
    return QImage(rgb.tobytes(), len(rgb), 1, 3 * len(rgb), QImage.Format.Format_RGB888).copy()


class MapLegend(QWidget):
    """A colour map with the values at its ends."""

    def __init__(self, width_px: int = 96, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._strip_px = width_px
        self._font = fonts.mono(fonts.SMALL_PX)
        self._ends = ("0", "1")
        self._with_ends = True
        self._strip = QImage()
        self._palette = LIGHT
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def show_map(self, lut: NDArray[np.uint8], low: str, high: str, palette: Palette, meaning: str) -> None:
        """Show a map from `low` to `high`; `meaning` is the tooltip and the accessible text."""
        self._strip, self._ends, self._palette = lut_image(lut), (low, high), palette
        self.setToolTip(f"{meaning}: {low} – {high}")
        self.setAccessibleName(meaning)
        self.updateGeometry()
        self.update()

    def set_strip(self, width_px: int, with_ends: bool = True) -> None:
        """A longer or shorter strip, with the values at its ends or without (the tooltip has them)."""
        if (width_px, with_ends) != (self._strip_px, self._with_ends):
            self._strip_px, self._with_ends = width_px, with_ends
            self.updateGeometry()
            self.update()

    def sizeHint(self) -> QSize:
        """The strip and both ends."""
        if not self._with_ends:
            return QSize(self._strip_px, 18)
        metrics = QFontMetricsF(self._font)
        texts = sum(metrics.horizontalAdvance(text) for text in self._ends)
        return QSize(int(self._strip_px + texts + 14), 18)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Low end, strip, high end."""
        painter = QPainter(self)
        painter.setFont(self._font)
        painter.setPen(QColor(self._palette.secondary))
        metrics = QFontMetricsF(self._font)
        middle = self.height() / 2
        baseline = middle + metrics.capHeight() / 2
        x = metrics.horizontalAdvance(self._ends[0]) + 6 if self._with_ends else 0.0
        strip = QRectF(x, middle - 5, self._strip_px, 10)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(strip, self._strip)
        if self._with_ends:
            painter.drawText(QPointF(0, baseline), self._ends[0])
            painter.drawText(QPointF(x + self._strip_px + 6, baseline), self._ends[1])


class SwatchLegend(QWidget):
    """Names in the colours of their series, with a swatch before each (colour is never the only sign)."""

    def __init__(self, names: tuple[str, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names = names
        self._colours: tuple[QColor, ...] = tuple(QColor(Qt.GlobalColor.gray) for _ in names)
        self._font = fonts.ui(fonts.SMALL_PX)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(self.tr("Legend: {0}").format(", ".join(names)))

    def set_names(self, names: tuple[str, ...]) -> None:
        """Other words for the same series."""
        self._names = names
        self.setAccessibleName(self.tr("Legend: {0}").format(", ".join(names)))
        self.updateGeometry()
        self.update()

    def set_colours(self, *colours: str) -> None:
        """One colour a name."""
        self._colours = tuple(QColor(c) for c in colours)
        self.update()

    def sizeHint(self) -> QSize:
        """All names on one line."""
        metrics = QFontMetricsF(self._font)
        return QSize(int(sum(metrics.horizontalAdvance(n) + 22 for n in self._names)) - 10, 18)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A swatch and a name for each series."""
        painter = QPainter(self)
        painter.setFont(self._font)
        metrics = QFontMetricsF(self._font)
        middle, x = self.height() / 2, 0.0
        for name, colour in zip(self._names, self._colours, strict=True):
            painter.fillRect(QRectF(x, middle - 4, 8, 8), colour)
            painter.setPen(colour)
            painter.drawText(QPointF(x + 12, middle + metrics.capHeight() / 2), name)
            x += metrics.horizontalAdvance(name) + 22
