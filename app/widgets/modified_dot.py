"""The dot before a parameter: filled when the user changed it (a click resets), a ring while a change is pending."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QWidget

DIAMETER_PX = 7
WIDTH_PX = 12  # the padding of a card: names stay aligned with its title


class ModifiedDot(QAbstractButton):
    """Takes part in the keyboard focus only while it can reset something."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._changed = False
        self._pending = False
        self.setFixedSize(WIDTH_PX, 24)
        self._follow()

    def show_state(self, changed: bool, pending: bool) -> None:
        """Whether the value was changed, and whether no step has run under it yet."""
        if (changed, pending) != (self._changed, self._pending):
            self._changed, self._pending = changed, pending
            self._follow()

    def _follow(self) -> None:
        self.setEnabled(self._changed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus if self._changed else Qt.FocusPolicy.NoFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor if self._changed else Qt.CursorShape.ArrowCursor)
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(WIDTH_PX, 24)

    def paintEvent(self, event: QPaintEvent) -> None:
        if not (self._changed or self._pending):
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        accent = self.palette().accent().color()
        inset = 1.0 if self._pending else 0.0
        box = QRectF(2.5, (self.height() - DIAMETER_PX) / 2, DIAMETER_PX, DIAMETER_PX)
        painter.setPen(QPen(accent, 2.0) if self._pending else Qt.PenStyle.NoPen)
        painter.setBrush(Qt.BrushStyle.NoBrush if self._pending else accent)
        painter.drawEllipse(box.adjusted(inset, inset, -inset, -inset))
        if self.hasFocus() or self.underMouse():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(accent, 1.0))
            painter.drawEllipse(box.adjusted(-2.0, -2.0, 2.0, 2.0))
