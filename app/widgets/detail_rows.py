"""A small table with bars: candidates, layers or drafted tokens in rows, quantities in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.text_cache import TextCache

ROW_PX, HEAD_PX, PAD_PX, GAP_PX, BAR_PX = 20, 18, 8, 10, 8
LEAST_BAR_PX = 12  # shorter bars show nothing
LEAST_ROWS = 4  # as many as contrastive search has candidates
NAME_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column: its title, and the values at the two ends of its bars."""

    title: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DetailRow:
    """A row: its name, a value a column (None: there is none), how each is written; chosen, or thrown away."""

    name: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    chosen: bool = False
    struck: bool = False


class DetailRows(QAbstractScrollArea):
    """Rows with a bar and a number for each quantity; only the visible ones are painted."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(HEAD_PX + LEAST_ROWS * ROW_PX)
        self._quantities: tuple[Quantity, ...] = ()
        self._rows: Sequence[DetailRow] = ()
        self._name = ""
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self.set_palette(LIGHT)

    @property
    def rows(self) -> Sequence[DetailRow]:
        """What is shown."""
        return self._rows

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The columns shown."""
        return self._quantities

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.viewport().update()

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        if on != self._mono.swatches:
            self._mono.swatches = on
            self.viewport().update()

    def set_empty(self, title: str, hint: str) -> None:
        """What stands here while there is nothing to show."""
        if (title, hint) != self._empty:
            self._empty = (title, hint)
            self.viewport().update()

    def show_rows(self, name: str, quantities: tuple[Quantity, ...], rows: Sequence[DetailRow]) -> None:
        """Show these; `name` is the title of the first column."""
        self._name, self._quantities, self._rows = name, quantities, rows
        self._fit()
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """Six rows."""
        return QSize(320, HEAD_PX + 6 * ROW_PX)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The scroll bar follows."""
        self._fit()

    def _fit(self) -> None:
        bar, height = self.verticalScrollBar(), self.viewport().height() - HEAD_PX
        bar.setPageStep(max(1, height))
        bar.setSingleStep(ROW_PX)
        bar.setRange(0, max(0, len(self._rows) * ROW_PX - height))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Titles and the visible rows."""
        painter = QPainter(self.viewport())
        if not self._rows:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        top, height = self.verticalScrollBar().value(), self.viewport().height()
        painter.save()
        painter.setClipRect(QRectF(0, HEAD_PX, self.viewport().width(), height - HEAD_PX))
        for row in range(top // ROW_PX, min(len(self._rows), (top + height) // ROW_PX + 1)):
            self._paint_row(painter, HEAD_PX + row * ROW_PX - top, self._rows[row])
        painter.restore()
        self._paint_head(painter)

    def _columns(self) -> list[tuple[float, float]]:
        """Left and right end of each quantity."""
        width = self.viewport().width() - PAD_PX
        left = PAD_PX + width * NAME_SHARE
        each = (width - left) / max(1, len(self._quantities))
        return [(left + n * each + GAP_PX, left + (n + 1) * each) for n in range(len(self._quantities))]

    def name_room(self, row: DetailRow | None) -> float:
        """Pixels for the name of a row, of the first column for None: as far as nothing is written beside it."""
        width = self.viewport().width()
        if row is not None:
            return (width * NAME_SHARE if any(row.texts) else width) - PAD_PX
        ends = zip(self._columns(), self._quantities, strict=True)
        first = min((right - self._ui.width(one.title) for (_, right), one in ends if one.title), default=width)
        return max(width * NAME_SHARE - PAD_PX, first - GAP_PX - PAD_PX)

    def _paint_head(self, painter: QPainter) -> None:
        painter.setPen(QColor(self._palette.secondary))
        name = self._ui.elided(self._name, self.name_room(None))
        self._ui.draw(painter, PAD_PX, HEAD_PX - 6.0, name)
        for (left, right), quantity in zip(self._columns(), self._quantities, strict=True):
            title = self._ui.elided(quantity.title, right - left)
            self._ui.draw_right(painter, right, HEAD_PX - 6.0, title)

    def _paint_row(self, painter: QPainter, y: int, row: DetailRow) -> None:
        palette, middle = self._palette, y + ROW_PX / 2
        if row.chosen:
            painter.fillRect(QRectF(0, y, self.viewport().width(), ROW_PX), QColor(palette.accent_soft))
        painter.setPen(QColor(palette.secondary if row.struck else palette.text))
        name = self._mono.elided(row.name, self.name_room(row))
        self._mono.draw(painter, PAD_PX, middle + self._mono.rise, name)
        if row.struck:
            painter.drawLine(PAD_PX, round(middle), round(PAD_PX + self._mono.width(name)), round(middle))
        for (left, right), quantity, value, text in zip(
            self._columns(), self._quantities, row.values, row.texts, strict=True
        ):
            number = self._mono.width(text) if text else 0.0
            bar = QRectF(left, middle - BAR_PX / 2, max(0.0, right - left - max(number, 40.0) - 6), BAR_PX)
            if value is not None and quantity.high > quantity.low and bar.width() >= LEAST_BAR_PX:
                share = min(1.0, max(0.0, (value - quantity.low) / (quantity.high - quantity.low)))
                filled = QRectF(bar)
                filled.setWidth(max(1.0, bar.width() * share))
                painter.fillRect(filled, QColor(palette.accent if row.chosen else palette.bar))
            painter.setPen(QColor(palette.text))
            self._mono.draw_right(painter, right, middle + self._mono.rise, text)
