"""All colours of a model, to pick one of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme.palette import LIGHT, Palette
from app.widgets.arrow_keys import claims_arrows
from app.widgets.pixel_words import packed_rgb

ROWS, LEAST_PX = 2, 5


class ColourPicker(QWidget):
    """A strip of colours in two rows (more of them where they are many); emits the number of the one picked."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._colours: NDArray[np.uint8] = np.zeros((0, 3), np.uint8)
        self._words: NDArray[np.uint32] = np.zeros((0, 0), np.uint32)
        self._image = QImage()
        self._chosen = 0
        self._palette = LIGHT
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def show_colours(self, colours: NDArray[np.uint8]) -> None:
        """Offer (C, 3) colours, in their order down the columns."""
        if colours is self._colours:
            return
        self._colours = colours
        rows = self._rows()
        padded = np.zeros((rows * -(-len(colours) // rows), 3), np.uint8)
        padded[: len(colours)] = colours
        self._words = np.ascontiguousarray(packed_rgb(padded).reshape(-1, rows).T)
        wide = self._words.shape[1]
        self._image = QImage(self._words.data, wide, rows, 4 * wide, QImage.Format.Format_RGB32)
        self._chosen = min(self._chosen, max(0, len(colours) - 1))
        self.updateGeometry()
        self.update()

    def choose(self, number: int) -> None:
        """Mark a colour, without telling."""
        if number != self._chosen:
            self._chosen = number
            self.update()

    @property
    def current(self) -> int:
        """The colour that is picked."""
        return self._chosen

    def _rows(self) -> int:
        return ROWS if len(self._colours) <= 128 else 8

    def _cell(self) -> QRectF:
        wide, high = max(1, self._words.shape[1]), max(1, self._words.shape[0])
        return QRectF(0, 0, self.width() / wide, self.height() / high)

    def rect_of(self, number: int) -> QRectF:
        """Where a colour lies."""
        cell, (column, row) = self._cell(), divmod(number, self._rows())
        return QRectF(column * cell.width(), row * cell.height(), cell.width(), cell.height())

    def sizeHint(self) -> QSize:
        """Flat squares."""
        return QSize(320, 32 if self._rows() == ROWS else 56)

    def minimumSizeHint(self) -> QSize:
        """Narrow columns."""
        return QSize(LEAST_PX * 32, self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """One image, and a frame."""
        if self._image.isNull():
            return
        painter = QPainter(self)
        painter.drawImage(QRectF(self.rect()), self._image)
        box = self.rect_of(self._chosen).adjusted(1, 1, -1, -1)
        painter.setPen(QPen(QColor(self._palette.surface), 4))
        painter.drawRect(box)
        painter.setPen(QPen(QColor(self._palette.accent), 2))
        painter.drawRect(box)

    def number_at(self, x: float, y: float) -> int | None:
        """The colour under a point."""
        cell = self._cell()
        number = int(x // cell.width()) * self._rows() + int(y // cell.height())
        return number if 0 <= number < len(self._colours) else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Pick."""
        number = self.number_at(event.position().x(), event.position().y())
        if number is not None and event.button() == Qt.MouseButton.LeftButton:
            self._pick(number)

    def _pick(self, number: int) -> None:
        self.choose(number)
        self.chosen.emit(number)

    def event(self, event: QEvent) -> bool:
        """Arrow keys pick here; a tooltip names the colour."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            number = self.number_at(event.pos().x(), event.pos().y())
            text = "" if number is None else "#{:02x}{:02x}{:02x}".format(*self._colours[number].tolist())
            QToolTip.showText(event.globalPos(), text, self)
            return True
        return claims_arrows(event) or super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """A neighbour."""
        rows = self._rows()
        move = {
            Qt.Key.Key_Left: -rows, Qt.Key.Key_Right: rows, Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1,
        }.get(Qt.Key(event.key()))  # fmt: skip
        if move is None:
            super().keyPressEvent(event)
        elif 0 <= self._chosen + move < len(self._colours):
            self._pick(self._chosen + move)
