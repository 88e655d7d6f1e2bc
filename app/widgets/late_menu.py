"""A quiet button whose menu is filled when it opens."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QMenu, QToolButton, QWidget

Fill = Callable[[QMenu], None]


class LateMenu(QToolButton):
    """`fill(menu)` is called each time before the menu is shown."""

    def __init__(self, text: str, tip: str, fill: Fill, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._fill = fill
        self.setText(f"{text} ▾")
        self.setAccessibleName(text)
        self.setToolTip(tip)
        self.setProperty("plain", True)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.setStyleSheet("QToolButton::menu-indicator { image: none; width: 0 }")
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        menu.aboutToShow.connect(self.refill)
        self.setMenu(menu)

    @Slot()
    def refill(self) -> None:
        """The menu as it is now."""
        menu = self.menu()
        menu.clear()
        self._fill(menu)
