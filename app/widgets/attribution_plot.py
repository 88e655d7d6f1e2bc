"""The parts of a logit: signed bars of attention and MLP over the layers, and below them every head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import diverging, rgb
from app.theme.palette import LIGHT, Palette
from app.widgets import numbers
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import tick_step
from app.widgets.step_text import quoted
from app.widgets.text_cache import TextCache
from core.contract import AttributionAnswer

LEFT_PX, TOP_PX, BOTTOM_PX, RIGHT_PX, BETWEEN_PX = 42, 17, 18, 4, 14
EXTRA_PX = 32  # at least, of the columns beside the layers: embedding first, bias and rounding last
HEADS_SHARE = 0.42
PARTS = (2, 3)  # colours of attention and MLP: not those of the map of signs


class AttributionPlot(QWidget):
    """Shows one `AttributionAnswer`; a click on a head tells which."""

    clicked = Signal(int, int)  # layer, head

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._answer: AttributionAnswer | None = None
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._hovered: object = None
        self.tooltip: Callable[[int, int | None], str] = lambda column, head: ""
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        ends, surface = diverging()[[0, 255]].astype(float), np.array(rgb(palette.surface), float)
        shares = np.linspace(-1.0, 1.0, 256)[:, None]  # nothing has the colour of the surface, in every theme
        mixed = np.where(shares < 0, ends[0], ends[1]) * np.abs(shares) + surface * (1 - np.abs(shares))
        self.signs = mixed.round().astype(np.uint8)  # (256, 3), for the legend, too
        self._signs = [QColor(*map(int, colour)) for colour in self.signs]
        self.update()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is no answer."""
        if (title, hint) != self._empty:
            self._empty = (title, hint)
            self.update()

    def show_answer(self, answer: AttributionAnswer | None) -> None:
        """Another logit, or none."""
        if answer is not self._answer:
            self._answer = answer
            self.update()

    def sizeHint(self) -> QSize:
        """Thirty layers."""
        return QSize(420, 240)

    @property
    def heads_scale(self) -> float:
        """What the strongest colour of a head stands for."""
        heads = None if self._answer is None else self._answer.heads[np.isfinite(self._answer.heads)]
        return 1.0 if heads is None or not heads.size else float(np.abs(heads).max()) or 1.0

    # geometry

    def _layers(self) -> int:
        return 0 if self._answer is None else len(self._answer.mlp)

    def _extra_px(self) -> float:
        """Width of a column beside the layers: room for its name."""
        return max(float(EXTRA_PX), (self.width() - LEFT_PX - RIGHT_PX) / (self._layers() + 3))

    def _column_px(self) -> float:
        """Width of a layer."""
        return (self.width() - LEFT_PX - RIGHT_PX - 3 * self._extra_px()) / max(1, self._layers())

    def _left_of(self, column: int) -> float:
        """Left edge of a column: -1 is the embedding, L the bias, L + 1 rounding."""
        inside = min(max(column, 0), self._layers())
        outside = (column >= 0) + max(0, column - self._layers())
        return LEFT_PX + inside * self._column_px() + outside * self._extra_px()

    def _boxes(self) -> tuple[QRectF, QRectF]:
        """The bars, and the heads below them."""
        room = self.height() - TOP_PX - BOTTOM_PX - BETWEEN_PX
        width = self.width() - LEFT_PX - RIGHT_PX
        bars = QRectF(LEFT_PX, TOP_PX, width, room * (1 - HEADS_SHARE))
        return bars, QRectF(LEFT_PX, bars.bottom() + BETWEEN_PX, width, room * HEADS_SHARE)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Axis, bars, heads."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(self._palette.surface))
        if self._answer is None:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        bars, heads = self._boxes()
        self._paint_bars(painter, self._answer, bars)
        self._paint_heads(painter, self._answer, heads)
        self._paint_labels(painter, self._answer, heads.bottom())

    def _paint_bars(self, painter: QPainter, answer: AttributionAnswer, box: QRectF) -> None:
        every = np.r_[answer.attention, answer.mlp, answer.between, answer.embedding, answer.bias, answer.rounding]
        top, low = max(0.0, float(every.max())), min(0.0, float(every.min()))
        scale, step = box.height() / max(top - low, 1e-6), self._column_px()
        zero = box.top() + top * scale
        painter.setPen(QColor(self._palette.grid))
        painter.drawLine(QPointF(box.left(), round(zero) + 0.5), QPointF(box.right(), round(zero) + 0.5))
        painter.setPen(QColor(self._palette.secondary))
        for value, y in ((top, box.top()), (0.0, zero), (low, box.bottom())):
            if value == 0.0 or abs(y - zero) > 14:
                text = signed(value) if value else "0"
                self._mono.draw_right(painter, box.left() - 6, y + self._mono.rise, text)
        title = self.tr("parts of the logit {0} of {1}").format(signed(answer.logit), quoted(answer.piece))
        self._ui.draw(painter, box.left(), box.top() - 7.5, self._ui.elided(title, box.width()))
        first, second = (QColor(self._palette.categorical[index]) for index in PARTS)
        neutral = QColor(self._palette.bar)

        def bar(x: float, width: float, value: float, colour: QColor) -> None:
            height = value * scale
            painter.fillRect(QRectF(x, zero - max(height, 0.0), max(1.0, width), abs(height)), colour)

        third, wide = max(1.0, (step - 2) / 3), self._extra_px() - 2
        rounded = QColor(self._palette.warning)
        for layer in range(len(answer.mlp)):
            x = self._left_of(layer) + 1
            bar(x, third, float(answer.attention[layer]), first)
            bar(x + third, third, float(answer.mlp[layer]), second)
            bar(x + 2 * third, third, float(answer.between[layer]), rounded)
        ends = ((-1, answer.embedding, neutral), (len(answer.mlp), answer.bias, neutral))
        for column, value, colour in (*ends, (len(answer.mlp) + 1, answer.rounding, rounded)):
            bar(self._left_of(column) + 1, wide, value, colour)

    def _paint_heads(self, painter: QPainter, answer: AttributionAnswer, box: QRectF) -> None:
        layers, heads = answer.heads.shape
        step, tall = self._column_px(), box.height() / max(1, heads)
        known = np.isfinite(answer.heads)
        levels = np.where(known, answer.heads / self.heads_scale, 0.0) * 127.5 + 127.5
        unknown = QBrush(QColor(self._palette.secondary), Qt.BrushStyle.BDiagPattern)
        for layer in range(layers):
            x = self._left_of(layer)
            for head in range(heads):
                cell = QRectF(x, box.top() + head * tall, step - 1, max(1.0, tall - 1))
                painter.fillRect(cell, self._signs[int(levels[layer, head])] if known[layer, head] else unknown)
        painter.setPen(QColor(self._palette.secondary))
        every = max(1, -(-14 // max(1, int(tall))))
        for head in range(0, heads, every):
            self._mono.draw_right(
                painter, self._left_of(0) - 4, box.top() + (head + 0.5) * tall + self._mono.rise, str(head)
            )
        self._ui.draw_right(painter, box.left() - 6, box.top() + 6 + self._ui.rise, self.tr("head"))

    def _paint_labels(self, painter: QPainter, answer: AttributionAnswer, y: float) -> None:
        step, layers, baseline = self._column_px(), len(answer.mlp), y + 14
        painter.setPen(QColor(self._palette.secondary))
        ends = ((-1, self.tr("emb")), (layers, self.tr("bias")), (layers + 1, self.tr("rnd")))
        for column, name in ends:
            middle = self._left_of(column) + self._extra_px() / 2
            self._ui.draw(painter, middle - self._ui.width(name) / 2, baseline, name)
        every = tick_step(step, 22.0)
        for layer in range(0, layers, every):
            text = str(layer)
            x = self._left_of(layer) + (step - self._mono.width(text)) / 2
            self._mono.draw(painter, x, baseline, text)
        self._ui.draw_right(painter, LEFT_PX - 4, baseline, self.tr("layer"))
        painter.setPen(QPen(QColor(self._palette.grid), 1))
        for column in (0, layers):
            x = round(self._left_of(column)) - 0.5
            painter.drawLine(QPointF(x, TOP_PX), QPointF(x, y))

    # mouse

    def place_at(self, x: float, y: float) -> tuple[int, int | None] | None:
        """(column, head) at a point; column -1 is the embedding, L the bias, L + 1 rounding. head None: a bar."""
        if self._answer is None:
            return None
        bars, heads = self._boxes()
        layers, count = self._answer.heads.shape
        column = next((c for c in range(layers + 1, -2, -1) if x >= self._left_of(c)), None)
        if column is None or x >= self.width() - RIGHT_PX:
            return None
        if heads.top() <= y < heads.bottom() and 0 <= column < layers:
            return column, min(count - 1, int((y - heads.top()) / (heads.height() / count)))
        return (column, None) if bars.top() <= y < bars.bottom() else None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the part under the pointer."""
        place = self.place_at(event.position().x(), event.position().y())
        if place != self._hovered:
            self._hovered = place
            QToolTip.showText(event.globalPosition().toPoint(), self.tooltip(*place) if place else "", self)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A head was chosen."""
        place = self.place_at(event.position().x(), event.position().y())
        if place is not None and place[1] is not None:
            self.clicked.emit(place[0], place[1])

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        self._hovered = None


def signed(value: float) -> str:
    """A part of a logit: `+0.52`, `−12.3`."""
    return f"{'+' if value >= 0 else '−'}{numbers.significant(abs(value))}"
