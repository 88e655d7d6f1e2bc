"""What the canvas and a grid of pictures have in common: an image of words, and a message while there is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QColor, QImage, QPainter
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty

Pixels = NDArray[np.uint32]  # (H, W), 0xffRRGGBB


class PictureView(QWidget):
    """Shows pictures, or says what will appear and how to get it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._palette = LIGHT
        self._message = ("", "")
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_message(self, title: str, hint: str = "") -> None:
        """What to say while there is no picture."""
        if (title, hint) != self._message:
            self._message = (title, hint)
            self.update()

    def fill(self, painter: QPainter, rect: QRect) -> None:
        """The ground."""
        painter.fillRect(rect, QColor(self._palette.surface))

    def paint_message(self, painter: QPainter) -> None:
        """Say it."""
        paint_empty(painter, self.rect(), self._palette, *self._message)


def image_of(pixels: Pixels) -> QImage:
    """An image on the memory of contiguous words (H, W), which must outlive it."""
    height, width = pixels.shape
    return QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGB32)
