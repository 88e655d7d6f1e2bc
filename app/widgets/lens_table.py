"""The logit lens as a table: layers down, positions across, the likeliest token in each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QToolTip, QWidget

from app.theme import fonts
from app.theme.colormaps import token_fills
from app.theme.palette import LIGHT, Palette
from app.widgets.arrow_keys import claims_arrows
from app.widgets.empty import paint_empty
from app.widgets.lens_columns import LensColour, LensColumn, LensColumns, stream_name
from app.widgets.text_cache import TextCache
from app.widgets.visible_text import one_line

LEFT_PX, HEAD_PX, STRIP_PX = 30, 18, 6  # layer numbers; the tokens that were fed; the commit depth below them
COLUMN_PX, CELL_PAD_PX = 66, 4
ROW_PX, TALLEST_ROW_PX = 14, 26
TOP_PX = HEAD_PX + STRIP_PX + 2


class LensTable(QAbstractScrollArea):
    """Draws `LensColumns`; the owner fills them and calls `show_positions`. Scroll bars count columns and layers."""

    clicked = Signal(int)  # position
    visible_changed = Signal()

    def __init__(self, columns: LensColumns, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._columns = columns
        self._labels: Sequence[str] = ()
        self._positions = self._layers = 0
        self._selected: int | None = None
        self._pinned = False
        self._by: LensColour = "probability"
        self._message = ("", "")
        self._seen: tuple[object, ...] = ()
        font = fonts.mono(fonts.SMALL_PX)
        font.setFamilies([fonts.MONO_FAMILY, fonts.UI_FAMILY])  # Inter has the whitespace marks
        self._mono = TextCache(font)
        bold = QFont(font)
        bold.setBold(True)
        self._bold = TextCache(bold)  # of layers that agree with the final one
        self.tooltip: Callable[[int, int], str] = lambda layer, position: ""
        self.viewport().setMouseTracking(True)
        self.set_palette(LIGHT)
        for bar in (self.verticalScrollBar(), self.horizontalScrollBar()):
            bar.valueChanged.connect(lambda _value: self.visible_changed.emit())

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self._fills = [QColor(*map(int, colour)) for colour in token_fills(palette)]
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = self._bold.swatches = on
            self.viewport().update()

    def set_colour(self, by: LensColour) -> None:
        """The quantity that colours the cells."""
        if by != self._by:
            self._by = by
            self.viewport().update()

    def set_message(self, title: str, hint: str = "") -> None:
        """What to say while there is nothing to show."""
        if (title, hint) != self._message:
            self._message = (title, hint)
            self.viewport().update()

    def show_positions(
        self, labels: Sequence[str], positions: int, layers: int, selected: int | None, pinned: bool
    ) -> None:
        """Show so many positions of a model; labels are the tokens fed. A selection is brought into view."""
        moved = (positions, selected) != (self._positions, self._selected)
        seen = (positions, layers, selected, pinned, self._columns.version)
        self._labels, self._positions, self._layers = labels, positions, layers
        self._selected, self._pinned = selected, pinned
        if seen == self._seen:
            return
        self._seen = seen
        self._fit()
        if moved and selected is not None:
            self._reveal(selected)
        self.viewport().update()

    def visible_positions(self) -> range:
        """The positions in view."""
        first = self.horizontalScrollBar().value()
        return range(first, min(self._positions, first + self._fits_across()))

    def visible_layers(self) -> range:
        """The layers in view, the final one included."""
        first = self.verticalScrollBar().value()
        return range(first, min(self._layers + 1, first + self._fits_down()))

    def _fits_across(self) -> int:
        return max(1, (self.viewport().width() - LEFT_PX) // COLUMN_PX)

    @property
    def _column_px(self) -> int:
        """Columns share what is left beside the last one."""
        return max(COLUMN_PX, (self.viewport().width() - LEFT_PX) // self._fits_across())

    def _fits_down(self) -> int:
        return max(1, (self.viewport().height() - TOP_PX) // ROW_PX)

    @property
    def _row_px(self) -> int:
        """Few layers have higher rows."""
        room = (self.viewport().height() - TOP_PX) // (self._layers + 1)
        return max(ROW_PX, min(TALLEST_ROW_PX, room))

    def _fit(self) -> None:
        across, down = self._fits_across(), self._fits_down()
        for bar, total, shown in (
            (self.horizontalScrollBar(), self._positions, across),
            (self.verticalScrollBar(), self._layers + 1, down),
        ):
            at_end = bar.value() == bar.maximum()
            bar.setPageStep(shown)
            bar.setRange(0, max(0, total - shown))
            if at_end and bar is self.verticalScrollBar():
                bar.setValue(bar.maximum())  # the last layers are where tokens are decided

    def _reveal(self, position: int) -> None:
        bar, shown = self.horizontalScrollBar(), self._fits_across()
        if not bar.value() <= position < bar.value() + shown:
            bar.setValue(position - shown + 1 if position >= self._positions - 1 else position - shown // 2)

    def resizeEvent(self, event: QEvent) -> None:
        """Fit columns and layers anew."""
        self._fit()
        if self._selected is not None:
            self._reveal(self._selected)
        self.visible_changed.emit()

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Whole cells are scrolled: paint again."""
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """A few columns and a dozen layers."""
        return QSize(LEFT_PX + 5 * COLUMN_PX, TOP_PX + 12 * ROW_PX)

    def minimumSizeHint(self) -> QSize:
        """Two columns and three layers."""
        return QSize(LEFT_PX + 2 * COLUMN_PX, TOP_PX + 3 * ROW_PX)

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Layer numbers, then column by column."""
        painter = QPainter(self.viewport())
        if not self._positions or not self._layers or self._message[0]:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._message)
            return
        secondary, mono = QColor(self._palette.secondary), self._mono
        layers = self.visible_layers()
        painter.setPen(secondary)
        for row, layer in enumerate(layers):
            y = TOP_PX + (row + 0.5) * self._row_px + mono.rise
            mono.draw_right(painter, LEFT_PX - 6, y, stream_name(layer, self._layers))
        for place, position in enumerate(self.visible_positions()):
            x = LEFT_PX + place * self._column_px
            painter.setPen(secondary)
            label = one_line(self._labels[position][:24]) if position < len(self._labels) else ""
            mono.draw(painter, x + CELL_PAD_PX, HEAD_PX / 2 + mono.rise, mono.elided(label, self._column_px - 8))
            column = self._columns.by_position.get(position)
            if column is None:
                self._paint_unknown(painter, x, len(layers))
            else:
                self._paint_column(painter, column, x, layers)
            if position == self._selected:
                self._paint_mark(painter, x, len(layers))

    def _paint_unknown(self, painter: QPainter, x: int, rows: int) -> None:
        painter.setPen(QColor(self._palette.grid))
        for row in range(rows):
            painter.drawRect(QRectF(x + 0.5, TOP_PX + row * self._row_px + 0.5, self._column_px - 3, self._row_px - 3))

    def _paint_column(self, painter: QPainter, column: LensColumn, x: int, layers: range) -> None:
        levels = column.levels(self._by).tolist()
        text, mono = QColor(self._palette.text), self._mono
        depth = 1.0 - column.commit / max(1, self._layers)  # how early it was decided
        strip = QRectF(x, HEAD_PX, self._column_px - 2, STRIP_PX - 2)
        painter.fillRect(strip, QColor(self._palette.muted))
        painter.fillRect(QRectF(strip.left(), strip.top(), strip.width() * depth, strip.height()), self._bar())
        for row, layer in enumerate(layers):
            y = TOP_PX + row * self._row_px
            painter.fillRect(QRectF(x, y, self._column_px - 2, self._row_px - 2), self._fills[levels[layer]])
            piece = one_line(self._columns.pieces[int(column.token_ids[layer, 0])][:24])
            cache = self._bold if layer >= column.commit else mono
            painter.setPen(text)
            baseline = y + self._row_px / 2 - 1 + cache.rise
            cache.draw(painter, x + CELL_PAD_PX, baseline, cache.elided(piece, self._column_px - 10))
            if layer == column.commit:
                painter.setPen(QPen(text, 1))
                painter.drawLine(QPointF(x, y - 1), QPointF(x + self._column_px - 2, y - 1))

    def _bar(self) -> QColor:
        return QColor(self._palette.bar)

    def _paint_mark(self, painter: QPainter, x: int, rows: int) -> None:
        """The shown step: framed when it was selected, with the dot when it is only the newest."""
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        accent = QColor(self._palette.accent)
        if self._pinned:
            painter.setPen(QPen(accent, 2))
            painter.drawRoundedRect(QRectF(x - 2, 1, self._column_px, TOP_PX + rows * self._row_px - 2), 3, 3)
        else:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(accent)
            painter.drawEllipse(QPointF(x + self._column_px - 8, HEAD_PX / 2), 3, 3)
        painter.restore()

    # mouse and keyboard

    def cell_at(self, x: float, y: float) -> tuple[int, int] | None:
        """(layer, position) at a point of the viewport."""
        place, row = int((x - LEFT_PX) // self._column_px), int((y - TOP_PX) // self._row_px)
        positions, layers = self.visible_positions(), self.visible_layers()
        if not (0 <= place < len(positions) and 0 <= row < len(layers)):
            return None
        return layers[row], positions[place]

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Select the step of the column."""
        place = int((event.position().x() - LEFT_PX) // self._column_px)
        positions = self.visible_positions()
        if event.button() == Qt.MouseButton.LeftButton and 0 <= place < len(positions):
            self.clicked.emit(positions[place])

    def event(self, event: QEvent) -> bool:
        """Arrow keys scroll here; in the window they select tokens."""
        return claims_arrows(event) or super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """One cell at a time."""
        moves = {
            Qt.Key.Key_Left: (self.horizontalScrollBar(), -1),
            Qt.Key.Key_Right: (self.horizontalScrollBar(), 1),
            Qt.Key.Key_Up: (self.verticalScrollBar(), -1),
            Qt.Key.Key_Down: (self.verticalScrollBar(), 1),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is None:
            super().keyPressEvent(event)
        else:
            move[0].setValue(move[0].value() + move[1])

    def viewportEvent(self, event: QEvent) -> bool:
        """The likeliest tokens of the cell under the pointer."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            cell = self.cell_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), self.tooltip(*cell) if cell else "", self.viewport())
            return True
        return super().viewportEvent(event)
