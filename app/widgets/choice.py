"""A quiet chooser for title bars: text with a small arrow, a menu behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QMenu, QToolButton, QWidget

from app.widgets.visible_text import plain_label


class Choice(QToolButton):
    """`label value ▾`; picking another option calls `chosen(key)`. Options are (key, text) pairs."""

    def __init__(self, label: str, name: str, chosen: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._label = label
        self._chosen = chosen
        self._options: tuple[tuple[str, str], ...] = ()
        self._key: str | None = None
        self.setAutoRaise(True)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
        self.setProperty("plain", True)
        self.setStyleSheet("QToolButton::menu-indicator { image: none; width: 0 }")
        self.setAccessibleName(name)
        self.setToolTip(name)
        self._menu = QMenu(self)
        self._menu.setProperty("checks", True)
        self.setMenu(self._menu)

    @property
    def key(self) -> str | None:
        """The option shown."""
        return self._key

    def sizeHint(self) -> QSize:
        """The text, without the room that styles keep for an arrow of their own."""
        return QSize(self.fontMetrics().horizontalAdvance(self.text()) + 10, super().sizeHint().height())

    def set_label(self, label: str) -> None:
        """Another label, where there is less room."""
        if label != self._label:
            self._label = label
            if self._key is not None:
                self._show(self._key)
            self.updateGeometry()

    def set_options(self, options: Sequence[tuple[str, str]]) -> None:
        """Offer other options; returns at once when they are the same."""
        if tuple(options) == self._options:
            return
        self._options = tuple(options)
        self._menu.clear()
        group = QActionGroup(self._menu)
        for key, text in self._options:
            action = self._menu.addAction(plain_label(text))
            action.setCheckable(True)
            action.setData(key)
            group.addAction(action)
            action.triggered.connect(lambda _checked=False, key=key: self._chosen(key))
        if self._key is not None:
            self._show(self._key)

    def show_key(self, key: str) -> None:
        """Show the option as the current one, without calling back."""
        if key != self._key:
            self._key = key
            self._show(key)

    def _show(self, key: str) -> None:
        text = dict(self._options).get(key, key)
        self.setText(f"{self._label} {text} ▾".strip())
        self.setAccessibleDescription(text)
        for action in self._menu.actions():
            action.setChecked(action.data() == key)
