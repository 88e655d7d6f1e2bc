"""Arrow keys select tokens in the window, unless a focused control needs them itself."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QKeyEvent

_KEYS = {Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down}


def claims_arrows(event: QEvent) -> bool:
    """Called from a control's `event`: claims a pending arrow-key shortcut, so that the control gets the key."""
    if event.type() != QEvent.Type.ShortcutOverride or not isinstance(event, QKeyEvent):
        return False
    if Qt.Key(event.key()) not in _KEYS:
        return False
    event.accept()
    return True
