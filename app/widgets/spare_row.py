"""A row of controls that asks for little room: what does not fit is hidden, the less important first."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QWidget

from app.theme.style import GAP_PX


class SpareRow(QWidget):
    """`first` at the left always stays; the `others` stand at the right, the most important one last."""

    def __init__(self, first: QWidget, others: tuple[QWidget, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._first, self._others = first, others
        self._wanted: frozenset[QWidget] = frozenset(others)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(GAP_PX)
        row.addWidget(first)
        row.addStretch(1)
        for widget in others:
            row.addWidget(widget)

    def want(self, *widgets: QWidget) -> None:
        """Show these of the others, as far as there is room."""
        self._wanted = frozenset(widgets)  # the same may need other room by now
        self._fit()

    def minimumSizeHint(self) -> QSize:
        """The first widget alone."""
        return QSize(self._first.minimumSizeHint().width(), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Share the room anew."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        room = self.width() - self._first.sizeHint().width()
        for widget in reversed(self._others):
            needed = widget.sizeHint().width() + GAP_PX
            fits = widget in self._wanted and needed <= room
            widget.setVisible(fits)
            room -= needed if fits else 0
