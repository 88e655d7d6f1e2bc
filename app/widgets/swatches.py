"""The colours a pixel was chosen from: two bars, before and after the pipeline, and the likeliest as squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets import numbers
from app.widgets.arrow_keys import claims_arrows
from app.widgets.text_cache import TextCache

BAR_PX, LABEL_PX, SQUARE_PX, GAP_PX, NUMBER_PX = 14, 34, 26, 6, 34
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Swatch:
    """A candidate: its colour, and its probability before and after the pipeline (0: killed)."""

    token_id: int
    rgb: Rgb
    raw: float
    final: float
    chosen: bool


class Swatches(QWidget):
    """Emits the token id of the colour that is clicked, or taken with Enter."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: Sequence[Swatch] = ()
        self._note = ""
        self._at = self._first = 0  # where the keyboard is, and the first square
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self.tooltip: Callable[[Swatch], str] = lambda swatch: ""
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def show_rows(self, rows: Sequence[Swatch], note: str = "") -> None:
        """Candidates, likeliest first; without any, what to say instead."""
        if rows != self._rows or note != self._note:
            self._rows, self._note, self._first = rows, note, 0
            self._at = min(self._at, max(0, self.shown() - 1))
            self.update()

    @property
    def rows(self) -> Sequence[Swatch]:
        """The candidates shown."""
        return self._rows

    def sizeHint(self) -> QSize:
        """Two bars, squares, numbers."""
        return QSize(320, 2 * BAR_PX + GAP_PX + 2 + SQUARE_PX + NUMBER_PX)

    def minimumSizeHint(self) -> QSize:
        """A few squares."""
        return QSize(160, self.sizeHint().height())

    # places

    def _pitch(self) -> int:
        return SQUARE_PX + 18

    def shown(self) -> int:
        """How many squares fit."""
        return min(len(self._rows), max(1, (self.width() - LABEL_PX) // self._pitch()))

    def visible(self) -> list[int]:
        """The candidates whose squares are shown; the chosen one takes the last place where it would be beyond."""
        first = min(self._first, len(self._rows) - self.shown())
        found = list(range(first, first + self.shown()))
        chosen = next((n for n, row in enumerate(self._rows) if row.chosen), None)
        looked_at = self.hasFocus() and self._at == found[-1] if found else True
        if chosen is not None and not looked_at and chosen > found[-1]:
            found[-1] = chosen
        return found

    def square(self, place: int) -> QRectF:
        """A square, counted from the left."""
        y = 2 * BAR_PX + GAP_PX + 4
        return QRectF(LABEL_PX + place * self._pitch(), y, SQUARE_PX, SQUARE_PX)

    def _go(self, number: int) -> None:
        """The keyboard goes to a candidate, whose square is brought into view."""
        self._at = number
        self._first = min(number, max(self._first, number - self.shown() + 1))

    def swatch_at(self, x: float, y: float) -> int | None:
        """The candidate under a point: its square with the numbers, or its part of a bar."""
        for place, number in enumerate(self.visible()):
            if self.square(place).adjusted(0, 0, 18, NUMBER_PX).contains(x, y):
                return number
        for bar, top in (("raw", 0), ("final", BAR_PX + 2)):
            if top <= y < top + BAR_PX and x >= LABEL_PX:
                return self._part_at(bar, (x - LABEL_PX) / max(1, self.width() - LABEL_PX))
        return None

    def _part_at(self, bar: str, share: float) -> int | None:
        edge = 0.0
        for number, row in enumerate(self._rows):
            edge += getattr(row, bar)
            if share < edge:
                return number
        return None

    # painting

    def paintEvent(self, event: QPaintEvent) -> None:
        """Bars, squares, numbers."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        secondary = QColor(self._palette.secondary)
        painter.setPen(secondary)
        if not self._rows:
            self._ui.draw(painter, 0, BAR_PX, self._note)
            return
        for bar, text, top in (("raw", self.tr("raw"), 0), ("final", self.tr("final"), BAR_PX + 2)):
            self._ui.draw(painter, 0, top + BAR_PX / 2 + self._ui.rise, text)
            self._paint_bar(painter, bar, top)
        for place, number in enumerate(self.visible()):
            self._paint_square(painter, self.square(place), number, self._rows[number])

    def _paint_bar(self, painter: QPainter, bar: str, top: int) -> None:
        x, room = float(LABEL_PX), self.width() - LABEL_PX - 1
        painter.fillRect(QRectF(x, top, room, BAR_PX), QColor(self._palette.raised))
        for row in self._rows:
            wide = getattr(row, bar) * room
            if wide > 0.2:
                painter.fillRect(QRectF(x, top, wide, BAR_PX), QColor(*row.rgb))
            x += wide
        painter.setPen(QColor(self._palette.line))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(QRectF(LABEL_PX, top, room, BAR_PX - 1))
        painter.setPen(QColor(self._palette.secondary))

    def _paint_square(self, painter: QPainter, box: QRectF, number: int, row: Swatch) -> None:
        painter.fillRect(box, QColor(*row.rgb))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        framed = row.chosen or (number == self._at and self.hasFocus())
        painter.setPen(QPen(QColor(self._palette.accent if framed else self._palette.line), 2 if framed else 1))
        painter.drawRect(box.adjusted(-1.5, -1.5, 1.5, 1.5) if framed else box)
        painter.setPen(QColor(self._palette.text if row.final > 0 else self._palette.secondary))
        baseline = box.bottom() + 14
        self._mono.draw(painter, box.left(), baseline, numbers.probability(row.raw))
        text = numbers.probability(row.final) if row.final > 0 else "–"
        self._mono.draw(painter, box.left(), baseline + 14, text)

    # mouse and keyboard

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose a colour."""
        number = self.swatch_at(event.position().x(), event.position().y())
        if number is not None and event.button() == Qt.MouseButton.LeftButton:
            self._go(number)
            self.chosen.emit(self._rows[number].token_id)

    def event(self, event: QEvent) -> bool:
        """Arrow keys go from colour to colour here; a tooltip says more."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            number = self.swatch_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), "" if number is None else self.tooltip(self._rows[number]), self)
            return True
        return claims_arrows(event) or super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right move, Enter takes."""
        move = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()))
        if move is not None and self._rows:
            self._go(max(0, min(len(self._rows) - 1, self._at + move)))
            self.update()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Space) and self._rows:
            self.chosen.emit(self._rows[self._at].token_id)
        else:
            super().keyPressEvent(event)
