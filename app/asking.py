"""Files, folders and names asked for, in dialogs beside the window: everything else stays in use meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QFileInfo, Qt, Slot
from PySide6.QtWidgets import QDialog, QFileDialog, QInputDialog, QLineEdit, QMessageBox, QWidget

Chosen = Callable[[str], None]
MOST_SHOWN = 60  # characters of a file's name


class FileDialog(QFileDialog):
    """Qt's dialog, without the boxes with which it holds up the whole program.

    Whether a file may be replaced, and that one is not there, is said in boxes beside the window. Files are not
    deleted or renamed here, which Qt would ask about, too.
    """

    def __init__(self, parent: QWidget, title: str, kinds: str = "") -> None:
        super().__init__(parent, title, "", kinds)
        self.setOption(QFileDialog.Option.ReadOnly)
        self.box: QMessageBox | None = None
        self.finished.connect(self._close_box)

    def accept(self) -> None:
        """As Qt's, where there is nothing to say or to ask."""
        self._close_box()
        paths = self.selectedFiles()
        if not paths or self.findChild(QLineEdit, "fileNameEdit") is None:  # the system's dialog asks for itself
            super().accept()
            return
        file, saves = QFileInfo(paths[0]), self.acceptMode() == QFileDialog.AcceptMode.AcceptSave
        if saves and file.exists() and not file.isDir():
            self._ask_replace(paths[0], file.fileName())
        elif not saves and not file.exists():
            self._box(self.tr("“{0}” is not there.").format(file.fileName()[:MOST_SHOWN])).show()
        else:
            super().accept()

    def _ask_replace(self, path: str, name: str) -> None:
        box = self._box(self.tr("“{0}” is there already. Replace it?").format(name[:MOST_SHOWN]))
        box.setStandardButtons(QMessageBox.StandardButton.Cancel)
        replace = box.addButton(self.tr("Replace"), QMessageBox.ButtonRole.DestructiveRole)
        replace.clicked.connect(lambda: self._replace(path))
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        box.show()

    def _replace(self, path: str) -> None:
        self.fileSelected.emit(path)
        self.done(QDialog.DialogCode.Accepted)

    def _box(self, text: str) -> QMessageBox:
        self.box = box = QMessageBox(self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setText(text)
        box.setWindowTitle(self.windowTitle())
        box.setModal(False)
        return box

    @Slot()
    def _close_box(self) -> None:
        if self.box is not None:
            self.box.close()
            self.box.deleteLater()
            self.box = None


def open_file(parent: QWidget, title: str, chosen: Chosen, kinds: str = "") -> None:
    """Call `chosen` with the path of a file that is there."""
    dialog = FileDialog(parent, title, kinds)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    _ask_path(dialog, chosen)


def open_folder(parent: QWidget, title: str, chosen: Chosen) -> None:
    """Call `chosen` with the path of a folder that is there."""
    dialog = FileDialog(parent, title)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    _ask_path(dialog, chosen)


def save_file(parent: QWidget, title: str, chosen: Chosen, name: str = "", kinds: str = "") -> None:
    """Call `chosen` with a path to write to; whether a file there may be replaced was asked.

    A path without a suffix is given that of `name`.
    """
    dialog = FileDialog(parent, title, kinds)
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


def _ask_path(dialog: FileDialog, chosen: Chosen) -> None:
    dialog.fileSelected.connect(lambda path: chosen(path) if path else None)
    _show(dialog)


def _show(dialog: QDialog) -> None:
    # Not deleted when it closes: what closed it may be one of its own methods, still on the stack.
    above = dialog.parentWidget()
    assert above is not None
    for before in above.findChildren(QDialog, options=Qt.FindChildOption.FindDirectChildrenOnly):
        if isinstance(before, QFileDialog | QInputDialog) and before is not dialog and not before.isVisible():
            before.deleteLater()
    dialog.setModal(False)
    dialog.show()
