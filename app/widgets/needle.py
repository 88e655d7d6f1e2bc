"""The draw: a cumulative bar of the final probabilities with a needle at the number that was drawn."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.candidate_rows import Segment
from app.widgets.text_cache import TextCache, colour_of
from app.widgets.visible_text import one_line

BAR_TOP_PX, BAR_PX, HEIGHT_PX, COMPACT_PX = 17, 16, 49, 34
SIDE_PX = 6


class DrawNeedle(QWidget):
    """Kept tokens side by side, widths their final probabilities, the chosen one in the accent colour."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._segments: tuple[Segment, ...] = ()
        self._u: float | None = None
        self._note = ""
        tokens = fonts.mono(fonts.SMALL_PX)
        tokens.setFamilies([fonts.MONO_FAMILY, fonts.UI_FAMILY])  # Inter has the whitespace marks
        self._mono, self._ui = TextCache(tokens), TextCache(fonts.ui(fonts.SMALL_PX))
        self._palette = LIGHT
        self._compact = False
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self.setFixedHeight(HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = on
            self.update()

    def set_compact(self, compact: bool) -> None:
        """Without the ends and the name of the axis."""
        self._compact = compact
        self.setFixedHeight(COMPACT_PX if compact else HEIGHT_PX)

    def show_draw(self, segments: tuple[Segment, ...], u: float | None, note: str) -> None:
        """Show a draw; without one (`u` is None) the bar is shown with `note` instead of the needle."""
        self._segments, self._u, self._note = segments, u, note
        self.update()

    def sizeHint(self) -> QSize:
        """Wide enough for a few labels."""
        return QSize(300, HEIGHT_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Bar, labels inside wide segments, needle, ends of the axis."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        if not self._segments:
            return
        left, width = float(SIDE_PX), self.width() - 2.0 * SIDE_PX
        painter.fillRect(QRectF(left, BAR_TOP_PX, width, BAR_PX), QColor(self._palette.grid))
        baseline = BAR_TOP_PX + BAR_PX / 2 + self._mono.rise
        accent, muted = QColor(self._palette.accent), QColor(self._palette.muted)
        for segment in self._segments:
            x, w = left + segment.start * width, (segment.stop - segment.start) * width
            if w < 0.5 and not segment.chosen:
                continue
            box = QRectF(x, BAR_TOP_PX, max(w - 1, 1.0), BAR_PX)
            colour = colour_of(segment.piece) if self._mono.swatches else None
            if colour is not None:
                self._paint_colour(painter, box, colour, segment.chosen)
                continue
            painter.fillRect(box, accent if segment.chosen else muted)
            if w > 12 and self._mono.width(text := one_line(segment.piece)) + 6 <= w:
                painter.setPen(QColor(self._palette.on_accent if segment.chosen else self._palette.text))
                self._mono.draw(painter, x + 3, baseline, text)
        painter.setPen(QColor(self._palette.secondary))
        if not self._compact:
            bottom = BAR_TOP_PX + BAR_PX + 12.0
            self._mono.draw(painter, left, bottom, "0")
            self._mono.draw_right(painter, left + width, bottom, "1")
            name = self._ui.elided(self.tr("cumulative final probability, kept tokens"), self.width() - 48)
            self._ui.draw(painter, (self.width() - self._ui.width(name)) / 2, bottom, name)
        if self._u is not None:
            self._paint_needle(painter, left, width, self._u)
        else:
            self._ui.draw(painter, left, BAR_TOP_PX - 5, self._note)

    def _paint_colour(self, painter: QPainter, box: QRectF, colour: QColor, chosen: bool) -> None:
        """A segment that is a colour; the chosen one is framed."""
        painter.fillRect(box, colour)
        px = 2 if chosen else 1
        painter.setPen(QPen(QColor(self._palette.accent if chosen else self._palette.line), px))
        painter.drawRect(box.adjusted(px / 2, px / 2, -px / 2, -px / 2))

    def _paint_needle(self, painter: QPainter, left: float, width: float, u: float) -> None:
        x = left + u * width
        colour = QColor(self._palette.text)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(colour, 1.5))
        painter.drawLine(QPointF(x, BAR_TOP_PX - 2), QPointF(x, BAR_TOP_PX + BAR_PX + 2))
        painter.setBrush(colour)
        painter.setPen(Qt.PenStyle.NoPen)
        tip = BAR_TOP_PX - 1.0
        painter.drawPolygon(QPolygonF([QPointF(x - 4, tip - 5), QPointF(x + 4, tip - 5), QPointF(x, tip)]))
        painter.setPen(colour)
        label = f"u = {u:.3f}"
        needed = self._mono.width(label)
        x_label = x + 8 if x + 8 + needed <= left + width else x - 8 - needed
        self._mono.draw(painter, x_label, BAR_TOP_PX - 5, label)
