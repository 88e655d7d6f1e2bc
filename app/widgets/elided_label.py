"""A label that gives way: text that does not fit ends in `…`, the tooltip has all of it."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from app.widgets.visible_text import plain_tip


class ElidedLabel(QLabel):
    """Plain text on one line, elided at its end. It never asks for more than a few characters of room.

    A brief wording, where there is one, is shown instead of a cut text.
    """

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._brief = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setText(text)

    def setText(self, text: str) -> None:
        if text != self.text():
            super().setText(text)
            self.setAccessibleName(text)
            self._explain()

    def set_wordings(self, text: str, brief: str) -> None:
        """A text, and what says the same in less room."""
        if brief != self._brief:
            self._brief = brief
            self.update()
        self.setText(text)

    @property
    def shown(self) -> str:
        """What is painted."""
        metrics, room = self.fontMetrics(), self.contentsRect().width()
        text = self._brief if self._brief and metrics.horizontalAdvance(self.text()) > room else self.text()
        return metrics.elidedText(text, Qt.TextElideMode.ElideRight, room)

    def minimumSizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        return QSize(min(metrics.horizontalAdvance(self.text()), metrics.averageCharWidth() * 3), metrics.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(self.contentsRect(), int(self.alignment() | Qt.AlignmentFlag.AlignVCenter), self.shown)

    def resizeEvent(self, event: object) -> None:
        self._explain()

    def _explain(self) -> None:
        cut = self.fontMetrics().horizontalAdvance(self.text()) > self.width()
        self.setToolTip(plain_tip(self.text()) if cut else "")
