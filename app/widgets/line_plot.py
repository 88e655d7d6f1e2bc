"""Lines of points, one plot below the other, with one legend for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, log10

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.state.texts import tr
from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.series import nice_top, tick_text, ticks
from app.widgets.text_cache import TextCache

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX, LEGEND_PX = 44, 14, 20, 20, 16
LEAST_PX = 76  # of a plot with its texts
NEAR_PX = 12.0


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one name; `plot` counts the plots from the top."""

    name: str
    plot: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plot:
    """Title, unit of y, and what runs along x. log: y is shown on a logarithmic scale."""

    title: str
    unit: str
    x_name: str
    log: bool = False


@dataclass(frozen=True, slots=True)
class _Range:
    """x from low to high; y from floor to top, on a logarithmic scale where the floor is not 0."""

    low: float
    high: float
    top: float
    floor: float = 0.0

    def share(self, y: float) -> float:
        """How far up y is, in [0, 1]."""
        if not self.floor:
            return min(y / self.top, 1.0)
        return log10(min(max(y, self.floor), self.top) / self.floor) / log10(self.top / self.floor)

    def ticks(self, most: int) -> list[float]:
        """Round values from the floor to the top, few enough to be read."""
        if not self.floor:
            return ticks(self.top, most)
        decades = range(round(log10(self.floor)), round(log10(self.top)) + 1)
        step = -(-len(decades) // (most + 1))
        if 2 * len(decades) <= most:
            return [n * 10.0**decade for decade in decades[:-1] for n in (1, 3)] + [self.top]
        return [10.0**decade for decade in decades[::step]]


class LinePlot(QWidget):
    """Show the same plots again with more points: the colour of a name stays."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._plots: tuple[Plot, ...] = ()
        self._lines: tuple[Line, ...] = ()
        self._names: list[str] = []
        self._ranges: list[_Range] = []
        self._empty = ("", "")
        self._palette = LIGHT
        self._left = float(LEFT_PX)  # room for the values of y
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is nothing."""
        self._empty = (title, hint)
        self.update()

    def show_lines(self, plots: Sequence[Plot], lines: Sequence[Line]) -> None:
        """Plots without a point are left out."""
        used = sorted({line.plot for line in lines if len(line.x)})
        places = {plot: place for place, plot in enumerate(used)}
        self._plots = tuple(plots[plot] for plot in used)
        self._lines = tuple(Line(n.name, places[n.plot], n.x, n.y) for n in lines if n.plot in places)
        self._names = list(dict.fromkeys(line.name for line in self._lines))
        self._ranges = [self._range(place) for place in range(len(self._plots))]
        labels = [tick_text(value) for r in self._ranges for value in (*r.ticks(5), r.top)]
        self._left = max(LEFT_PX, 12 + max((self._mono.width(text) for text in labels), default=0.0))
        self.setMinimumHeight(LEAST_PX * max(1, len(self._plots)) + LEGEND_PX)
        self.update()

    def _range(self, plot: int) -> _Range:
        own = [line for line in self._lines if line.plot == plot]
        xs = [x for line in own for x in line.x]
        low, high = min(xs), max(xs)
        high = high if high > low else low + 1
        known = [y for line in own for y in line.y if y > 0]
        if self._plots[plot].log and known:
            least, most = floor(log10(min(known))), ceil(log10(max(known)))
            return _Range(low, high, 10.0 ** max(most, least + 1), 10.0**least)
        return _Range(low, high, nice_top(max(max(line.y) for line in own)))

    def sizeHint(self) -> QSize:
        """Two flat plots."""
        return QSize(480, 280)

    def colour(self, name: str) -> QColor:
        """Of a name, in every plot."""
        p = self._palette
        colours = (*p.categorical, p.text, p.warning)
        return QColor(colours[self._names.index(name) % len(colours)])

    def _dashed(self, name: str) -> bool:
        return self._names.index(name) >= len(self._palette.categorical)

    def _box(self, plot: int) -> QRectF:
        legend = LEGEND_PX * len(self._legend_lines())
        height = (self.height() - legend) / max(1, len(self._plots))
        top = legend + plot * height + TOP_PX
        return QRectF(
            self._left, top, max(8, self.width() - self._left - RIGHT_PX), max(8, height - TOP_PX - BOTTOM_PX)
        )

    def _place(self, plot: int, x: float, y: float) -> QPointF:
        box, r = self._box(plot), self._ranges[plot]
        return QPointF(
            box.left() + box.width() * (x - r.low) / (r.high - r.low), box.bottom() - box.height() * r.share(y)
        )

    def paintEvent(self, event: QPaintEvent) -> None:
        """Each plot: titles, grid, lines."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        if not self._lines:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        self._paint_legend(painter)
        for plot in range(len(self._plots)):
            self._paint_frame(painter, plot)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for line in self._lines:
            pen = QPen(self.colour(line.name), 1.5)
            if self._dashed(line.name):
                pen.setStyle(Qt.PenStyle.DashLine)
            painter.setPen(pen)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            points = [self._place(line.plot, x, y) for x, y in zip(line.x, line.y, strict=True)]
            painter.drawPolyline(QPolygonF(points))
            if len(points) < 24:
                painter.setBrush(self.colour(line.name))
                for point in points:
                    painter.drawEllipse(point, 2.0, 2.0)

    def _paint_frame(self, painter: QPainter, plot: int) -> None:
        box, r, facts = self._box(plot), self._ranges[plot], self._plots[plot]
        for value in r.ticks(min(5, max(1, int(box.height() // 22)))):
            y = round(box.bottom() - box.height() * r.share(value)) + 0.5
            painter.setPen(QColor(self._palette.grid))
            painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))
            painter.setPen(QColor(self._palette.secondary))
            self._mono.draw_right(painter, box.left() - 6, y + self._mono.rise, tick_text(value))
        title = facts.title if not facts.unit else f"{facts.title}, {facts.unit}"
        title = f"{title}, {tr('logarithmic')}" if facts.log else title
        painter.setPen(QColor(self._palette.text))
        self._ui.draw(painter, 0, box.top() - 7, self._ui.elided(title, self.width()))
        painter.setPen(QColor(self._palette.secondary))
        name_px = self._ui.width(facts.x_name)
        self._ui.draw(painter, box.right() - name_px, box.bottom() + 14, facts.x_name)
        for value in _round_values(r.low, r.high, max(4, int(box.width() // 90))):
            text = f"{value:,.0f}"
            x = self._place(plot, value, 0).x() - self._mono.width(text) / 2
            if x + self._mono.width(text) < box.right() - name_px - 8:
                self._mono.draw(painter, x, box.bottom() + 14, text)

    def _legend_lines(self) -> list[list[tuple[str, float]]]:
        """The names in lines as wide as the widget, each with its x."""
        lines: list[list[tuple[str, float]]] = [[]]
        x = 0.0
        for name in self._names:
            width = self._ui.width(name) + 24
            if lines[-1] and x + width > self.width():
                lines.append([])
                x = 0.0
            lines[-1].append((name, x))
            x += width
        return lines

    def _paint_legend(self, painter: QPainter) -> None:
        for row, line in enumerate(self._legend_lines()):
            baseline = LEGEND_PX * row + 11.0
            for name, x in line:
                painter.fillRect(QRectF(x, baseline - 7, 7, 7), self.colour(name))
                if self._dashed(name):
                    painter.fillRect(QRectF(x + 2, baseline - 7, 2, 7), QColor(self._palette.surface))
                painter.setPen(QColor(self._palette.secondary))
                self._ui.draw(painter, x + 11, baseline, name)

    def nearest(self, at: QPointF) -> tuple[Line, int] | None:
        """The point under the pointer."""
        found: tuple[float, Line, int] | None = None
        for line in self._lines:
            for index, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
                away = self._place(line.plot, x, y) - at
                distance = abs(away.x()) + abs(away.y())
                if distance < NEAR_PX and (found is None or distance < found[0]):
                    found = distance, line, index
        return None if found is None else found[1:]

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the numbers of the point under the pointer."""
        found = self.nearest(event.position())
        text = ""
        if found is not None:
            line, index = found
            facts = self._plots[line.plot]
            text = f"{line.name}\n{facts.x_name} {line.x[index]:,.0f}: {line.y[index]:.3g} {facts.unit}".strip()
        QToolTip.showText(event.globalPosition().toPoint(), text, self)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        QToolTip.hideText()


@lru_cache(maxsize=64)
def _round_values(low: float, high: float, most: int) -> tuple[float, ...]:
    """Round values inside [low, high], at most `most` + 1 of them."""
    step = 1.0
    while (high - low) / step > most:
        for factor in (2.0, 2.5, 2.0):
            step *= factor
            if (high - low) / step <= most:
                break
    first = int(-(-low // step))
    return tuple(n * step for n in range(first, int(high // step) + 1))
