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
DIFFERENCE_PX, PARTED_PX = 2.0, 3.0
GONE_PX = 2.5  # of each line of a deleted token from its middle
NO_FILL = -1


@dataclass(slots=True)
class Marks:
    """What is marked on the tokens, by token.

    fills: level of the token map in [0, 255], or -1. underlines: height of the bar under a token in [0, 255].
    marked: the first and the last token of the range to copy. struck: tokens that no later one may look at;
    gone: those whose keys and values were deleted.
    same: 1 for a token that another text has, too, at this place, 0 for one that differs; as far as both go.
    parted: the first token that differs. colour: of what differs.
    copied: those that a draft took over; matched: those by which it found them, [start, stop) each.
    """

    fills: array[int] = field(default_factory=lambda: array("h"))
    underlines: array[int] = field(default_factory=lambda: array("h"))
    prompt_tokens: int = 0
    selected: int | None = None
    hovered: int | None = None
    marked: tuple[int, int] | None = None
    struck: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    same: bytes = b""
    parted: int | None = None
    colour: str = ""
    copied: tuple[int, int] = (0, 0)
    matched: tuple[tuple[int, int], ...] = ()

    def is_quiet(self, token: int) -> bool:
        """Whether nothing is to be seen in this token: the other text has it, too."""
        return token < len(self.same) and self.same[token] == 1

    def differs(self, token: int) -> bool:
        """Whether the other text has another token here."""
        return token < len(self.same) and self.same[token] == 0


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
            if level >= 0 and not marks.is_quiet(fragment.token):
                painter.setBrush(brushes[level])
                painter.drawRoundedRect(QRectF(MARGIN_PX + fragment.x, chip_y, fragment.width, CHIP_PX), 3, 3)
        if marks.underlines:
            self._paint_underlines(painter, fragments, y, marks.underlines)
        if marks.same:
            self._paint_differences(painter, fragments, y, marks)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        baseline, prompt, x0 = y + self._baseline, marks.prompt_tokens, MARGIN_PX + self.metrics.pad
        for fragment in fragments:
            same = marks.is_quiet(fragment.token)
            plain = fills[fragment.token] < 0 or same  # on a fill only the text colour is readable
            quiet = fragment.quiet or fragment.token < prompt or same
            painter.setPen(self._secondary if plain and quiet else self._text)
            self._mono.draw(painter, x0 + fragment.x, baseline, fragment.text)
            if fragment.lead:
                self._paint_lead(painter, fragment, baseline)
        if marks.struck:
            self._paint_struck(painter, fragments, y + LINE_PX / 2, marks.struck, 2)
        if marks.gone:
            for beside in (-GONE_PX, GONE_PX):
                self._paint_struck(painter, fragments, y + LINE_PX / 2 + beside, marks.gone, 1)
        self._paint_frames(painter, fragments, y, marks)

    def _paint_struck(
        self, painter: QPainter, fragments: list[Fragment], middle: float, struck: frozenset[int], width: int
    ) -> None:
        painter.setPen(QPen(self._struck, width))
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

    def _paint_differences(self, painter: QPainter, fragments: list[Fragment], y: int, marks: Marks) -> None:
        """A line under what differs, and a bar in front of the first such token."""
        painter.setBrush(QColor(marks.colour))
        bottom = y + (LINE_PX + CHIP_PX) / 2
        first = True
        for fragment in fragments:
            x = MARGIN_PX + fragment.x
            if marks.differs(fragment.token):
                painter.drawRect(QRectF(x, bottom, fragment.width, DIFFERENCE_PX))
            if fragment.token == marks.parted and first:
                first = False
                painter.drawRect(QRectF(x - PARTED_PX, y, PARTED_PX, LINE_PX))

    def _paint_frames(self, painter: QPainter, fragments: list[Fragment], y: int, marks: Marks) -> None:
        """Tokens marked for copying, the hovered one, the selected one."""
        first, last = marks.marked or (1, 0)
        for f in fragments:
            box = QRectF(MARGIN_PX + f.x, y + (LINE_PX - CHIP_PX) / 2, f.width, CHIP_PX)
            if first <= f.token <= last:
                painter.fillRect(box, self._marked)
            if marks.copied[0] <= f.token < marks.copied[1]:
                painter.setPen(QPen(self._accent, 1.2, Qt.PenStyle.DotLine))
                painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
            if any(start <= f.token < stop for start, stop in marks.matched):
                painter.fillRect(QRectF(box.left(), box.top() - 1.5, box.width(), 2.5), self._accent)
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
