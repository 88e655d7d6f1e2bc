"""`keys_to_ignore_at_inference`: which outputs, and where forward, generate and pipeline differ about them."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from app.theme import fonts
from core.contract import OutputKey


class KeysPage(QWidget):
    """Wrapped labels, made anew when the keys are others."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("keys_to_ignore_at_inference")
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(12, 4, 8, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(8)
        self._grid.setColumnStretch(1, 1)
        self._shown: tuple[OutputKey, ...] | None = None

    def show_keys(self, keys: tuple[OutputKey, ...]) -> None:
        """Show these outputs."""
        if keys == self._shown:
            return
        self._shown = keys
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        row = 0
        for key in keys:
            title = _label(f"keys_to_ignore_at_inference · {key.key}")
            title.setFont(fonts.ui(bold=True))
            self._grid.addWidget(title, row, 0, 1, 2)
            for caller, use in key.uses:
                row += 1
                name = _label(caller)
                name.setFont(fonts.mono())
                self._grid.addWidget(name, row, 0, Qt.AlignmentFlag.AlignTop)
                self._grid.addWidget(_label(use, secondary=True), row, 1)
            row += 1
        if not keys:
            self._grid.addWidget(_label(self.tr("This class names no outputs to leave out."), secondary=True), 0, 0)
        self.setAccessibleDescription(
            ". ".join(f"{key.key}, {caller}: {use}" for key in keys for caller, use in key.uses)
        )


def _label(text: str, *, secondary: bool = False) -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setProperty("secondary", secondary)
    return label
