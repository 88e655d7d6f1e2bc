"""The stages of the pipeline one under the other: what each left of the probability, whom it killed, the entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QToolTip, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.text_cache import TextCache

ROW_PX, BAR_PX, PAD_PX, GAP_PX = 42, 6, 8, 12


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage: its name and parameters, the mass it left of what came in, words for the rest.

    left, short: what is left, where there is room and where there is not.
    mass: of the probability before it, 1 for the first and the last line. changed: other than it ran.
    """

    name: str
    params: str
    mass: float
    left: str
    short: str
    entropy: str
    killed: str
    tooltip: str
    changed: bool = False


class WaterfallRows(QAbstractScrollArea):
    """A line a stage; only the visible ones are painted."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(2 * ROW_PX)
        self._lines: Sequence[StageLine] = ()
        self._empty = ("", "")
        self._mono, self._ui = TextCache(fonts.mono(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX))
        self._bold = TextCache(fonts.ui(fonts.BODY_PX, bold=True))
        self.set_palette(LIGHT)

    @property
    def lines(self) -> Sequence[StageLine]:
        """What is shown."""
        return self._lines

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

    def show_lines(self, lines: Sequence[StageLine]) -> None:
        """Show these stages."""
        self._lines = lines
        self._fit()
        self.viewport().update()

    def sizeHint(self) -> QSize:
        """Four stages."""
        return QSize(360, 4 * ROW_PX)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The scroll bar follows."""
        self._fit()

    def _fit(self) -> None:
        bar, height = self.verticalScrollBar(), self.viewport().height()
        bar.setPageStep(max(1, height))
        bar.setSingleStep(ROW_PX // 2)
        bar.setRange(0, max(0, len(self._lines) * ROW_PX - height))

    def viewportEvent(self, event: QEvent) -> bool:
        """Tooltips name the killed tokens."""
        if isinstance(event, QHelpEvent):
            row = (event.pos().y() + self.verticalScrollBar().value()) // ROW_PX
            text = self._lines[row].tooltip if 0 <= row < len(self._lines) else ""
            shown = f"<div style='white-space:pre'>{escape(text)}</div>" if text else ""
            QToolTip.showText(event.globalPos(), shown, self.viewport())
            return True
        return super().viewportEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The visible stages."""
        painter = QPainter(self.viewport())
        if not self._lines:
            paint_empty(painter, self.viewport().rect(), self._palette, *self._empty)
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        top, height = self.verticalScrollBar().value(), self.viewport().height()
        for row in range(top // ROW_PX, min(len(self._lines), (top + height) // ROW_PX + 1)):
            self._paint_line(painter, row * ROW_PX - top, self._lines[row])

    def _paint_line(self, painter: QPainter, y: int, line: StageLine) -> None:
        palette, width = self._palette, self.viewport().width()
        text, secondary = QColor(palette.text), QColor(palette.secondary)
        first, second = y + 13.0, y + 29.0  # middles of the two lines of words
        painter.setPen(QColor(palette.accent) if line.changed else text)
        self._bold.draw(painter, PAD_PX, first + self._bold.rise, line.name)
        x = PAD_PX + self._bold.width(line.name) + 8
        words = line.left if self._mono.width(line.left) + GAP_PX <= width - PAD_PX - x else line.short
        left = self._mono.width(words)
        painter.setPen(text)
        self._mono.draw_right(painter, width - PAD_PX, first + self._mono.rise, words)
        painter.setPen(secondary)
        params = self._mono.elided(line.params, max(0.0, width - PAD_PX - left - GAP_PX - x))
        self._mono.draw(painter, x, first + self._mono.rise, params)
        entropy = self._mono.width(line.entropy)
        self._mono.draw_right(painter, width - PAD_PX, second + self._mono.rise, line.entropy)
        killed = self._mono.elided(line.killed, width - 2 * PAD_PX - entropy - GAP_PX)
        self._mono.draw(painter, PAD_PX, second + self._mono.rise, killed)
        bar = QRectF(PAD_PX, y + ROW_PX - BAR_PX, width - 2 * PAD_PX, BAR_PX - 2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(palette.raised))
        painter.drawRoundedRect(bar, 2, 2)
        kept = QRectF(bar)
        kept.setWidth(bar.width() * min(1.0, max(0.0, line.mass)))
        painter.setBrush(QColor(palette.accent if line.changed else palette.bar))
        painter.drawRoundedRect(kept, 2, 2)
        painter.setPen(QColor(palette.grid))
        painter.drawLine(QPointF(0, y + ROW_PX + 0.5), QPointF(width, y + ROW_PX + 0.5))
