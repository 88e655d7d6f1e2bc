"""Curves over the steps of a run, painted only where steps were added; a click selects a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyqtgraph.functions import arrayToQPath
from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import extent, tick_step
from app.widgets.series import SHORTEST, Axis, curve, nice_top, robust_top, tick_text, ticks
from app.widgets.text_cache import TextCache

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX, BETWEEN_PX = 46, 14, 17, 18, 28
LEAST_PX = 8  # of the height of a plot
Numbers = NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Series:
    """A column (a view, never a copy) and the factor that turns it into the unit of its lane."""

    values: Numbers
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One plot of the stack: its share of the height, its unit, and the series it shows (by position).

    caption: what the curves are, where no legend says it.
    robust: a few spikes may leave the plot at the top (marked there) instead of flattening the rest.
    signed: values below 0, too; 0 is in the middle.
    """

    share: int
    unit: str
    series: tuple[int, ...]
    robust: bool = False
    caption: str = ""
    signed: bool = False

    def y(self, box: QRectF, top: float, value: float) -> float:
        """Where a value stands in the plot `box`, whose upper edge is `top`."""
        if self.signed:
            return box.center().y() - box.height() / 2 * value / top
        return box.bottom() - box.height() * value / top

    def ticks(self, top: float, most: int) -> list[float]:
        """Round values on the axis."""
        if self.signed:
            return [-top, 0.0, top] if most > 1 else [0.0]
        return ticks(top, most)


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that changed from a step on."""

    index: int
    text: str


class SeriesPlot(QWidget):
    """A stack of plots over one step axis. The owner calls `show_steps` with the whole columns."""

    clicked = Signal(int)  # step; at or beyond the number of steps: right of the newest

    def __init__(self, lanes: tuple[Lane, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lanes = lanes
        self._series: tuple[Series, ...] = ()
        self._steps = 0
        self.shortest = SHORTEST  # steps on the axis at least
        self._tops = [1.0] * len(lanes)
        self._scaled_for = 0  # steps on the axis when the robust tops were chosen
        self._flags: tuple[Flag, ...] = ()
        self._selected: int | None = None
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._last_hover: int | None = None
        self.tooltip: Callable[[int], str] = lambda index: ""
        self.x_unit = self.tr("step")
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        between_px = BETWEEN_PX * (len(lanes) - 1)
        self.setMinimumHeight(TOP_PX + BOTTOM_PX + between_px + LEAST_PX * len(lanes))  # else the steps are cut off
        self.set_palette(LIGHT, ())

    def set_palette(self, palette: Palette, series_colours: tuple[str, ...]) -> None:
        """Colours of another theme; one a series."""
        self._palette = palette
        self._colours = tuple(QColor(c) for c in series_colours)
        self.update()

    def set_lanes(self, lanes: tuple[Lane, ...]) -> None:
        """Other units or shares for the same number of lanes."""
        if lanes != self._lanes:
            self._lanes = lanes
            self.update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is no step."""
        self._empty = (title, hint)
        self.update()

    @property
    def axis(self) -> Axis:
        """The step axis; it grows in jumps of an eighth, so that most steps only add to the picture."""
        steps = max(self.shortest, extent(self._steps))
        return Axis(LEFT_PX, max(1.0, self.width() - LEFT_PX - RIGHT_PX), steps)

    def show_steps(
        self, series: tuple[Series, ...], flags: tuple[Flag, ...], selected: int | None, restart: bool = False
    ) -> None:
        """Show all steps so far; only what is new is painted, unless an axis or a mark changed.

        restart: the steps are those of another run.
        """
        before, axis_before = 0 if restart else self._steps, self.axis
        rescaled = [s.scale for s in series] != [s.scale for s in self._series]
        self._series, self._steps = series, len(series[0].values) if series else 0
        grown = self._steps >= before > 0 and not rescaled
        changed = self._fit_tops(before if grown else 0) or not grown
        marks = flags != self._flags or selected != self._selected
        self._flags, self._selected = flags, selected
        if changed or marks or self.axis != axis_before:
            self.update()
        if changed or marks or self._steps == before:
            return
        left = int(self.axis.x(before - 1)) - 6  # the dot of the newest step stood there
        self.update(QRect(left, 0, self.width() - left, self.height()))

    def _fit_tops(self, seen: int) -> bool:
        """Raise the tops of the axes where new values need it; True if one changed."""
        tops = list(self._tops) if seen else [0.0] * len(self._lanes)
        rescale = not seen or self.axis.steps != self._scaled_for
        for i, lane in enumerate(self._lanes):
            for s in lane.series if self._series else ():
                values, scale = self._series[s].values, self._series[s].scale
                if lane.signed:
                    values = np.abs(values)
                if lane.robust:
                    if rescale:
                        tops[i] = robust_top(np.asarray(values * scale, np.float64))
                elif len(values) > seen:
                    new = values[seen:][np.isfinite(values[seen:])]
                    tops[i] = max(tops[i], nice_top(float((new * scale).max()))) if len(new) else tops[i]
        tops = [top or 1.0 for top in tops]
        self._scaled_for = self.axis.steps
        changed = tops != self._tops
        self._tops = tops
        return changed

    def sizeHint(self) -> QSize:
        """A flat strip."""
        return QSize(480, 160)

    # painting

    def _boxes(self) -> list[QRectF]:
        """The plots, top to bottom, x labels below the last one."""
        room = self.height() - TOP_PX - BOTTOM_PX - BETWEEN_PX * (len(self._lanes) - 1)
        total, y, boxes = sum(lane.share for lane in self._lanes), float(TOP_PX), []
        for lane in self._lanes:
            height = max(float(LEAST_PX), room * lane.share / total)
            boxes.append(QRectF(LEFT_PX, y, self.width() - LEFT_PX - RIGHT_PX, height))
            y += height + BETWEEN_PX
        return boxes

    def paintEvent(self, event: QPaintEvent) -> None:
        """Grid, curves, marks, inside the damaged rectangle."""
        painter = QPainter(self)
        rect = event.rect()
        painter.fillRect(rect, QColor(self._palette.surface))
        if not self._steps:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        painter.setClipRect(rect)
        axis, boxes = self.axis, self._boxes()
        for lane, box, top in zip(self._lanes, boxes, self._tops, strict=True):
            self._paint_grid(painter, lane, box, top, rect)
            for s in lane.series:
                self._paint_curve(painter, s, lane, box, top, axis, rect)
        self._paint_x_labels(painter, axis, boxes[-1].bottom())
        self._paint_flags(painter, axis)
        if self._selected is not None:
            painter.setPen(QPen(QColor(self._palette.accent), 2))
            x = axis.x(self._selected)
            painter.drawLine(QPointF(x, TOP_PX - 4), QPointF(x, boxes[-1].bottom()))

    def _paint_grid(self, painter: QPainter, lane: Lane, box: QRectF, top: float, rect: QRect) -> None:
        values = lane.ticks(top, min(5, max(1, int(box.height() // 22))))
        last: float | None = None  # labels from the top down: in a low plot the top is what tells the scale
        for value in reversed(values):
            y = round(lane.y(box, top, value)) + 0.5
            painter.setPen(QColor(self._palette.grid))
            painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))
            if rect.left() < LEFT_PX and (last is None or y - last >= 2 * self._mono.rise + 2):
                last = y
                painter.setPen(QColor(self._palette.secondary))
                self._mono.draw_right(painter, box.left() - 6, y + self._mono.rise, tick_text(value))
        painter.setPen(QColor(self._palette.secondary))
        if rect.left() < LEFT_PX:
            self._ui.draw_right(painter, box.left() - 6, box.top() - 7.5, lane.unit)
        if lane.caption and self._ui.width(lane.caption) <= box.width() + RIGHT_PX:
            self._ui.draw(painter, box.left(), box.top() - 7.5, lane.caption)

    def _paint_curve(
        self, painter: QPainter, series: int, lane: Lane, box: QRectF, top: float, axis: Axis, rect: QRect
    ) -> None:
        shown = self._series[series]
        index, value = curve(shown.values, axis, rect.left(), rect.right())
        if not len(index):
            return
        value = value * shown.scale
        zero = lane.y(box, top, 0.0)
        y = zero - np.clip(value, -top, top) * (zero - lane.y(box, top, top)) / top
        x = axis.left + (index + 0.5) * (axis.width / axis.steps)
        colour = self._colours[series]
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        # One device pixel, drawn once for each device pixel of a logical one: wide pens cost 50 times as much.
        painter.setPen(QPen(colour, 0))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        ratio = max(1, round(self.devicePixelRatioF()))
        for offset in range(ratio):
            painter.drawPath(arrayToQPath(x, y + offset / ratio, connect="finite"))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        for spike in x[value > top].tolist():
            tip = box.top() - 1
            painter.drawPolygon(QPolygonF([QPointF(spike - 3, tip), QPointF(spike + 3, tip), QPointF(spike, tip - 5)]))
        newest = float(shown.values[-1]) * shown.scale
        if np.isfinite(newest):
            at = QPointF(axis.x(self._steps - 1), lane.y(box, top, max(-top, min(newest, top))))
            painter.drawEllipse(at, 2.5, 2.5)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)

    def _paint_x_labels(self, painter: QPainter, axis: Axis, y: float) -> None:
        painter.setPen(QColor(self._palette.secondary))
        baseline = y + 14.0
        unit_px = self._ui.width(self.x_unit)
        end = axis.left + axis.width
        for index in range(0, axis.steps, tick_step(axis.width / axis.steps, 64.0)):
            text = str(index)
            width = self._mono.width(text)
            x = axis.x(index) - width / 2
            if x + width < end - unit_px - 8:
                self._mono.draw(painter, x, baseline, text)
        self._ui.draw(painter, end - unit_px, baseline, self.x_unit)

    def _paint_flags(self, painter: QPainter, axis: Axis) -> None:
        """A triangle where something changed, with its text where there is room."""
        places = [(axis.x(flag.index), flag.text) for flag in self._flags]
        for i, (x, text) in enumerate(places):
            painter.setPen(QPen(QColor(self._palette.grid), 1))
            painter.drawLine(QPointF(x, TOP_PX - 2), QPointF(x, self.height() - BOTTOM_PX))
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(self._palette.categorical[1]))
            painter.drawPolygon(QPolygonF([QPointF(x, 1), QPointF(x, 11), QPointF(x + 7, 6)]))
            painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
            end = places[i + 1][0] - 4 if i + 1 < len(places) else float(self.width())
            shown = self._ui.elided(text, end - x - 12)
            if len(shown) > 6 or shown == text:
                painter.setPen(QColor(self._palette.secondary))
                self._ui.draw(painter, x + 11, 6 + self._ui.rise, shown)

    # mouse

    def _index_at(self, x: float) -> int:
        return max(0, self.axis.index(x))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Select the step under the pointer."""
        if event.button() == Qt.MouseButton.LeftButton and self._steps:
            self.clicked.emit(self._index_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Scrub while pressed; else tell the numbers of the step."""
        if not self._steps:
            return
        index = self._index_at(event.position().x())
        if event.buttons() & Qt.MouseButton.LeftButton:
            self.clicked.emit(min(index, self._steps - 1))
        elif index != self._last_hover:
            self._last_hover = index
            text = self.tooltip(index) if index < self._steps else ""
            QToolTip.showText(event.globalPosition().toPoint(), text, self)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        self._last_hover = None
