"""The focus heatmap: queries down, keys across, tokens or positions on both axes, one row framed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QApplication, QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import diverging, rgb, sequential
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.heat_geometry import HeatGeometry, fit, tick_step
from app.widgets.heat_matrix import HeatMatrix, HeatPixels, Scale, packed
from app.widgets.text_cache import TextCache
from app.widgets.visible_text import one_line

TICK_PX, TICK_GAP_PX = 34.0, 10.0  # between ticks, at least, and between their labels


class Heatmap(QWidget):
    """Draws a `HeatMatrix`; the owner appends to it and calls `show_rows`."""

    clicked = Signal(int)  # query position
    ranged = Signal(int, int)  # a drag over rows: [start, stop) positions

    def __init__(self, matrix: HeatMatrix, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._matrix = matrix
        self._pixels = HeatPixels()
        self._image = QImage()
        self._geometry = fit(200, 200, 1)
        self._labels: Sequence[str] = ()
        self._scale: Scale = "sqrt"
        self._origin = 0
        self._pressed: tuple[QPointF, int] | None = None
        self._dragged: int | None = None
        self._row: int | None = None
        self._pinned = False
        self._hover: tuple[int, int] | None = None  # query, key
        self._message = ("", "")
        labels = fonts.mono(fonts.SMALL_PX)
        labels.setFamilies([fonts.MONO_FAMILY, fonts.UI_FAMILY])  # Inter has the whitespace marks
        self._mono, self._upright = TextCache(labels), TextCache(labels)
        self.tooltip: Callable[[int, int], str] = lambda query, key: ""
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._lut = packed(diverging(palette.dark) if self._scale == "signed" else sequential(), rgb(palette.surface))
        self.show_rows(0)

    def set_scale(self, scale: Scale) -> None:
        """How weights become colours."""
        if scale != self._scale:
            self._scale = scale
            self.set_palette(self._palette)

    def set_labels(self, labels: Sequence[str]) -> None:
        """The tokens of the axes, by position. The list may grow without telling."""
        self._labels = labels

    def set_origin(self, origin: int) -> None:
        """The position of the first row and column of the matrix."""
        if origin != self._origin:
            self._origin = origin
            self.update()

    def set_row(self, query: int | None, pinned: bool) -> None:
        """Mark the row of a query: framed when it was selected, with the dot when it is only the newest."""
        query = None if query is None or query < self._origin else query - self._origin
        if (query, pinned) != (self._row, self._pinned):
            self._row, self._pinned = query, pinned
            self.update()

    def set_message(self, title: str, hint: str = "") -> None:
        """What to say while there is nothing to show."""
        if (title, hint) != self._message:
            self._message = (title, hint)
            self.update()

    def show_rows(self, first: int) -> None:
        """Colour the cell rows from `first` on and paint. Call it after the matrix has grown or was cleared."""
        self._geometry = fit(self.width(), self.height(), self._matrix.side, self._matrix.factor)
        if self._matrix.rows:
            room = self._geometry.cell_px * self._matrix.side * self.devicePixelRatioF()
            side = self._pixels.update(self._matrix.values, first, self._lut, self._scale, round(room))
            pixels = self._pixels.buffer
            self._image = QImage(pixels.data, side, side, pixels.strides[0], QImage.Format.Format_RGB32)
        else:
            self._image = QImage()
        self.update()

    def sizeHint(self) -> QSize:
        """A square that shows a short text with labels."""
        return QSize(280, 280)

    def resizeEvent(self, event: QEvent) -> None:
        """Fit the cells anew."""
        self.show_rows(0)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Cells, axes, marks."""
        painter = QPainter(self)
        if self._image.isNull():
            paint_empty(painter, self.rect(), self._palette, *self._message)
            return
        g, side_px = self._geometry, self._geometry.cell_px * self._matrix.side
        cells = self._matrix.side / self._pixels.pool  # the last pixel may stand for fewer cells than the others
        painter.drawImage(QRectF(g.left, g.top, side_px, side_px), self._image, QRectF(0, 0, cells, cells))
        painter.setPen(QColor(self._palette.secondary))
        if g.labelled:
            self._paint_labels(painter, g)
        else:
            self._paint_ticks(painter, g)
        self._paint_marks(painter, g)

    def _paint_labels(self, painter: QPainter, g: HeatGeometry) -> None:
        mono = self._mono
        for position, label in enumerate(self._labels[self._origin : self._origin + self._matrix.rows]):
            middle = (position + 0.5) * g.cell_px
            text = mono.elided(one_line(label), g.left - 8)
            mono.draw_right(painter, g.left - 5, g.top + middle + mono.rise, text)
            painter.save()
            painter.translate(g.left + middle + mono.rise, g.top - 4)
            painter.rotate(-90)
            self._upright.draw(painter, 0, 0, mono.elided(text, g.top - 6))
            painter.restore()

    def _paint_ticks(self, painter: QPainter, g: HeatGeometry) -> None:
        mono, rise, cells_px = self._mono, self._mono.rise, g.cell_px / g.factor
        widest = mono.width(str(self._matrix.rows - 1 + self._origin))
        step = tick_step(cells_px, max(TICK_PX, widest + TICK_GAP_PX))
        most = self.width() - g.left - 1
        for position in range(0, self._matrix.rows, step):
            text = str(position + self._origin)
            width = mono.width(text)
            middle = g.px(position) + max(cells_px, 1.0) / 2
            mono.draw(painter, g.left - 7 - width, g.top + max(middle + rise, 2 * rise), text)
            mono.draw(painter, g.left + max(min(middle, most - width / 2) - width / 2, 0), g.top - 6, text)
            painter.drawLine(QPointF(g.left - 4, g.top + middle), QPointF(g.left - 2, g.top + middle))
            painter.drawLine(QPointF(g.left + middle, g.top - 4), QPointF(g.left + middle, g.top - 2))

    def _paint_marks(self, painter: QPainter, g: HeatGeometry) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        accent = QColor(self._palette.accent)
        if self._hover is not None:
            query, key = self._hover
            painter.setPen(QPen(QColor(self._palette.text), 1))
            painter.drawRect(self._row_rect(g, query, key, key + 1))
        if self._pressed is not None and self._dragged is not None:
            first, last = sorted((self._pressed[1], self._dragged))
            painter.setPen(QPen(accent, 1, Qt.PenStyle.DashLine))
            for row in (first, last + 1):
                y = g.top + row // g.factor * g.cell_px
                painter.drawLine(QPointF(g.left, y), QPointF(g.left + g.cell_px * self._matrix.side, y))
        if self._row is None or self._row >= self._matrix.rows:
            return
        box = self._row_rect(g, self._row, 0, self._row + 1)
        if self._pinned:
            painter.setPen(QPen(accent, 1.5))
            painter.drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), 2, 2)
        else:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(accent)
            painter.drawEllipse(QPointF(box.right() + 6, box.center().y()), 3, 3)

    def _row_rect(self, g: HeatGeometry, query: int, first_key: int, stop_key: int) -> QRectF:
        """The cells of a query and a range of keys, at least 3 px high and wide."""
        row, first, last = query // g.factor, first_key // g.factor, math.ceil(stop_key / g.factor)
        box = QRectF(
            g.left + first * g.cell_px, g.top + row * g.cell_px, (last - first) * g.cell_px, g.cell_px
        )  # fmt: skip
        grow_x, grow_y = max(0.0, 3 - box.width()) / 2, max(0.0, 3 - box.height()) / 2
        return box.adjusted(-grow_x, -grow_y, grow_x, grow_y)

    # mouse

    def _positions_at(self, point: QPointF) -> tuple[int, int] | None:
        """Query and key under a point, counted from the origin."""
        row, column = self._geometry.cell_at(point.x(), point.y())
        factor, rows = self._matrix.factor, self._matrix.rows
        if not (0 <= column <= row and row < self._matrix.side):
            return None
        return min(row * factor, rows - 1), min(column * factor, rows - 1)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Show the weight under the pointer at once."""
        if self._pressed is not None:
            self._drag(event.position())
            return
        hover = self._positions_at(event.position())
        if hover != self._hover:
            self._hover = hover
            self.update()
            text = self.tooltip(hover[0] + self._origin, hover[1] + self._origin) if hover else ""
            QToolTip.showText(event.globalPosition().toPoint(), text, self)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is hovered any more."""
        self._hover = None
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A press becomes a click on a row or a drag over several."""
        place = self._positions_at(event.position())
        if place and event.button() == Qt.MouseButton.LeftButton:
            self._pressed, self._dragged = (event.position(), place[0]), None

    def _drag(self, point: QPointF) -> None:
        assert self._pressed is not None
        start, first = self._pressed
        far = (point - start).manhattanLength() >= QApplication.startDragDistance()
        row = self._geometry.cell_at(point.x(), point.y())[0]
        query = max(0, min(self._matrix.rows - 1, row * self._matrix.factor))
        if far or self._dragged is not None:
            self._dragged = query if query != first else None
            self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the query of the row, or look at the rows between."""
        pressed, dragged = self._pressed, self._dragged
        self._pressed = self._dragged = None
        if pressed is None or event.button() != Qt.MouseButton.LeftButton:
            return
        self.update()
        if dragged is None:
            self.clicked.emit(pressed[1] + self._origin)
            return
        first, last = sorted((pressed[1], dragged))
        self.ranged.emit(first + self._origin, last + self._matrix.factor + self._origin)
