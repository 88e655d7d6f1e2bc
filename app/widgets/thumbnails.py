"""The layer × head overview: one small map a head, layers down, heads across, scrolled by layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QMenu, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import rgb, sequential
from app.theme.palette import LIGHT, Palette
from app.widgets.arrow_keys import claims_arrows
from app.widgets.heat_matrix import Floats, Scale, levels, packed
from app.widgets.text_cache import TextCache

LEFT_PX, TOP_PX, SCROLL_PX = 22, 16, 10  # layer numbers, head numbers, the scroll bar
FADED = 170  # of 255: how much of a muted head is covered
GAP_PX, SMALLEST_PX, SIZES_PX = 2, 8, (18, 34, 50)  # pitches: maps of 16 cells at 1, 2 or 3 px a cell

MOVES = {  # key → layers down, heads to the right
    Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0), Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """Pitch of the maps in px, and how many columns and rows fit."""

    pitch: int
    columns: int
    rows: int


def grid(width: int, height: int, heads: int, layers: int) -> Grid:
    """Maps as large as fit all heads across, whole pixels a cell where there is room; as many layers as fit down."""
    room = max(1, width - LEFT_PX - SCROLL_PX)
    fits = room // max(1, heads)
    pitch = max([size for size in SIZES_PX if size <= fits], default=max(SMALLEST_PX, fits))
    rows = max(1, min(layers, (height - TOP_PX) // pitch))
    return Grid(pitch, min(heads, max(1, room // pitch)), rows)


def wanted_width(heads: int, most: int) -> int:
    """The width that shows every head at the largest size that fits in `most` px; `most` when none does."""
    fits = [LEFT_PX + SCROLL_PX + heads * size for size in SIZES_PX]
    return max([width for width in fits if width <= most], default=most)


class Thumbnails(QAbstractScrollArea):
    """Maps by layer, given as they arrive; the vertical scroll bar counts layers, the horizontal one heads."""

    clicked = Signal(int, int)  # layer, head
    toggled = Signal(int, int)  # with Ctrl: into the set of chosen heads, or out of it
    muted = Signal(int, int)  # with Shift, M, or from the menu: mute a head, or let it speak again
    unmuted = Signal()  # from the menu: every head speaks again
    skipped = Signal(int, str)  # from the menu: attention or MLP of a layer, or no more
    visible_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._layers = self._heads = 0
        self._maps: dict[int, Floats] = {}
        self._images: dict[int, tuple[QImage, NDArray[np.uint32]]] = {}
        self._focus: tuple[int, int | None] = (0, None)
        self._chosen: tuple[int, ...] = ()
        self._kinds: Mapping[tuple[int, int], str] = {}
        self._muted: frozenset[tuple[int, int]] = frozenset()
        self._skips: frozenset[tuple[int, str]] = frozenset()
        self.tooltip: Callable[[int, int], str] = lambda layer, head: ""
        self._scale: Scale = "sqrt"
        self._grid = Grid(16, 1, 1)
        self._mono = TextCache(fonts.mono(fonts.SMALL_PX))
        self.set_palette(LIGHT)
        for bar in (self.verticalScrollBar(), self.horizontalScrollBar()):
            bar.valueChanged.connect(lambda _value: self.visible_changed.emit())

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._lut = packed(sequential(), rgb(palette.surface))
        self._recolour()

    def set_scale(self, scale: Scale) -> None:
        """How weights become colours."""
        if scale != self._scale:
            self._scale = scale
            self._recolour()

    def set_shape(self, layers: int, heads: int) -> bool:
        """The model's layers and heads; others than before forget the maps (True)."""
        if (layers, heads) == (self._layers, self._heads):
            return False
        self._layers, self._heads = layers, heads
        self.clear()
        self._fit()
        return True

    def clear(self) -> None:
        """No maps."""
        self._maps.clear()
        self._images.clear()
        self.viewport().update()

    def set_maps(self, layers: tuple[int, ...], maps: Floats) -> None:
        """(len(layers), H, size, size) weights; NaN where there is none."""
        for layer, of_layer in zip(layers, maps, strict=True):
            size = of_layer.shape[-1]
            causal = np.tril(np.ones((size, size), bool))  # both axes are pooled alike: above it no key was seen
            self._maps[layer] = np.where(causal, of_layer, np.float32(np.nan))
            self._images[layer] = self._strip(self._maps[layer])
        self.viewport().update()

    @property
    def maps(self) -> Mapping[int, Floats]:
        """Layer → (H, size, size) weights, of the layers that are there."""
        return self._maps

    def set_kinds(self, kinds: Mapping[tuple[int, int], str]) -> None:
        """A letter for some heads, by (layer, head): what they were found to do."""
        if kinds != self._kinds:
            self._kinds = kinds
            self.viewport().update()

    def set_muted(self, muted: frozenset[tuple[int, int]], skips: frozenset[tuple[int, str]] = frozenset()) -> None:
        """Dim and strike these heads, (layer, head), and all of a layer whose attention is skipped, (layer, part)."""
        if (muted, skips) != (self._muted, self._skips):
            self._muted, self._skips = muted, skips
            self.viewport().update()

    def set_focus(self, layer: int, head: int | None, chosen: tuple[int, ...] = ()) -> None:
        """Frame a head, several, or the whole layer, and bring it into view."""
        if (layer, head, chosen) == (*self._focus, self._chosen):
            return
        moved = layer != self._focus[0]
        self._focus, self._chosen = (layer, head), chosen
        if moved and not self.first <= layer < self.first + self._grid.rows:
            self.verticalScrollBar().setValue(layer - self._grid.rows // 2)
        self.viewport().update()

    @property
    def first(self) -> int:
        """The uppermost layer shown."""
        return self.verticalScrollBar().value()

    def visible_layers(self) -> range:
        """The layers shown."""
        return range(self.first, min(self._layers, self.first + self._grid.rows))

    def _strip(self, maps: Floats) -> tuple[QImage, NDArray[np.uint32]]:
        """One layer as an image, its heads side by side; the array keeps the image's memory alive."""
        heads, size, _ = maps.shape
        side_by_side = np.ascontiguousarray(maps.transpose(1, 0, 2).reshape(size, heads * size))
        pixels = np.ascontiguousarray(self._lut[levels(side_by_side, self._scale)])
        image = QImage(pixels.data, heads * size, size, pixels.strides[0], QImage.Format.Format_RGB32)
        return image, pixels

    def _recolour(self) -> None:
        self._images = {layer: self._strip(maps) for layer, maps in self._maps.items()}
        self.viewport().update()

    def _fit(self) -> None:
        self._grid = grid(self.width(), self.viewport().height(), self._heads, self._layers)
        for bar, total, shown in (
            (self.verticalScrollBar(), self._layers, self._grid.rows),
            (self.horizontalScrollBar(), self._heads, self._grid.columns),
        ):
            bar.setPageStep(shown)
            bar.setRange(0, max(0, total - shown))

    def resizeEvent(self, event: QEvent) -> None:
        """Fit the maps anew."""
        self._fit()
        self.visible_changed.emit()

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Whole layers are scrolled: paint again."""
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """Nine heads and a dozen layers at 18 px."""
        return QSize(LEFT_PX + 9 * 18, TOP_PX + 13 * 18)

    def minimumSizeHint(self) -> QSize:
        """A few maps."""
        return QSize(LEFT_PX + 4 * SMALLEST_PX, TOP_PX + 2 * SMALLEST_PX)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Numbers, maps, the frame of the focus."""
        painter = QPainter(self.viewport())
        painter.setPen(QColor(self._palette.secondary))
        pitch, mono = self._grid.pitch, self._mono
        every = -(-(mono.width("00") + 3) // pitch)
        heads = range(self.horizontalScrollBar().value(), self._heads)[: self._grid.columns]
        for column, head in enumerate(heads):
            if head % every == 0:
                x = LEFT_PX + (column + 0.5) * pitch - mono.width(str(head)) / 2
                mono.draw(painter, x, TOP_PX - 6, str(head))
        every = -(-mono.metrics.height() // (pitch + 2))
        for row, layer in enumerate(self.visible_layers()):
            y = TOP_PX + row * pitch
            if layer % every == 0:
                mono.draw_right(painter, LEFT_PX - 6, y + pitch / 2 - 1 + mono.rise, str(layer))
            self._paint_layer(painter, layer, heads, y)
        self._paint_focus(painter, heads)

    def _paint_layer(self, painter: QPainter, layer: int, heads: range, y: int) -> None:
        pitch = self._grid.pitch
        image = self._images.get(layer)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, pitch < SIZES_PX[0])
        if image is None:
            painter.setPen(QColor(self._palette.grid))
        for column in range(len(heads)):
            target = QRectF(LEFT_PX + column * pitch, y, pitch - GAP_PX, pitch - GAP_PX)
            if image is None:
                painter.drawRect(target.adjusted(0.5, 0.5, -0.5, -0.5))
                continue
            size = image[0].height()
            painter.drawImage(target, image[0], QRectF(heads[column] * size, 0, size, size))
        self._paint_muted(painter, layer, heads, y)
        painter.setPen(QColor(self._palette.secondary))
        for column, head in enumerate(heads):  # over the corner where no key was seen yet
            letter = self._kinds.get((layer, head), "")
            if letter and pitch >= SIZES_PX[0]:
                right = LEFT_PX + (column + 1) * pitch - GAP_PX - 1
                self._mono.draw_right(painter, right, y + 2 * self._mono.rise + 1, letter)

    def _paint_muted(self, painter: QPainter, layer: int, heads: range, y: int) -> None:
        """The map is still the head's own, but nobody hears it: faded, with a line through it."""
        faded, side = QColor(self._palette.surface), self._grid.pitch - GAP_PX
        faded.setAlpha(FADED)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for column, head in enumerate(heads):
            if (layer, head) in self._muted or (layer, "attention") in self._skips:
                x = LEFT_PX + column * self._grid.pitch
                painter.fillRect(QRectF(x, y, side, side), faded)
                painter.setPen(QPen(QColor(self._palette.error), 2))
                painter.drawLine(QPointF(x + 1, y + side - 1), QPointF(x + side - 1, y + 1))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)

    def _paint_focus(self, painter: QPainter, heads: range) -> None:
        layer, head = self._focus
        visible = self.visible_layers()
        if not self._maps or layer not in visible:
            return
        pitch = self._grid.pitch
        framed = self._chosen if head is None else (head,)
        boxes = [(h - heads.start, 1) for h in framed if h in heads] if framed else [(0, len(heads))]
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(self._palette.accent), 2))
        for column, count in boxes:
            left, top = LEFT_PX + column * pitch - 1, TOP_PX + (layer - visible.start) * pitch - 1
            painter.drawRoundedRect(QRectF(left, top, count * pitch, pitch), 2, 2)

    # mouse and keyboard

    def event(self, event: QEvent) -> bool:
        """Arrow keys move the focus here; in the window they select tokens."""
        return claims_arrows(event) or super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Focus a neighbour of the framed head; the space bar joins it to others, M mutes it."""
        if event.key() == Qt.Key.Key_M and self._focus[1] is not None:
            self.muted.emit(*self._focus)
            return
        if event.key() == Qt.Key.Key_Space and self._focus[1] is not None:
            self.toggled.emit(*self._focus)
            return
        down, right = MOVES.get(Qt.Key(event.key()), (0, 0))
        if not (down or right) or not self._layers:
            super().keyPressEvent(event)
            return
        layer, head = self._focus
        column = max(0, min(self._heads - 1, (0 if head is None else head + right)))
        self.clicked.emit(max(0, min(self._layers - 1, layer + down)), column)

    def head_at(self, x: float, y: float) -> tuple[int, int] | None:
        """(layer, head) at a point of the viewport."""
        row, column = int((y - TOP_PX) // self._grid.pitch), int((x - LEFT_PX) // self._grid.pitch)
        layer, head = self.first + row, self.horizontalScrollBar().value() + column
        inside = 0 <= row < len(self.visible_layers()) and 0 <= column < self._grid.columns and head < self._heads
        return (layer, head) if inside else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Focus a head; with Ctrl take it into the set, or out of it; with Shift mute it, or let it speak."""
        place = self.head_at(event.position().x(), event.position().y())
        if place and event.button() == Qt.MouseButton.LeftButton:
            several = event.modifiers() & Qt.KeyboardModifier.ControlModifier
            mutes = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
            (self.muted if mutes else self.toggled if several else self.clicked).emit(*place)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Mute the head under the pointer, or by keyboard the framed one."""
        place = self.head_at(event.pos().x(), event.pos().y())
        if event.reason() == QContextMenuEvent.Reason.Keyboard or place is None:
            place = None if self._focus[1] is None else (self._focus[0], self._focus[1])
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if place is not None:
            layer, head = place
            text = self.tr("Let head {0}.{1} speak") if place in self._muted else self.tr("Mute head {0}.{1}")
            menu.addAction(text.format(layer, head), lambda: self.muted.emit(layer, head))
        menu.addAction(self.tr("Let all heads speak"), self.unmuted.emit).setEnabled(bool(self._muted))
        if place is not None:
            layer = place[0]
            for part, name in (("attention", self.tr("attention")), ("mlp", self.tr("MLP"))):
                skips = (layer, part) in self._skips
                text = self.tr("Skip the {0} of layer {1} no more") if skips else self.tr("Skip the {0} of layer {1}")
                menu.addAction(text.format(name, layer), partial(self.skipped.emit, layer, part))
        menu.popup(event.globalPos())

    def viewportEvent(self, event: QEvent) -> bool:
        """Name the head under the pointer."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            place = self.head_at(event.pos().x(), event.pos().y())
            text = self.tooltip(*place) if place else ""
            QToolTip.showText(event.globalPos(), text, self.viewport())
            return True
        return super().viewportEvent(event)
