"""Several small pictures side by side: completions of the same beginning, or what each layer would have painted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QToolTip, QWidget

from app.theme import fonts
from app.widgets.arrow_keys import claims_arrows
from app.widgets.picture_view import PictureView, Pixels, image_of
from app.widgets.text_cache import TextCache

GAP_PX = 8
CAPTION_PX = 16
SWATCH_PX = 10
LEAST_TEXT_PX = 64  # narrower remains of a caption say nothing


class PictureGrid(PictureView):
    """Pictures of one size, each with a caption, and before it a swatch if there is one. `chosen` is a number."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pictures: list[tuple[QImage, Pixels]] = []  # the array keeps the image's memory alive
        self._captions: Sequence[str] = ()
        self._swatches: Sequence[tuple[int, int, int] | None] = ()
        self._selected: int | None = None
        self._marked: int | None = None  # a pixel, framed in every picture
        self._columns, self._scale = 1, 1.0
        self.caption_px = CAPTION_PX  # 0: no captions
        self._mono = TextCache(fonts.mono(fonts.SMALL_PX))
        self.tooltip: Callable[[int], str] = lambda number: ""

    @property
    def count(self) -> int:
        """Pictures shown."""
        return len(self._pictures)

    def picture(self, number: int) -> QImage:
        """One of them."""
        return self._pictures[number][0]

    def show_pictures(
        self,
        pictures: Sequence[Pixels],
        captions: Sequence[str] | None = None,
    ) -> None:
        """Show (H, W) words each; the arrays must stay as they are until the next call. None: the captions stay."""
        self._pictures = []
        for one in pictures:
            pixels = np.ascontiguousarray(one)
            self._pictures.append((image_of(pixels), pixels))
        if captions is not None:
            self._captions, self._swatches = captions, ()
        self._fit()
        self.update()

    def set_captions(self, captions: Sequence[str], swatches: Sequence[tuple[int, int, int] | None] = ()) -> None:
        """A line below each picture, and a square of a colour before it."""
        if (captions, swatches) != (self._captions, self._swatches):
            self._captions, self._swatches = captions, swatches
            self.update()

    def set_marks(self, selected: int | None, pixel: int | None = None) -> None:
        """Frame a picture, and one pixel in all of them."""
        if (selected, pixel) != (self._selected, self._marked):
            self._selected, self._marked = selected, pixel
            self.update()

    def sizeHint(self) -> QSize:
        """Three by three."""
        return QSize(300, 320)

    def minimumSizeHint(self) -> QSize:
        """Something can still be seen."""
        return QSize(96, 72)

    # places

    def _fit(self) -> None:
        """As many side by side as make the pictures largest."""
        if self._pictures:
            self._columns = max(range(1, self.count + 1), key=self._scale_of)
            scale = max(0.1, self._scale_of(self._columns))
            self._scale = float(int(scale)) if scale >= 2 else scale

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other sizes fit."""
        self._fit()

    def _scale_of(self, columns: int) -> float:
        """The largest scale of a picture with so many side by side."""
        rows = math.ceil(self.count / columns)
        image = self._pictures[0][0]
        wide = (self.width() - GAP_PX * (columns - 1) - 4) / columns / image.width()
        high = (self.height() - GAP_PX * (rows - 1) - 4) / rows - self.caption_px
        return min(wide, high / image.height())

    def rect_of(self, number: int) -> QRectF:
        """Where a picture lies, its caption below it."""
        columns, scale = self._columns, self._scale
        image = self._pictures[0][0]
        width, height = image.width() * scale, image.height() * scale
        row, column = divmod(number, columns)
        rows = math.ceil(self.count / columns)
        left = (self.width() - columns * width - (columns - 1) * GAP_PX) / 2
        top = max(2.0, (self.height() - rows * (height + self.caption_px) - (rows - 1) * GAP_PX) / 2)
        x, y = left + column * (width + GAP_PX), top + row * (height + self.caption_px + GAP_PX)
        return QRectF(int(x), int(y), width, height)

    def number_at(self, x: float, y: float) -> int | None:
        """The picture under a point, its caption included."""
        for number in range(self.count):
            if self.rect_of(number).adjusted(0, 0, 0, self.caption_px).contains(x, y):
                return number
        return None

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Pictures, captions, frames."""
        painter = QPainter(self)
        self.fill(painter, event.rect())
        if not self._pictures:
            self.paint_message(painter)
            return
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, self._scale < 1)
        for number, (image, _) in enumerate(self._pictures):
            box = self.rect_of(number)
            painter.setPen(QColor(self._palette.line))
            painter.drawRect(box.adjusted(-1, -1, 0, 0))
            painter.drawImage(box, image)
            if self.caption_px:
                self._paint_caption(painter, number, box)
            if self._marked is not None:
                self._paint_mark(painter, box, image, self._marked)
            if number == self._selected:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(QColor(self._palette.accent), 2))
                painter.drawRect(box.adjusted(-2, -2, 1, 1))

    def _paint_caption(self, painter: QPainter, number: int, box: QRectF) -> None:
        x, baseline = box.left(), box.bottom() + CAPTION_PX / 2 + self._mono.rise
        swatch = self._swatches[number] if number < len(self._swatches) else None
        if swatch is not None:
            place = QRectF(x, box.bottom() + (CAPTION_PX - SWATCH_PX) / 2 + 0.5, SWATCH_PX, SWATCH_PX)
            painter.fillRect(place, QColor(*swatch))
            painter.setPen(QColor(self._palette.line))
            painter.drawRect(place)
            x += SWATCH_PX + 4
        caption = self.caption_in(number, box.right() - x)
        if caption:
            painter.setPen(QColor(self._palette.accent if number == self._selected else self._palette.secondary))
            self._mono.draw(painter, x, baseline, caption)

    def caption_in(self, number: int, room: float) -> str:
        """As much of a caption as fits beside the next one: all of it, a long beginning, else its first word."""
        caption = self._captions[number] if number < len(self._captions) else ""
        if self._mono.width(caption) <= room:
            return caption
        if room >= LEAST_TEXT_PX:
            return self._mono.elided(caption, room)
        first = caption.split(" ")[0]
        return first if self._mono.width(first) <= room + GAP_PX else ""

    def _paint_mark(self, painter: QPainter, box: QRectF, image: QImage, pixel: int) -> None:
        row, column = divmod(pixel, image.width())
        cell = box.width() / image.width()
        square = QRectF(box.left() + column * cell, box.top() + row * cell, cell, cell).adjusted(-0.5, -0.5, 0.5, 0.5)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(QColor(self._palette.surface), 2.5))
        painter.drawRect(square)
        painter.setPen(QPen(QColor(self._palette.accent), 1))
        painter.drawRect(square)

    # mouse and keyboard

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose a picture."""
        number = self.number_at(event.position().x(), event.position().y())
        if number is not None and event.button() == Qt.MouseButton.LeftButton:
            self.chosen.emit(number)

    def event(self, event: QEvent) -> bool:
        """Arrow keys choose here; a tooltip says more."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            number = self.number_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), "" if number is None else self.tooltip(number), self)
            return True
        return claims_arrows(event) or super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """A neighbour, the first, the last."""
        columns, last = self._columns, self.count - 1
        at = self._selected or 0
        wanted = {
            Qt.Key.Key_Left: at - 1, Qt.Key.Key_Right: at + 1, Qt.Key.Key_Up: at - columns,
            Qt.Key.Key_Down: at + columns, Qt.Key.Key_Home: 0, Qt.Key.Key_End: last,
        }.get(Qt.Key(event.key()))  # fmt: skip
        if wanted is None:
            super().keyPressEvent(event)
        elif 0 <= wanted <= last and wanted != self._selected:
            self.chosen.emit(wanted)
