"""A page that says what will appear in its place, and how to get it."""

from __future__ import annotations

from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty


class EmptyView(QWidget):
    """Title and hint in the middle."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._words = ("", "")
        self._palette = LIGHT

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.update()

    def set_words(self, title: str, hint: str = "") -> None:
        """What to say."""
        if (title, hint) != self._words:
            self._words = (title, hint)
            self.setAccessibleDescription(f"{title}. {hint}".strip())
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The words."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(self._palette.surface))
        paint_empty(painter, self.rect(), self._palette, *self._words)
