"""Text that is drawn again and again: shaped once. `QPainter.drawText` shapes it every time, at 3 to 50 µs."""

from __future__ import annotations

import re

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QStaticText, QTransform

SWATCH_GAP_PX = 2.5  # between a swatch and its name
MOST = 4096  # texts kept; all are forgotten beyond it
_COLOUR = re.compile("#[0-9a-f]{6}(?![0-9a-f])")  # a pixel, as core names it


class TextCache:
    """Plain texts in one font, with their widths. Use one cache for each transformation (rotated labels apart).

    swatches: the # of a colour such as #ff8000 is drawn as a square of that colour.
    """

    def __init__(self, font: QFont) -> None:
        self.font = font
        self.swatches = False
        self.metrics = QFontMetricsF(font)
        self.rise = self.metrics.capHeight() / 2  # from the middle of a line down to its base line
        self._ascent = self.metrics.ascent()
        self._texts: dict[str, QStaticText] = {}
        self._widths: dict[str, float] = {}
        self._elided: dict[tuple[str, int], str] = {}

    def draw(self, painter: QPainter, x: float, baseline: float, text: str) -> None:
        """Draw with the painter's pen; sets the painter's font."""
        coloured = self.swatches and "#" in text
        plain = _COLOUR.sub(_without_sign, text) if coloured else text
        shaped = self._texts.get(plain)
        if shaped is None:
            if len(self._texts) >= MOST:
                self._texts.clear()
            shaped = QStaticText(plain)
            shaped.setTextFormat(Qt.TextFormat.PlainText)
            shaped.prepare(QTransform(), self.font)
            self._texts[plain] = shaped
        painter.setFont(self.font)
        painter.drawStaticText(QPointF(x, baseline - self._ascent), shaped)
        if coloured:
            self._draw_swatches(painter, x, baseline, text)

    def _draw_swatches(self, painter: QPainter, x: float, baseline: float, text: str) -> None:
        pen, brush, cell = painter.pen(), painter.brush(), self.width("#") - SWATCH_GAP_PX
        for found in _COLOUR.finditer(text):
            left = x + self.width(text[: found.start()])
            painter.setPen(pen.color())
            painter.setBrush(QColor(found.group()))
            painter.drawRect(QRectF(left - 0.5, baseline - 2 * self.rise - 1.5, cell, 2 * self.rise + 2))
        painter.setPen(pen)
        painter.setBrush(brush)

    def draw_right(self, painter: QPainter, right: float, baseline: float, text: str) -> None:
        """Draw so that the text ends at `right`."""
        self.draw(painter, right - self.width(text), baseline, text)

    def width(self, text: str) -> float:
        """Advance width in px."""
        width = self._widths.get(text)
        if width is None:
            if len(self._widths) >= MOST:
                self._widths.clear()
            width = self._widths[text] = self.metrics.horizontalAdvance(text)
        return width

    def elided(self, text: str, room: float) -> str:
        """The text, cut with … at the end where it is wider than `room` px."""
        if self.width(text) <= room:
            return text
        key = (text, int(room))
        cut = self._elided.get(key)
        if cut is None:
            if len(self._elided) >= MOST:
                self._elided.clear()
            cut = self._elided[key] = self.metrics.elidedText(text, Qt.TextElideMode.ElideRight, int(room))
        return cut


def _without_sign(found: re.Match[str]) -> str:
    return f" {found.group()[1:]}"


def colour_of(piece: str) -> QColor | None:
    """The colour that a piece such as #ff8000 names."""
    return QColor(piece) if _COLOUR.fullmatch(piece) else None
