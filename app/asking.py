"""Files, folders and names asked for, in dialogs beside the window: everything else stays in use meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFileDialog, QInputDialog, QWidget

Chosen = Callable[[str], None]


def open_file(parent: QWidget, title: str, chosen: Chosen, kinds: str = "") -> None:
    """Call `chosen` with the path of a file that is there."""
    dialog = QFileDialog(parent, title, "", kinds)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    _ask_path(dialog, chosen)


def open_folder(parent: QWidget, title: str, chosen: Chosen) -> None:
    """Call `chosen` with the path of a folder that is there."""
    dialog = QFileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    _ask_path(dialog, chosen)


def save_file(parent: QWidget, title: str, chosen: Chosen, name: str = "", kinds: str = "") -> None:
    """Call `chosen` with a path to write to; whether a file there may be replaced was asked.

    A path without a suffix is given that of `name`.
    """
    dialog = QFileDialog(parent, title, "", kinds)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setFileMode(QFileDialog.FileMode.AnyFile)
    dialog.selectFile(name)
    dialog.setDefaultSuffix(name.rpartition(".")[2] if "." in name else "")
    _ask_path(dialog, chosen)


def name(parent: QWidget, title: str, label: str, chosen: Chosen) -> None:
    """Call `chosen` with a text of one line that is not empty."""
    dialog = QInputDialog(parent)
    dialog.setWindowTitle(title)
    dialog.setLabelText(label)
    dialog.textValueSelected.connect(lambda text: chosen(text.strip()) if text.strip() else None)
    _show(dialog)


def _ask_path(dialog: QFileDialog, chosen: Chosen) -> None:
    dialog.fileSelected.connect(lambda path: chosen(path) if path else None)
    _show(dialog)


def _show(dialog: QDialog) -> None:
    # Not deleted when it closes: a box of its own (“File not found”) may be open, with this dialog on the stack.
    above = dialog.parentWidget()
    assert above is not None
    for before in above.findChildren(QDialog, options=Qt.FindChildOption.FindDirectChildrenOnly):
        if isinstance(before, QFileDialog | QInputDialog) and before is not dialog and not before.isVisible():
            before.deleteLater()
    dialog.setModal(False)
    dialog.show()
