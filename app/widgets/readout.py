"""Changing text in a title bar: the longest wording that fits, without asking the layout again at every step."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.theme.style import GAP_PX
from app.widgets.text_cache import TextCache

HEIGHT_PX = 18
LEAST_PX = 60  # narrower remains of a text say nothing


class Readout(QWidget):
    """One line of secondary text, given in several wordings, the longest first; the last one is cut with … if needed.

    Its wish for room only grows while the wording stays: numbers that get a digit more or less move nothing.
    `wish_changed`: what is left for the others in the title bar has to be shared anew.
    """

    wish_changed = Signal()

    def __init__(self, *, numbers: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._cache = TextCache(fonts.mono(fonts.SMALL_PX) if numbers else fonts.ui())
        self._right = numbers
        self._wordings: tuple[str, ...] = ("",)
        self._index = 0
        self._room_px = 10_000
        self._wish_px = 0
        self._palette = LIGHT
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_wordings(self, *wordings: str) -> None:
        """The same thing in fewer and fewer words. An empty one gives the room back."""
        if wordings != self._wordings:
            self._wordings = wordings
            self._fit()
            self.update()

    def set_room(self, px: int) -> None:
        """The most it may take of the title bar."""
        if px != self._room_px:
            self._room_px = px
            self._fit(anew=True)
            self.update()

    def _fit(self, anew: bool = False) -> None:
        widths = [self._cache.width(w) + 2 for w in self._wordings]
        index = next((i for i, width in enumerate(widths) if width <= self._room_px), len(widths) - 1)
        needed = min(int(widths[index]), self._room_px) if self._wordings[index] else 0
        if needed < min(widths[index], LEAST_PX) - 1:
            needed = 0
        if anew or index != self._index or needed > self._wish_px or not needed:
            before, self._index, self._wish_px = self._wish_px, index, needed
            if needed != before:
                self.updateGeometry()
                self.wish_changed.emit()

    @property
    def whole(self) -> str:
        """The longest wording."""
        return self._wordings[0]

    def text(self) -> str:
        """What is shown now."""
        return self._cache.elided(self._wordings[self._index], self._room_px)

    def sizeHint(self) -> QSize:
        """Room for the wording that fits."""
        return QSize(self._wish_px, HEIGHT_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Numbers end at the right edge, words begin at the left one."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        painter.setPen(QColor(self._palette.secondary))
        text = self._cache.elided(self._wordings[self._index], self.width())
        baseline = self.height() / 2 + self._cache.rise
        if self._right:
            self._cache.draw_right(painter, self.width(), baseline, text)
        else:
            self._cache.draw(painter, 0, baseline, text)


def share_room(width: int, title: str, fixed: tuple[QWidget, ...], *readouts: tuple[Readout, int]) -> None:
    """Give each readout its room in a title bar of `width` px, the first one first; a pair has the least it should get.

    fixed: the other controls, which keep their size.
    """
    room = width - int(QFontMetricsF(fonts.ui(bold=True)).horizontalAdvance(title)) - GAP_PX
    room -= sum(widget.sizeHint().width() + GAP_PX for widget in fixed)
    for i, (readout, _) in enumerate(readouts):
        reserved = sum(least + GAP_PX for _, least in readouts[i + 1 :])
        readout.set_room(max(0, room - GAP_PX - reserved))
        room -= readout.sizeHint().width() + GAP_PX
