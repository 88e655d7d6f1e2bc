"""Tabs over pages: the arrow keys move between them, not between tokens."""

from __future__ import annotations

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QTabBar, QWidget

from app.widgets.arrow_keys import claims_arrows


class ArrowTabs(QTabBar):
    """Underlined tabs with a name and a description for screen readers."""

    def __init__(self, names: tuple[str, ...], name: str, description: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("underline", True)
        self.setDrawBase(False)
        self.setExpanding(False)
        self.setUsesScrollButtons(False)
        self.setAccessibleName(name)
        self.setAccessibleDescription(description)
        for text in names:
            self.addTab(text)

    def event(self, event: QEvent) -> bool:
        return claims_arrows(event) or super().event(event)
