"""How the chips of the token flow are drawn: fills, text, whitespace marks, frames."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPen

from app.theme import fonts
from app.theme.colormaps import token_fills
from app.theme.palette import Palette
from app.widgets.flow_layout import FlowMetrics, Fragment
from app.widgets.text_cache import TextCache

LINE_PX, CHIP_PX, MARGIN_PX = 28, 23, 7
UNDERLINE_PX = 4.0
NO_FILL = -1


@dataclass(slots=True)
class Marks:
    """What is marked on the tokens, by token.

    fills: level of the token map in [0, 255], or -1. underlines: height of the bar under a token in [0, 255].
    marked: the first and the last token of the range to copy. struck: tokens that no later one may look at.
    """

    fills: array[int] = field(default_factory=lambda: array("h"))
    underlines: array[int] = field(default_factory=lambda: array("h"))
    prompt_tokens: int = 0
    selected: int | None = None
    hovered: int | None = None
    marked: tuple[int, int] | None = None
    struck: frozenset[int] = frozenset()


class FlowPainter:
    """Pens, brushes and fonts of one palette, and the drawing of a line."""

    def __init__(self, palette: Palette) -> None:
        font = fonts.mono(fonts.LARGE_PX)
        font.setFamilies([fonts.MONO_FAMILY, fonts.UI_FAMILY])  # Inter has the whitespace marks
        self._mono = TextCache(font)
        self.measure = self._mono.width
        self.swatches = False
        self.metrics = FlowMetrics(cell=self._mono.width("0"))
        self._baseline = LINE_PX / 2 + self._mono.rise
        self.surface, self._accent = QColor(palette.surface), QColor(palette.accent)
        self._brushes = [QBrush(QColor(*map(int, colour))) for colour in token_fills(palette)]
        self._text, self._secondary = QPen(QColor(palette.text)), QPen(QColor(palette.secondary))
        self._struck = QColor(palette.error)
        self._quiet = QPen(_faded(palette.secondary, 0.6))
        self._marked = QBrush(_faded(palette.accent, 0.25))

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""
        self.swatches = self._mono.swatches = on

    def paint_line(self, painter: QPainter, fragments: list[Fragment], y: int, marks: Marks) -> None:
        """One line of chips with its top at `y`."""
        fills, brushes, chip_y = marks.fills, self._brushes, y + (LINE_PX - CHIP_PX) / 2
        painter.setPen(Qt.PenStyle.NoPen)
        for fragment in fragments:
            level = fills[fragment.token]
            if level >= 0:
                painter.setBrush(brushes[level])
                painter.drawRoundedRect(QRectF(MARGIN_PX + fragment.x, chip_y, fragment.width, CHIP_PX), 3, 3)
        if marks.underlines:
            self._paint_underlines(painter, fragments, y, marks.underlines)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        baseline, prompt, x0 = y + self._baseline, marks.prompt_tokens, MARGIN_PX + self.metrics.pad
        for fragment in fragments:
            plain = fills[fragment.token] < 0  # on a fill only the text colour is readable
            painter.setPen(self._secondary if plain and (fragment.quiet or fragment.token < prompt) else self._text)
            self._mono.draw(painter, x0 + fragment.x, baseline, fragment.text)
            if fragment.lead:
                self._paint_lead(painter, fragment, baseline)
        if marks.struck:
            self._paint_struck(painter, fragments, y, marks.struck)
        self._paint_frames(painter, fragments, y, marks)

    def _paint_struck(self, painter: QPainter, fragments: list[Fragment], y: int, struck: frozenset[int]) -> None:
        painter.setPen(QPen(self._struck, 2))
        middle = y + LINE_PX / 2
        for fragment in fragments:
            if fragment.token in struck:
                left = MARGIN_PX + fragment.x
                painter.drawLine(QPointF(left, middle), QPointF(left + fragment.width, middle))

    def _paint_lead(self, painter: QPainter, fragment: Fragment, baseline: float) -> None:
        """A quiet mark for each leading space: the foot of ␣ below the base line."""
        painter.setPen(self._quiet)
        step = self.metrics.lead(1) if fragment.lead == 1 else self.metrics.cell
        for i in range(fragment.lead):
            right = MARGIN_PX + fragment.x - i * step - 1.5
            painter.drawLine(QPointF(right - 4, baseline + 2.5), QPointF(right, baseline + 2.5))

    def _paint_underlines(self, painter: QPainter, fragments: list[Fragment], y: int, levels: array[int]) -> None:
        painter.setBrush(self._accent)
        bottom = y + (LINE_PX + CHIP_PX) / 2
        for fragment in fragments:
            if fragment.token < len(levels) and levels[fragment.token] > 0:
                height = UNDERLINE_PX * levels[fragment.token] / 255.0
                painter.drawRect(QRectF(MARGIN_PX + fragment.x, bottom - height, fragment.width, height))

    def _paint_frames(self, painter: QPainter, fragments: list[Fragment], y: int, marks: Marks) -> None:
        """Tokens marked for copying, the hovered one, the selected one."""
        first, last = marks.marked or (1, 0)
        for f in fragments:
            box = QRectF(MARGIN_PX + f.x, y + (LINE_PX - CHIP_PX) / 2, f.width, CHIP_PX)
            if first <= f.token <= last:
                painter.fillRect(box, self._marked)
            if f.token == marks.selected:
                painter.setPen(QPen(self._accent, 2))
                painter.drawRoundedRect(box.adjusted(0, -0.5, 0, 0.5), 4, 4)
            elif f.token == marks.hovered and f.token >= marks.prompt_tokens:
                painter.setPen(QPen(self._accent, 1))
                painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)

    def paint_dot(self, painter: QPainter, x: float, y: int) -> None:
        """The dot of the newest token, behind a chip that ends at `x`."""
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._accent)
        painter.drawEllipse(QPointF(MARGIN_PX + x + 7, y + LINE_PX / 2), 3, 3)


def _faded(colour: str, opacity: float) -> QColor:
    result = QColor(colour)
    result.setAlphaF(opacity)
    return result
