"""Bytes of the KV cache by layer, K and V apart: used solid, beyond the window lighter, allocated pale behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QSize, Qt
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import tick_step
from app.widgets.series import nice_top, ticks
from app.widgets.text_cache import TextCache
from core.contract import CacheReport

LEFT_PX, TOP_PX, BOTTOM_PX, RIGHT_PX = 34, 17, 18, 2
WIDEST_PX = 44.0  # a layer
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))

Ints = NDArray[np.int64]


def unit_of(size: float) -> tuple[float, str]:
    """The unit, as a number of bytes and a name, in which `size` is at least 1."""
    return next(((factor, name) for factor, name in UNITS if size >= factor), UNITS[-1])


def blend(colour: str, surface: str, share: float) -> QColor:
    """A colour thinned by the surface; opaque, because blending while painting costs ten times as much."""
    one, other = QColor(colour), QColor(surface)
    pairs = ((one.red(), other.red()), (one.green(), other.green()), (one.blue(), other.blue()))
    red, green, blue = (round(a * share + b * (1 - share)) for a, b in pairs)
    return QColor(red, green, blue)


def _beyond(report: CacheReport) -> tuple[Ints, Ints]:
    """Bytes of K and V that are held but not attended to any more, a layer each."""
    nothing = np.zeros_like(report.key_used_bytes)
    keys, values = report.key_beyond_bytes, report.value_beyond_bytes
    return (nothing if keys is None else keys, nothing if values is None else values)


class LayerBars(QWidget):
    """One group of bars a layer, on an axis in bytes that only ever grows during a run."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._report: CacheReport | None = None
        self._top = 1.0
        self._picture: tuple[float, int, bytes] = (0.0, 0, b"")
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._hovered: int | None = None
        self.tooltip: Callable[[int], str] = lambda layer: ""
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._solid = (QColor(palette.key), QColor(palette.value))
        self._half = (blend(palette.key, palette.surface, 0.5), blend(palette.value, palette.surface, 0.5))
        self._pale = (blend(palette.key, palette.surface, 0.16), blend(palette.value, palette.surface, 0.16))
        self.update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is no cache."""
        if (title, hint) != self._empty:
            self._empty = (title, hint)
            self.update()

    def show_report(self, report: CacheReport | None, top_bytes: int) -> None:
        """Show a step's bytes; `top_bytes` is the most that any bar of the run needs so far."""
        self._report = report
        self._top = nice_top(float(top_bytes))
        picture = self._heights()
        if picture != self._picture:  # in a long run most tokens add less than a pixel
            self._picture = picture
            self.update()

    def _heights(self) -> tuple[float, int, bytes]:
        """What the picture depends on: the axis and the heights of all bars in px."""
        if self._report is None:
            return 0.0, 0, b""
        r = self._report
        columns = (r.key_used_bytes, r.value_used_bytes, r.key_allocated_bytes, r.value_allocated_bytes, *_beyond(r))
        heights = np.round(np.stack(columns) * (self._height() / self._top)).astype(np.int64)
        return self._top, self.width(), heights.tobytes()

    def _height(self) -> int:
        return max(8, self.height() - TOP_PX - BOTTOM_PX)

    def sizeHint(self) -> QSize:
        """Thirty layers."""
        return QSize(360, 130)

    def _slot_px(self) -> float:
        layers = len(self._report.key_used_bytes) if self._report else 1
        return min(WIDEST_PX, max(1.0, self.width() - LEFT_PX - RIGHT_PX) / max(1, layers))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Grid, bars, layer numbers."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        report = self._report
        if report is None:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        height = float(self._height())
        self._paint_grid(painter, height)
        slot, bottom = self._slot_px(), TOP_PX + int(height)
        gap = 1.0 if slot < 6 else min(6.0, slot * 0.2)
        bar = (slot - gap) / 2
        beyond = _beyond(report)
        columns = (
            (0, report.key_used_bytes, report.key_allocated_bytes, beyond[0]),
            (1, report.value_used_bytes, report.value_allocated_bytes, beyond[1]),
        )
        for side, used, allocated, left in columns:
            for layer, (u, a, b) in enumerate(zip(used.tolist(), allocated.tolist(), left.tolist(), strict=True)):
                x = LEFT_PX + layer * slot + side * bar
                parts = ((a, self._pale[side]), (u, self._half[side]), (u - b, self._solid[side]))
                for size, colour in parts:
                    h = round(height * size / self._top)
                    painter.fillRect(round(x), bottom - h, max(round(x + bar - 1) - round(x), 1), h, colour)
        self._paint_layers(painter, len(report.key_used_bytes), slot)

    def _paint_grid(self, painter: QPainter, height: float) -> None:
        factor, name = unit_of(self._top)
        for value in ticks(self._top / factor, min(5, max(1, int(height // 26)))):
            y = round(TOP_PX + height - height * value * factor / self._top) + 0.5
            painter.setPen(QColor(self._palette.grid))
            painter.drawLine(QPointF(LEFT_PX, y), QPointF(self.width() - RIGHT_PX, y))
            painter.setPen(QColor(self._palette.secondary))
            self._mono.draw_right(painter, LEFT_PX - 6, y + self._mono.rise, f"{value:g}")
        self._ui.draw(painter, LEFT_PX, TOP_PX - 7.5, self.tr("{0} a layer").format(name))

    def _paint_layers(self, painter: QPainter, layers: int, slot: float) -> None:
        baseline = self.height() - BOTTOM_PX + 14.0
        unit = self.tr("layer")
        unit_px = self._ui.width(unit)
        end = float(self.width() - RIGHT_PX)
        painter.setPen(QColor(self._palette.secondary))
        self._ui.draw(painter, end - unit_px, baseline, unit)
        for layer in range(0, layers, tick_step(slot, 26.0)):
            width = self._mono.width(str(layer))
            x = LEFT_PX + (layer + 0.5) * slot - width / 2
            if x + width < end - unit_px - 6:
                self._mono.draw(painter, x, baseline, str(layer))

    # mouse

    def layer_at(self, x: float) -> int | None:
        """The layer at an x."""
        layers = len(self._report.key_used_bytes) if self._report else 0
        layer = int((x - LEFT_PX) // self._slot_px())
        return layer if 0 <= layer < layers else None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the bytes of the layer under the pointer."""
        layer = self.layer_at(event.position().x())
        if layer != self._hovered:
            self._hovered = layer
            text = "" if layer is None else self.tooltip(layer)
            QToolTip.showText(event.globalPosition().toPoint(), text, self)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        self._hovered = None
