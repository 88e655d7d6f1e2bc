"""Numbers by position as an image: a row a head, a column a position, tokens above the columns where there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QScrollBar, QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import Rgb, diverging, indices, rgb, sequential
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import tick_step
from app.widgets.text_cache import TextCache

LEFT_PX, RIGHT_PX, BETWEEN_PX = 40, 8, 14
LABEL_CELL_PX, LABELS_PX, TICKS_PX = 13.0, 64, 18
LARGEST_CELL_PX, LARGEST_ROW_PX = 22.0, 18.0
BAR_PX = 8  # of the scroll bar
Floats = NDArray[np.float32]


class StripMap(QWidget):
    """Blocks of rows below each other over the same positions; emits the position that is clicked.

    Numbers that are NaN are gone: their cells are grey. Each block has its own colour scale, see `top`. Columns are as
    wide as tokens above them need, and scroll where they do not fit; `set_whole` squeezes all of them in.
    signed: numbers from -1 to 1, in the colours of differences.
    """

    clicked = Signal(int)

    def __init__(self, signed: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._signed = signed
        self._whole = signed
        self._blocks: tuple[tuple[str, Floats], ...] = ()
        self._images: list[QImage] = []
        self._labels: Sequence[str] = ()
        self._selected: int | None = None
        self._empty = ("", "")
        self._palette = LIGHT
        self._mono, self._upright = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.mono(fonts.SMALL_PX))
        self.tooltip: Callable[[int, int, int], str] = lambda block, row, position: ""
        self.bar = QScrollBar(Qt.Orientation.Horizontal, self)
        self.bar.setAccessibleName(self.tr("Positions shown"))
        self.bar.valueChanged.connect(self.update)
        self.bar.hide()
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

    def set_whole(self, whole: bool) -> None:
        """Whether all columns are squeezed in, rather than wide enough for their tokens."""
        self._whole = whole
        self._set_bar()
        self._bring_in()
        self.update()

    def show_blocks(self, blocks: Sequence[tuple[str, Floats]], labels: Sequence[str]) -> None:
        """Named blocks (rows, positions), and the token of each position."""
        self._blocks, self._labels = tuple(blocks), labels
        self._set_bar()
        self._paint_images()

    def set_selected(self, position: int | None) -> None:
        """The position that is framed."""
        if position != self._selected:
            self._selected = position
            self._bring_in()
            self.update()

    @property
    def positions(self) -> int:
        """Columns."""
        return self._blocks[0][1].shape[1] if self._blocks else 0

    def top(self, block: int) -> float:
        """What the brightest colour of a block stands for; the darkest is 0, or -1 of signed ones."""
        values = self._blocks[block][1]
        known = values[np.isfinite(values)]
        return 1.0 if self._signed or not len(known) else float(known.max())

    def lut(self) -> Rgb:
        """The colours."""
        return diverging(self._palette.dark) if self._signed else sequential()

    def _paint_images(self) -> None:
        self._images = []
        gone = np.array(rgb(self._palette.grid), np.uint8)
        for block, (_, values) in enumerate(self._blocks):
            shares = values / (self.top(block) or 1.0)
            pixels = self.lut()[indices((shares + 1) / 2 if self._signed else shares)]
            pixels[np.isnan(values)] = gone
            pixels = np.ascontiguousarray(pixels)
            height, width, _ = pixels.shape
            self._images.append(QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy())
        self.update()

    def sizeHint(self) -> QSize:
        """A few heads."""
        return QSize(360, 120)

    # geometry

    def _room_px(self) -> float:
        return max(8.0, self.width() - LEFT_PX - RIGHT_PX)

    def _cell_px(self) -> float:
        fitting = self._room_px() / max(1, self.positions)
        return min(LARGEST_CELL_PX, fitting if self._whole else max(fitting, LABEL_CELL_PX))

    def _labelled(self) -> bool:
        return self._cell_px() >= LABEL_CELL_PX

    def _left(self) -> float:
        """Where the first column begins, perhaps out of sight."""
        return LEFT_PX - float(self.bar.value())

    def _set_bar(self) -> None:
        """As long as the columns; what looks at the newest position goes on doing so."""
        most = max(0, round(self._cell_px() * self.positions - self._room_px()))
        newest = self.bar.value() == self.bar.maximum()
        self.bar.setRange(0, most)
        self.bar.setPageStep(int(self._room_px()))
        self.bar.setSingleStep(int(LABEL_CELL_PX) * 4)
        if newest and self._selected is None:
            self.bar.setValue(most)
        self.bar.setVisible(most > 0)
        self.bar.setGeometry(LEFT_PX, self.height() - BAR_PX, int(self._room_px()), BAR_PX)

    def _bring_in(self) -> None:
        """Scroll as far as needed for the selected position, with a few beside it."""
        if self._selected is None or self._selected >= self.positions:
            return
        cell, room, beside = self._cell_px(), self._room_px(), 3
        low, high = (self._selected - beside) * cell, (self._selected + 1 + beside) * cell
        if low < self.bar.value():
            self.bar.setValue(int(low))
        elif high > self.bar.value() + room:
            self.bar.setValue(int(high - room) + 1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another part of the columns fits."""
        self._set_bar()
        self._bring_in()

    def _row_px(self) -> float:
        rows = sum(len(values) for _, values in self._blocks)
        top = LABELS_PX if self._labelled() else TICKS_PX
        bar = BAR_PX if self.bar.maximum() else 0
        room: float = self.height() - top - bar - BETWEEN_PX * (len(self._blocks) - 1) - 2
        return max(1.0, min(LARGEST_ROW_PX, room / max(1, rows)))

    def _boxes(self) -> list[QRectF]:
        y, row, boxes = float(LABELS_PX if self._labelled() else TICKS_PX), self._row_px(), []
        for _, values in self._blocks:
            height = values.shape[0] * row
            boxes.append(QRectF(self._left(), y, self._cell_px() * self.positions, height))
            y += height + BETWEEN_PX
        return boxes

    def place_at(self, at: QPointF) -> tuple[int, int, int] | None:
        """(block, row, position) under a point."""
        if not LEFT_PX <= at.x() <= LEFT_PX + self._room_px():
            return None
        for block, box in enumerate(self._boxes()):
            if box.contains(at):
                rows = self._blocks[block][1].shape[0]
                row = min(rows - 1, int((at.y() - box.top()) / self._row_px()))
                return block, row, min(self.positions - 1, int((at.x() - self._left()) / self._cell_px()))
        return None

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Images, names, tokens or numbers above, the frame of the selected position."""
        painter = QPainter(self)
        if not self._blocks or not self.positions:
            paint_empty(painter, self.rect(), self._palette, *self._empty)
            return
        boxes, cell = self._boxes(), self._cell_px()
        painter.setPen(QColor(self._palette.secondary))
        for (name, _), box in zip(self._blocks, boxes, strict=True):
            self._mono.draw_right(painter, LEFT_PX - 6, box.center().y() + self._mono.rise, name)
        painter.setClipRect(QRectF(LEFT_PX - 2, 0, self._room_px() + 4, self.height()))
        for image, box in zip(self._images, boxes, strict=True):
            painter.drawImage(box, image)
        seen = range(
            max(0, int(self.bar.value() / cell)),
            min(self.positions, int((self.bar.value() + self._room_px()) / cell) + 1),
        )
        if self._labelled():
            self._paint_tokens(painter, cell, seen)
        else:
            self._paint_ticks(painter, cell, boxes[0].top())
        if self._selected is not None and self._selected < self.positions:
            painter.setPen(QPen(QColor(self._palette.accent), 2))
            left = self._left() + self._selected * cell
            for box in boxes:
                painter.drawRect(QRectF(left - 1, box.top() - 1, max(3.0, cell) + 1, box.height() + 2))

    def _paint_tokens(self, painter: QPainter, cell: float, seen: range) -> None:
        painter.setPen(QColor(self._palette.secondary))
        for position in seen:
            if position >= len(self._labels):
                break
            painter.save()
            painter.translate(self._left() + (position + 0.5) * cell, LABELS_PX - 4)
            painter.rotate(-90)
            label = self._upright.elided(self._labels[position], LABELS_PX - 6)
            self._upright.draw(painter, 0, self._upright.rise, label)
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

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Over the positions, sideways."""
        delta = event.angleDelta().x() or event.angleDelta().y()
        if self.bar.maximum() and delta:
            self.bar.setValue(self.bar.value() - delta // 2)
            event.accept()
        else:
            super().wheelEvent(event)

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
