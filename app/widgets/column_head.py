"""The head of one of two columns: the colour of its branch, what is particular about it, whether it is in use."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QSizePolicy, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.text_cache import TextCache
from app.widgets.visible_text import plain_tip

HEIGHT_PX, PAD_PX, DOT_PX = 24, 8, 8


class ColumnHead(QAbstractButton):
    """A click takes the branch in use."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setCheckable(True)
        self._palette = LIGHT
        self._colour, self._note, self._short = 0, "", ""
        self._shown: tuple[object, ...] = ()
        self._text, self._bold = TextCache(fonts.ui(fonts.SMALL_PX)), TextCache(fonts.ui(fonts.SMALL_PX, bold=True))

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def show_branch(self, text: str, short: str, note: str, end: str, colour: int, in_use: bool) -> None:
        """What it is, in fewer words, how far it is, how it ended, the number of its colour."""
        shown = (text, short, note, end, colour, in_use)
        if shown == self._shown:
            return
        self._shown = shown
        self._short, self._note, self._colour = short, note, colour
        self.setText(text)
        self.setAccessibleName(self.tr("Branch {0}").format(text))
        lines = [line for line in (text, note, end, "" if in_use else self.tr("Click to use this side")) if line]
        self.setAccessibleDescription(", ".join(lines[1:]))
        self.setToolTip(plain_tip("\n".join(lines)))
        self.setChecked(in_use)
        self.update()

    def nextCheckState(self) -> None:
        """The state decides what is checked."""

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(160, HEIGHT_PX)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A dot, the text, the note at the right end; a line in the colour of the branch below the one in use."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette, middle, width = self._palette, HEIGHT_PX / 2, self.width()
        colour = QColor(palette.categorical[self._colour % len(palette.categorical)])
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawEllipse(QPointF(PAD_PX + DOT_PX / 2, middle), DOT_PX / 2, DOT_PX / 2)
        painter.drawRect(0, HEIGHT_PX - (2 if self.isChecked() else 1), width, 2 if self.isChecked() else 1)
        painter.setPen(QColor(palette.secondary))
        note = self._text.width(self._note)
        left, right = PAD_PX + DOT_PX + 6, width - PAD_PX
        if left + note + 80 <= right:
            self._text.draw_right(painter, right, middle + self._text.rise - 1, self._note)
            right -= int(note) + 12
        words = self._bold if self.isChecked() else self._text
        painter.setPen(QColor(palette.text))
        fits = words.width(self.text()) <= right - left
        shown = self.text() if fits else words.elided(self._short, right - left)
        words.draw(painter, left, middle + words.rise - 1, shown)
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(palette.accent), 2))
            painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), 4, 4)
