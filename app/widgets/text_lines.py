"""Lines of small text that change with every step."""

from __future__ import annotations

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette

LINE_PX = 17


class TextLines(QWidget):
    """A few lines of small monospaced text that change with every step, without asking the layout each time."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)  # so that nothing below is painted again
        self._font = fonts.mono(fonts.SMALL_PX)
        self._metrics = QFontMetricsF(self._font)
        self._paragraphs: tuple[str, ...] = ()
        self._palette = LIGHT
        self._columns = 0
        self._lines: list[str] = []

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_paragraphs(self, *paragraphs: str) -> None:
        """Paragraphs of plain text, each broken at spaces where it is too wide; the height follows."""
        columns = int(self.width() / self._metrics.horizontalAdvance("0"))
        if (paragraphs, columns) == (self._paragraphs, self._columns):
            return
        self._paragraphs, self._columns = paragraphs, columns
        self._lines = [line for paragraph in paragraphs for line in wrap(paragraph, columns)]
        if self.height() != len(self._lines) * LINE_PX:
            self.setFixedHeight(len(self._lines) * LINE_PX)
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Break the lines for the new width."""
        self.set_paragraphs(*self._paragraphs)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Line by line."""
        painter = QPainter(self)
        painter.fillRect(event.rect(), QColor(self._palette.surface))
        painter.setFont(self._font)
        painter.setPen(QColor(self._palette.secondary))
        ascent = self._metrics.ascent()
        for row, line in enumerate(self._lines):
            painter.drawText(QPointF(0, row * LINE_PX + ascent + 1), line)


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most `columns` characters, broken at spaces; what is wider, at no-break spaces, too."""
    lines: list[str] = []
    line = ""
    words = (word.split("\u00a0") if len(word) > columns else (word,) for word in text.split(" "))
    for word in (part for parts in words for part in parts):
        if line and len(line) + 1 + len(word) > columns:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
