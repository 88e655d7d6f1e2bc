"""The canvas: one picture, a square a pixel, with the line between what is given and what is painted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QToolTip, QWidget

from app.widgets.arrow_keys import claims_arrows
from app.widgets.picture_view import PictureView, Pixels, image_of

Use = Literal["look", "give", "draw"]

MARGIN_PX = 14  # at the sides, for the handle and the dot
KNOB_PX = 5.0
NEAR_PX = 7.0  # the line can be taken hold of so far away
SMALLEST_PX, LARGEST_PX = 96, 2000


class PixelCanvas(PictureView):
    """Draws one image, whatever happens to it; marks are lines over it.

    Pixels are numbered row by row. use: what a press means: select a pixel, say what is given, or draw.
    """

    clicked = Signal(int)  # a pixel
    hovered = Signal(int)  # the pixel under the pointer, -1 for none
    dragged = Signal(int)  # so many pixels are given
    stroked = Signal(int, bool)  # a pixel was drawn; whether it begins a stroke

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._image = QImage()
        self._pixels: Pixels | None = None
        self._shape = (0, 0)
        self.use: Use = "look"
        self._given: int | None = None
        self._selected: int | None = None
        self._pinned = False
        self._hover: int | None = None
        self._cursor = 0  # in draw, by keyboard
        self.reach: range | None = None  # pixels that keys can select; None: all
        self._ahead: int | None = None  # where keys have gone since the marks were last told
        self._holding = False  # the line, or the pencil
        self.tooltip: Callable[[int], str] = lambda pixel: ""
        self.setMouseTracking(True)

    def set_use(self, use: Use) -> None:
        """What a press means from now on."""
        if use != self.use:
            self.use, self._holding = use, False
            self.setCursor(Qt.CursorShape.CrossCursor if use == "draw" else Qt.CursorShape.ArrowCursor)
            self.update()

    def show_pixels(self, pixels: Pixels | None) -> None:
        """Show (H, W) words; the array must stay as it is until the next call."""
        if pixels is None:
            self._pixels, self._image, self._shape = None, QImage(), (0, 0)
        else:
            self._pixels, self._shape = np.ascontiguousarray(pixels), (pixels.shape[0], pixels.shape[1])
            self._image = image_of(self._pixels)
        self.update()

    def set_marks(self, given: int | None, selected: int | None, pinned: bool) -> None:
        """Pixels given; the pixel that is shown elsewhere, framed when it was selected, a dot when it is the newest."""
        self._ahead = None
        if (given, selected, pinned) != (self._given, self._selected, self._pinned):
            self._given, self._selected, self._pinned = given, selected, pinned
            self.update()

    @property
    def count(self) -> int:
        """Pixels of the picture."""
        return self._shape[0] * self._shape[1]

    def picture(self) -> QImage:
        """What is drawn, a pixel a pixel."""
        return self._image

    # places

    def cell_px(self) -> float:
        """The side of a pixel; whole where there is room."""
        height, width = self._shape
        room = min((self.width() - 2 * MARGIN_PX) / max(1, width), (self.height() - 4) / max(1, height))
        return float(int(room)) if room >= 3 else max(room, 0.5)

    def frame(self) -> QRectF:
        """Where the picture lies."""
        height, width = self._shape
        cell = self.cell_px()
        left = (self.width() - cell * width) / 2
        top = max(2.0, (self.height() - cell * height) / 2)
        return QRectF(int(left), int(top), cell * width, cell * height)

    def pixel_at(self, point: QPointF) -> int | None:
        """The pixel under a point."""
        box, cell = self.frame(), self.cell_px()
        if not self.count or not box.contains(point):
            return None
        height, width = self._shape
        row = min(height - 1, int((point.y() - box.top()) / cell))
        return row * width + min(width - 1, int((point.x() - box.left()) / cell))

    def pixel_rect(self, pixel: int) -> QRectF:
        """The square of a pixel."""
        box, cell = self.frame(), self.cell_px()
        row, column = divmod(pixel, max(1, self._shape[1]))
        return QRectF(box.left() + column * cell, box.top() + row * cell, cell, cell)

    def _row_line(self, point: QPointF) -> int:
        """Pixels above the line between rows that is nearest to a point."""
        height, width = self._shape
        row = round((point.y() - self.frame().top()) / self.cell_px())
        return max(0, min(height, row)) * width

    def _on_line(self, point: QPointF) -> bool:
        """Whether the line, or its knob, is under a point."""
        if self._given is None or self.use != "give" or not self.count:
            return False
        box, cell, width = self.frame(), self.cell_px(), self._shape[1]
        row, column = divmod(self._given, width)
        y = box.top() + (row + (1 if column and point.x() < box.left() + column * cell else 0)) * cell
        reach = NEAR_PX if point.x() < box.left() or point.x() > box.right() else min(NEAR_PX, cell / 3)
        return abs(point.y() - y) <= reach

    # painting

    def sizeHint(self) -> QSize:
        """A picture that can be looked at."""
        return QSize(360, 340)

    def minimumSizeHint(self) -> QSize:
        """A small one."""
        return QSize(SMALLEST_PX + 2 * MARGIN_PX, SMALLEST_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The picture, the line, the marks."""
        painter = QPainter(self)
        self.fill(painter, event.rect())
        if self._image.isNull():
            self.paint_message(painter)
            return
        box = self.frame()
        painter.setPen(QColor(self._palette.line))
        painter.drawRect(box.adjusted(-1, -1, 0, 0))
        painter.drawImage(box, self._image)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._given is not None:
            self._paint_line(painter, box, self._given)
        if self._hover is not None:
            self._frame_pixel(painter, self._hover, QColor(self._palette.text), 1)
        if self.use == "draw" and self.hasFocus():
            self._frame_pixel(painter, self._cursor, QColor(self._palette.accent), 2)
        if self._selected is not None and self.use == "look":
            if self._pinned:
                self._frame_pixel(painter, self._selected, QColor(self._palette.accent), 2)
            else:
                self._paint_dot(painter, self._selected)

    def _frame_pixel(self, painter: QPainter, pixel: int, colour: QColor, px: int) -> None:
        """A frame with a thin line of the surface inside and outside, so that it is seen on every colour."""
        box = self.pixel_rect(pixel).adjusted(-1, -1, 1, 1)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(self._palette.surface), px + 2))
        painter.drawRect(box)
        painter.setPen(QPen(colour, px))
        painter.drawRect(box)

    def _paint_dot(self, painter: QPainter, pixel: int) -> None:
        centre, radius = self.pixel_rect(pixel).center(), min(3.5, max(1.5, self.cell_px() / 4))
        painter.setPen(QPen(QColor(self._palette.surface), 1.5))
        painter.setBrush(QColor(self._palette.accent))
        painter.drawEllipse(centre, radius, radius)

    def _paint_line(self, painter: QPainter, box: QRectF, given: int) -> None:
        """Below the last row that is given; where a row is given in part, with a step."""
        cell = self.cell_px()
        row, column = divmod(given, self._shape[1])
        high, low, x = box.top() + row * cell, box.top() + (row + 1) * cell, box.left() + column * cell
        points = [QPointF(box.left(), high), QPointF(box.right(), high)]
        if column:
            points = [QPointF(box.left(), low), QPointF(x, low), QPointF(x, high), QPointF(box.right(), high)]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for colour, px in ((self._palette.surface, 4.0), (self._palette.accent, 2.0)):
            painter.setPen(QPen(QColor(colour), px))
            painter.drawPolyline(QPolygonF(points))
        if self.use == "give":
            painter.setPen(QPen(QColor(self._palette.surface), 1.5))
            painter.setBrush(QColor(self._palette.accent))
            for end, side in ((points[0], -1), (points[-1], 1)):
                painter.drawEllipse(end + QPointF(side * (KNOB_PX + 2), 0), KNOB_PX, KNOB_PX)

    # mouse

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the line, draw, or look at what is under the pointer."""
        point = event.position()
        pixel = self.pixel_at(point)
        if self._holding:
            if self.use == "give":
                self.dragged.emit(self._row_line(point))
            elif pixel is not None and pixel != self._hover:
                self.stroked.emit(pixel, False)
        elif self.use == "give":
            near = self._on_line(point)
            self.setCursor(Qt.CursorShape.SizeVerCursor if near else Qt.CursorShape.ArrowCursor)
        if pixel != self._hover:
            self._hover = pixel
            self.hovered.emit(-1 if pixel is None else pixel)
            text = "" if pixel is None or self._holding else self.tooltip(pixel)
            QToolTip.showText(event.globalPosition().toPoint(), text, self)
            self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take hold of the line, begin a stroke, or choose a pixel."""
        if event.button() != Qt.MouseButton.LeftButton or not self.count:
            return
        pixel = self.pixel_at(event.position())
        if self._on_line(event.position()):
            self._holding = True
        elif pixel is not None and self.use == "draw":
            self._holding, self._cursor = True, pixel
            self.stroked.emit(pixel, True)
        elif pixel is not None and self.use == "give":
            self.dragged.emit(pixel)
        elif pixel is not None:
            self.clicked.emit(pixel)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go."""
        self._holding = False

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is under the pointer."""
        self._hover = None
        self.hovered.emit(-1)
        self.update()

    # keyboard

    def event(self, event: QEvent) -> bool:
        """Arrow keys are for the pixels here; in the window they select tokens."""
        return claims_arrows(event) or super().event(event)

    def _within_reach(self, wanted: int, at: int) -> int:
        """Home and End go as far as there is something to select, arrows stay where there is nothing."""
        reach = self.reach or range(at, at + 1)
        if wanted in reach:
            return wanted
        return {0: reach[0], self.count - 1: reach[-1]}.get(wanted, at)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go to a neighbour, Home and End to the first and last; Space draws."""
        key, width = Qt.Key(event.key()), self._shape[1]
        if self.use == "draw" and key in (Qt.Key.Key_Space, Qt.Key.Key_Return):
            self.stroked.emit(self._cursor, True)
            return
        marked = {"look": self._selected, "give": self._given, "draw": self._cursor}[self.use]
        at = marked if self._ahead is None else self._ahead
        last = self.count - 1
        moves = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: -width, Qt.Key.Key_Down: width}
        if at is None or not self.count or key not in (*moves, Qt.Key.Key_Home, Qt.Key.Key_End):
            super().keyPressEvent(event)
            return
        wanted = {Qt.Key.Key_Home: 0, Qt.Key.Key_End: last}.get(key, at + moves.get(key, 0))
        if self.use == "look" and self.reach is not None:
            wanted = self._within_reach(wanted, at)
        if self.use == "give":
            self._ahead = max(0, min(last, wanted))
            self.dragged.emit(self._ahead)
        elif 0 <= wanted <= last:
            if self.use == "draw":
                self._cursor = wanted
                self.update()
            else:
                self._ahead = wanted
                self.clicked.emit(wanted)
