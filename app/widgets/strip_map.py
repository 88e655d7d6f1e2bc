"""Numbers by position as an image: a row a head, a column a position, tokens above the columns where there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import indices, rgb, sequential
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import tick_step
from app.widgets.text_cache import TextCache

LEFT_PX, RIGHT_PX, BETWEEN_PX = 40, 8, 14
LABEL_CELL_PX, LABELS_PX, TICKS_PX = 12.0, 64, 18
LARGEST_CELL_PX, LARGEST_ROW_PX = 22.0, 18.0
Floats = NDArray[np.float32]


class StripMap(QWidget):
    """Blocks of rows below each other over the same positions; emits the position that is clicked.

    Numbers that are NaN are gone: their cells are grey. Each block has its own colour scale, from 0 to its maximum.
    """

    clicked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._blocks: tuple[tuple[str, Floats], ...] = ()
        self._images: list[QImage] = []
        self._labels: Sequence[str] = ()
        self._selected: int | None = None
        self._empty = ("", "")
        self._palette = LIGHT
        self._mono, self._upright = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.mono(fonts.SMALL_PX))
        self.tooltip: Callable[[int, int, int], str] = lambda block, row, position: ""
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._paint_images()

    def set_empty(self, title: str, hint: str) -> None:
        """What to say while there is nothing."""
        if (title, hint) != self._empty:
            self._empty = (title, hint)
            self.update()

    def show_blocks(self, blocks: Sequence[tuple[str, Floats]], labels: Sequence[str]) -> None:
        """Named blocks (rows, positions), and the token of each position."""
        self._blocks, self._labels = tuple(blocks), labels
        self._paint_images()

    def set_selected(self, position: int | None) -> None:
        """The position that is framed."""
        if position != self._selected:
            self._selected = position
            self.update()

    @property
    def positions(self) -> int:
        """Columns."""
        return self._blocks[0][1].shape[1] if self._blocks else 0

    def _paint_images(self) -> None:
        self._images = []
        gone = np.array(rgb(self._palette.grid), np.uint8)
        for _, values in self._blocks:
            known = values[np.isfinite(values)]
            top = float(known.max()) if len(known) else 1.0
            pixels = sequential()[indices(values / (top or 1.0))]
            pixels[np.isnan(values)] = gone
            pixels = np.ascontiguousarray(pixels)
            height, width, _ = pixels.shape
            self._images.append(QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy())
        self.update()

    def sizeHint(self) -> QSize:
        """A few heads."""
        return QSize(360, 120)

    # geometry

    def _cell_px(self) -> float:
        return min(LARGEST_CELL_PX, (self.width() - LEFT_PX - RIGHT_PX) / max(1, self.positions))

    def _labelled(self) -> bool:
        return self._cell_px() >= LABEL_CELL_PX

    def _row_px(self) -> float:
        rows = sum(len(values) for _, values in self._blocks)
        top = LABELS_PX if self._labelled() else TICKS_PX
        room: float = self.height() - top - BETWEEN_PX * (len(self._blocks) - 1) - 2
        return max(1.0, min(LARGEST_ROW_PX, room / max(1, rows)))

    def _boxes(self) -> list[QRectF]:
        y, row, boxes = float(LABELS_PX if self._labelled() else TICKS_PX), self._row_px(), []
        for _, values in self._blocks:
            height = values.shape[0] * row
            boxes.append(QRectF(LEFT_PX, y, self._cell_px() * self.positions, height))
            y += height + BETWEEN_PX
        return boxes

    def place_at(self, at: QPointF) -> tuple[int, int, int] | None:
        """(block, row, position) under a point."""
        for block, box in enumerate(self._boxes()):
            if box.contains(at):
                rows = self._blocks[block][1].shape[0]
                row = min(rows - 1, int((at.y() - box.top()) / self._row_px()))
                return block, row, min(self.positions - 1, int((at.x() - LEFT_PX) / self._cell_px()))
        return None

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Images, names, tokens or numbers above, the frame of the selected position."""
        painter = QPainter(self)
        if not self._blocks or not self.positions:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        boxes, cell = self._boxes(), self._cell_px()
        for (name, _), image, box in zip(self._blocks, self._images, boxes, strict=True):
            painter.drawImage(box, image)
            painter.setPen(QColor(self._palette.secondary))
            self._mono.draw_right(painter, LEFT_PX - 6, box.center().y() + self._mono.rise, name)
        if self._labelled():
            self._paint_tokens(painter, cell)
        else:
            self._paint_ticks(painter, cell, boxes[0].top())
        if self._selected is not None and self._selected < self.positions:
            painter.setPen(QPen(QColor(self._palette.accent), 2))
            left = LEFT_PX + self._selected * cell
            for box in boxes:
                painter.drawRect(QRectF(left - 1, box.top() - 1, max(3.0, cell) + 1, box.height() + 2))

    def _paint_tokens(self, painter: QPainter, cell: float) -> None:
        painter.setPen(QColor(self._palette.secondary))
        for position, label in enumerate(self._labels[: self.positions]):
            painter.save()
            painter.translate(LEFT_PX + (position + 0.5) * cell, LABELS_PX - 4)
            painter.rotate(-90)
            self._upright.draw(painter, 0, self._upright.rise, self._upright.elided(label, LABELS_PX - 6))
            painter.restore()

    def _paint_ticks(self, painter: QPainter, cell: float, top: float) -> None:
        painter.setPen(QColor(self._palette.secondary))
        for position in range(0, self.positions, tick_step(cell, 44.0)):
            self._mono.draw(painter, LEFT_PX + position * cell, top - 5, f"{position:,}")

    # mouse and keys

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Select the position under the pointer."""
        place = self.place_at(event.position())
        if place is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit(place[2])

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell the numbers under the pointer."""
        place = self.place_at(event.position())
        QToolTip.showText(event.globalPosition().toPoint(), "" if place is None else self.tooltip(*place), self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right go from position to position."""
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()))
        if step is None or not self.positions:
            super().keyPressEvent(event)
            return
        start = self.positions - 1 if self._selected is None else self._selected
        self.clicked.emit(max(0, min(self.positions - 1, start + step)))

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        QToolTip.hideText()
