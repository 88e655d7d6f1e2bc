"""A slider that keeps its arrow keys and leaves the wheel to the scroll area around it."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QSlider, QWidget

from app.widgets.arrow_keys import claims_arrows


class QuietSlider(QSlider):
    """Horizontal; a wheel over it scrolls the panel instead of changing a value unseen."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()

    def event(self, event: QEvent) -> bool:
        return claims_arrows(event) or super().event(event)
