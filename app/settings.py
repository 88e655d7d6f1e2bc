"""What the window remembers between two starts."""

from __future__ import annotations

import logging
from typing import cast, get_args

from PySide6.QtCore import QByteArray, QSettings

from app.state.state import LayoutName
from app.theme.palette import ThemeName

VERSION = 1

log = logging.getLogger(__name__)


class Settings:
    """Typed access to a QSettings; anything missing, damaged or of another version reads as absent."""

    def __init__(self, store: QSettings | None = None) -> None:
        self._store = store if store is not None else QSettings("Tokenglass", "Tokenglass")
        if self._store.value("version", VERSION, type=int) != VERSION:
            self._store.clear()

    @property
    def theme(self) -> ThemeName:
        """The last theme, else light."""
        value = self._store.value("theme", "light")
        return cast(ThemeName, value) if value in get_args(ThemeName) else "light"

    @property
    def layout(self) -> LayoutName:
        """The last named arrangement, else everything."""
        value = self._store.value("layout", "everything")
        return cast(LayoutName, value) if value in get_args(LayoutName) else "everything"

    def window(self) -> tuple[QByteArray, QByteArray] | None:
        """Geometry of the window and arrangement of its cards."""
        geometry, cards = self._store.value("window/geometry"), self._store.value("window/cards")
        if isinstance(geometry, QByteArray) and isinstance(cards, QByteArray):
            return geometry, cards
        return None

    def save(self, theme: ThemeName, layout: LayoutName, geometry: QByteArray, cards: QByteArray) -> bool:
        """Write everything; False (and a log line) if it cannot be written."""
        values = {
            "version": VERSION,
            "theme": theme,
            "layout": layout,
            "window/geometry": geometry,
            "window/cards": cards,
        }
        for name, value in values.items():
            self._store.setValue(name, value)
        self._store.sync()
        if self._store.status() is not QSettings.Status.NoError:
            log.warning("The window's settings could not be saved to %s.", self._store.fileName())
            return False
        return True
