"""Every action by name: type to filter, Enter to run it."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QEvent, QModelIndex, QObject, QSortFilterProxyModel, Qt, Slot
from PySide6.QtGui import QAction, QKeyEvent, QStandardItem, QStandardItemModel
from PySide6.QtWidgets import QAbstractItemView, QDialog, QLineEdit, QListView, QVBoxLayout, QWidget

ACTION_ROLE = Qt.ItemDataRole.UserRole + 1
LONGEST = 200  # characters of a filter


class CommandPalette(QDialog):
    """A dialog over the window; disabled actions are listed, but cannot be run."""

    def __init__(self, actions: Iterable[QAction], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Commands"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setModal(False)  # the run goes on, and so does the window
        self.resize(460, 380)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText(self.tr("Type a command…"))
        self.filter.setAccessibleName(self.tr("Filter"))
        self.filter.setMaxLength(LONGEST)  # Qt makes a regular expression of it, and warns of one too large
        model = QStandardItemModel(self)
        self._model = model
        self.add(actions)
        self.proxy = QSortFilterProxyModel(self)
        self.proxy.setSourceModel(model)
        self.proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.list = QListView()
        self.list.setModel(self.proxy)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setAccessibleName(self.tr("Commands"))
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 8, 8, 8)
        box.addWidget(self.filter)
        box.addWidget(self.list)
        self.filter.textChanged.connect(self._filtered)
        self.filter.returnPressed.connect(self._run_current)
        self.list.clicked.connect(self._run)
        self.filter.installEventFilter(self)
        self._filtered("")

    def add(self, actions: Iterable[QAction]) -> None:
        """List these, too."""
        for action in actions:
            self._model.appendRow(self._item(action))

    @staticmethod
    def _item(action: QAction) -> QStandardItem:
        shortcut = action.shortcut().toString(action.shortcut().SequenceFormat.NativeText)
        item = QStandardItem(f"{action.text()}    {shortcut}" if shortcut else action.text())
        item.setData(action, ACTION_ROLE)
        item.setEnabled(action.isEnabled())
        return item

    @Slot(str)
    def _filtered(self, text: str) -> None:
        self.proxy.setFilterFixedString(text.strip())
        self.list.setCurrentIndex(self.proxy.index(0, 0))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Up and down move in the list while the filter keeps the focus."""
        if watched is self.filter and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()))
            if step is not None:
                row = max(0, min(self.proxy.rowCount() - 1, self.list.currentIndex().row() + step))
                self.list.setCurrentIndex(self.proxy.index(row, 0))
                return True
        return super().eventFilter(watched, event)

    @Slot()
    def _run_current(self) -> None:
        self._run(self.list.currentIndex())

    @Slot(QModelIndex)
    def _run(self, index: QModelIndex) -> None:
        action = index.data(ACTION_ROLE) if index.isValid() else None
        if isinstance(action, QAction) and action.isEnabled():
            self.close()
            action.trigger()
