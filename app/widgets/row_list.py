"""The rows of a batch: number, text, entropy strip, length, how each ended. Only visible rows are painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from app.theme import fonts
from app.theme.colormaps import sequential
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_matrix import packed
from app.widgets.text_cache import TextCache

ROW_PX, PAD_PX, GAP_PX = 28, 8, 12
STRIP_SHARE, LEAST_STRIP_SHARE, STRIP_PX = 0.28, 0.15, 14
TEXT_PX = 180  # the strip gives way to a text that is narrower, up to its least share


@dataclass(frozen=True, slots=True)
class RowLine:
    """One row: its number, the end of its text, the colour index (0–255) of each token, its length, how it ended."""

    number: str
    text: str
    levels: NDArray[np.uint8]
    count: str
    ended: str


class RowList(QAbstractScrollArea):
    """A list of rows; `chosen` is the number of the row that was clicked or reached by keyboard."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(2 * ROW_PX)
        self._count = 0
        self._line: Callable[[int], RowLine] | None = None
        self._selected = 0
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._map = packed(sequential(), (0, 0, 0))
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = on
            self.viewport().update()

    def set_empty(self, title: str, hint: str) -> None:
        """What stands here while there are no rows."""
        self._empty = (title, hint)
        if not self.accessibleDescription():
            self.setAccessibleDescription(f"{title}. {hint}")

    def show_rows(self, count: int, line: Callable[[int], RowLine], selected: int) -> None:
        """So many rows; `line` tells what a visible one shows."""
        moved = selected != self._selected
        self._count, self._line, self._selected = count, line, selected
        self._fit()
        if moved and count:
            bar = self.verticalScrollBar()
            top = selected * ROW_PX
            bar.setValue(min(top, max(bar.value(), top + ROW_PX - self.viewport().height())))
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """A few rows."""
        return QSize(320, 6 * ROW_PX)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The scroll bar follows."""
        self._fit()

    def _fit(self) -> None:
        bar, height = self.verticalScrollBar(), self.viewport().height()
        bar.setPageStep(height)
        bar.setSingleStep(ROW_PX)
        bar.setRange(0, max(0, self._count * ROW_PX - height))

    def row_at(self, y: float) -> int | None:
        """The row under a point of the viewport."""
        row = int(y + self.verticalScrollBar().value()) // ROW_PX
        return row if 0 <= row < self._count else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click chooses."""
        row = self.row_at(event.position().y())
        if row is not None and event.button() == Qt.MouseButton.LeftButton:
            self.chosen.emit(row)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up, down, home and end choose."""
        last = self._count - 1
        steps = {Qt.Key.Key_Up: self._selected - 1, Qt.Key.Key_Down: self._selected + 1}
        ends = {Qt.Key.Key_Home: 0, Qt.Key.Key_End: last}
        wanted = {**steps, **ends}.get(Qt.Key(event.key()))
        if wanted is None or last < 0:
            super().keyPressEvent(event)
            return
        wanted = max(0, min(last, wanted))
        if wanted != self._selected:
            self.chosen.emit(wanted)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The visible rows."""
        with QPainter(self.viewport()) as painter:
            self._paint(painter)

    def _paint(self, painter: QPainter) -> None:
        if not self._count or self._line is None:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        top = self.verticalScrollBar().value()
        rows = range(top // ROW_PX, min(self._count, (top + self.viewport().height()) // ROW_PX + 1))
        lines = [self._line(row) for row in rows]
        widths = (
            max((self._mono.width(line.count) for line in lines), default=0.0),
            max((self._ui.width(line.ended) for line in lines), default=0.0),
            max((self._mono.width(line.number) for line in lines), default=0.0),
        )
        for row, line in zip(rows, lines, strict=True):
            self._paint_row(painter, row, row * ROW_PX - top, line, widths)

    def _paint_row(
        self, painter: QPainter, row: int, y: int, line: RowLine, widths: tuple[float, float, float]
    ) -> None:
        """widths: of the longest count, end and number in sight, so that what is not there takes no room."""
        palette, width = self._palette, self.viewport().width()
        box = QRectF(0.5, y + 0.5, width - 1, ROW_PX - 1)
        if row == self._selected:
            painter.fillRect(box, QColor(palette.accent_soft))
            painter.setPen(QPen(QColor(palette.accent), 1))
            painter.drawRect(box)
        else:
            painter.setPen(QColor(palette.grid))
            painter.drawLine(QPointF(0, y + ROW_PX - 0.5), QPointF(width, y + ROW_PX - 0.5))
        right, left = width - PAD_PX, PAD_PX + widths[2] + GAP_PX
        ended = right - widths[1]
        count = ended - (GAP_PX if widths[1] else 0) - widths[0]
        spare = count - 2 * GAP_PX - left
        strip = int(min(width * STRIP_SHARE, max(spare - TEXT_PX, LEAST_STRIP_SHARE * spare, 0.0)))
        painter.setPen(QColor(palette.secondary))
        middle = y + ROW_PX / 2
        self._words(painter, self._mono, line.number, PAD_PX, middle, widths[2])
        self._words(painter, self._ui, line.ended, ended, middle, widths[1])
        number = self._mono.width(line.count)
        self._words(painter, self._mono, line.count, count + widths[0] - number, middle, widths[0])
        painter.setPen(QColor(palette.text))
        room = count - GAP_PX - strip - GAP_PX - left
        self._words(painter, self._mono, self._end_of(line.text, room), left, middle, room)
        self._paint_strip(painter, QRectF(count - GAP_PX - strip, y + (ROW_PX - STRIP_PX) / 2, strip, STRIP_PX), line)

    def _end_of(self, text: str, room: float) -> str:
        """The last characters that fit: what was said last is what changes."""
        most = max(4, int(room / max(1.0, self._mono.width("0"))))
        return text if len(text) <= most else "…" + text[len(text) - most + 1 :]

    def _words(self, painter: QPainter, texts: TextCache, text: str, x: float, middle: float, room: float) -> None:
        painter.save()
        painter.setClipRect(QRectF(x, middle - ROW_PX / 2, max(0.0, room), ROW_PX))
        texts.draw(painter, x, middle + texts.rise, text)
        painter.restore()

    def _paint_strip(self, painter: QPainter, box: QRectF, line: RowLine) -> None:
        painter.fillRect(box, QColor(self._palette.raised))
        levels = line.levels
        if not len(levels):
            return
        cells = max(1, int(box.width()))
        if len(levels) > cells:  # the largest entropy of each cell stays visible: low index
            edges = np.linspace(0, len(levels), cells + 1).astype(int)[:-1]
            levels = np.minimum.reduceat(levels, edges)
        pixels = np.ascontiguousarray(self._map[levels][None])
        image = QImage(pixels.data, len(levels), 1, QImage.Format.Format_RGB32)
        drawn = QRectF(box)
        drawn.setWidth(min(box.width(), len(levels) * max(1.0, box.width() / max(64, len(levels)))))
        painter.drawImage(drawn, image)
