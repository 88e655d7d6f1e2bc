"""A compact read-only table, sorted by a click on a title; a third click gives the order back."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import (
    QAbstractTableModel,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    Qt,
    Signal,
)
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.empty import paint_empty
from app.widgets.table_data import Order, Table

ROW_PX, HEAD_PX = 20, 22
HIGHEST_PX = 9999
GAP_PX = 6  # between rows of several lines
CELL_PX, ARROW_PX = 16, 10  # around a text; beside the title, where the arrow of the order stands
SAMPLE = 24  # rows that decide how wide a column is
NOTHING = Table((), 0, None)

Index = QModelIndex | QPersistentModelIndex


class TableModel(QAbstractTableModel):
    """Shows a `Table`, in its own order or sorted by one column."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = NOTHING
        self._sorted: Order | None = None
        self._order: NDArray[np.intp] | None = None

    def show(self, table: Table) -> None:
        """Another table, or the same one with more rows."""
        before, titles = self.table, [c.title for c in self.table.columns]
        if titles != [c.title for c in table.columns] or table.rows < before.rows:
            self.beginResetModel()
            self.table = table
            self._sort()
            self.endResetModel()
            return
        grown = table.rows > before.rows
        if grown:
            self.beginInsertRows(QModelIndex(), before.rows, table.rows - 1)
        self.table = table
        self._sort()
        if grown:
            self.endInsertRows()
        if before.rows and (table.key != before.key or (grown and self._order is not None)):
            last = self.index(before.rows - 1, len(table.columns) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def _sort(self) -> None:
        shown = self._sorted if self.table.columns else None  # the table of nothing has none to sort by
        self._order = None if shown is None else shown.of(self.table)

    def sort(self, column: int, direction: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; -1 is the table's own order."""
        self.layoutAboutToBeChanged.emit()
        descending = direction == Qt.SortOrder.DescendingOrder
        self._sorted = Order(column, descending) if 0 <= column < len(self.table.columns) else None
        self._sort()
        self.layoutChanged.emit()

    def source_row(self, row: int) -> int:
        """The row of the table that a row of the view shows."""
        return row if self._order is None else int(self._order[row])

    def view_row(self, source: int) -> int:
        """Where the view shows a row of the table."""
        return source if self._order is None else int(np.flatnonzero(self._order == source)[0])

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 (Qt's own signature)
        """Rows; cells have no children."""
        return 0 if parent.isValid() else self.table.rows

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Columns; cells have no children."""
        return 0 if parent.isValid() else len(self.table.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text and alignment."""
        column = self.table.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.cell(self.source_row(index.row()))
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column.numeric)
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Titles."""
        if orientation == Qt.Orientation.Horizontal and section < len(self.table.columns):
            column = self.table.columns[section]
            if role == Qt.ItemDataRole.DisplayRole:
                return column.title
            if role == Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(column.numeric)
        return None


def _alignment(numeric: bool) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if numeric else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter


class TableView(QTableView):
    """The table of a plot. `row_chosen`: the user clicked a row or went to it by keyboard.

    wraps: where it is too narrow, cells of words take several lines; only for tables of a few dozen rows.
    """

    row_chosen = Signal(int)  # row of the `Table`

    def __init__(self, name: str, parent: QWidget | None = None, wraps: bool = False) -> None:
        super().__init__(parent)
        self._wraps = wraps
        self.setAccessibleName(name)
        self.setAccessibleDescription(self.tr("A table, one row each; Enter or a click chooses a row"))
        self._palette = LIGHT
        self.rows = TableModel(self)
        self.setModel(self.rows)
        self.setFont(fonts.mono(fonts.SMALL_PX))
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setTabKeyNavigation(False)  # Tab goes on to the next control
        self.setShowGrid(False)
        self.setWordWrap(wraps)
        self.setFrameShape(QTableView.Shape.NoFrame)
        self.setMinimumSize(80, HEAD_PX + 2 * ROW_PX)
        side, head = self.verticalHeader(), self.horizontalHeader()
        side.hide()
        side.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        side.setDefaultSectionSize(ROW_PX)
        head.setFont(fonts.ui(fonts.SMALL_PX))
        head.setFixedHeight(HEAD_PX)
        head.setHighlightSections(False)
        head.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        head.setSortIndicatorClearable(True)
        self.setSortingEnabled(True)
        self.clicked.connect(lambda index: self.row_chosen.emit(self.rows.source_row(index.row())))
        self.activated.connect(lambda index: self.row_chosen.emit(self.rows.source_row(index.row())))
        self._wishes: list[int] = []
        self._leasts: list[int] = []
        if wraps:
            self.rows.layoutChanged.connect(self._fit_rows)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.setStyleSheet(
            f"QTableView {{ background: {palette.surface}; color: {palette.text}; outline: none;"
            f" selection-background-color: {palette.accent_soft}; selection-color: {palette.text}; }}"
            f"QTableView::item {{ padding: 0 4px; }}"
            f"QTableView::item:selected:focus {{ border: 1px solid {palette.accent}; padding: 0 3px; }}"
            f"QHeaderView {{ background: {palette.surface}; }}"
            f"QHeaderView::section {{ background: {palette.surface}; color: {palette.secondary}; border: none;"
            f" border-bottom: 1px solid {palette.line}; padding: 0 4px; }}"
            f"QHeaderView::section:hover {{ background: {palette.raised}; }}"
        )

    def show_table(self, table: Table) -> None:
        """Show it, mark its selected row; a table whose end was in view stays at its end while it grows."""
        before, bar = self.rows.table, self.verticalScrollBar()
        if table is before:
            return
        at_end = before.rows > 0 and bar.value() == bar.maximum() > 0
        titles = [c.title for c in before.columns] != [c.title for c in table.columns]
        self.rows.show(table)
        if titles or not before.rows or self._wraps:
            self._wishes = [self._wish(i) for i in range(len(table.columns))]
            self._leasts = [self._wish(i, words=True) for i in range(len(table.columns))] if self._wraps else []
            self._share_width()
        if table.selected is not None and table.selected < table.rows:
            self._mark(self.rows.view_row(table.selected))
        elif at_end and table.rows > before.rows:
            self.clearSelection()
            self.scrollToBottom()
        elif table.selected is None:
            self.clearSelection()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The rows, or that there are none."""
        super().paintEvent(event)
        if not self.rows.table.rows:
            with QPainter(self.viewport()) as painter:
                words = self.tr("No numbers yet"), self.tr("They stand here as soon as the view has something to show.")
                paint_empty(painter, self.viewport().rect(), self._palette, *words)

    def _mark(self, row: int) -> None:
        index = self.rows.index(row, max(0, self.currentIndex().column()))
        if self.selectionModel().isRowSelected(row, QModelIndex()) and self.currentIndex().row() == row:
            return
        flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
        self.selectionModel().setCurrentIndex(index, flags)
        self._reveal(index)

    def _reveal(self, index: QModelIndex) -> None:
        """Into the middle, if it is not in view: something may float over the edge."""
        if not self.viewport().rect().contains(self.visualRect(index).center()):
            self.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)

    def _wish(self, i: int, words: bool = False) -> int:
        """The width that a column needs for its title and for some of its cells, or for their longest words."""
        table, cells = self.rows.table, QFontMetricsF(self.font())
        column = table.columns[i]
        last = table.rows - 1
        rows = {*range(min(table.rows, SAMPLE)), *(range(max(0, last - SAMPLE), last + 1))}
        title = QFontMetricsF(self.horizontalHeader().font()).horizontalAdvance(column.title) + ARROW_PX
        texts = [column.cell(row) for row in rows]
        if words:
            texts = [word for text in texts for word in re.findall(r"[^\s.]+\.?", text)]  # lines break there
        return int(max([title, *map(cells.horizontalAdvance, texts)])) + CELL_PX

    def _share_width(self) -> None:
        """Room that is left goes to the first column of words, else to all."""
        if not self._wishes:
            return
        words = [i for i, c in enumerate(self.rows.table.columns) if not c.numeric][:1] or range(len(self._wishes))
        left = max(0, self.viewport().width() - sum(self._wishes))
        for i, wish in enumerate(self._narrowed() if self._wraps else self._wishes):
            self.setColumnWidth(i, wish + (left // len(words) if i in words else 0))
        if self._wraps:
            self._fit_rows()

    def _fit_rows(self) -> None:
        """As high as their lines, with a gap that keeps rows apart; Qt's own hint forgets the padding of the style."""
        metrics, shape = self.fontMetrics(), Qt.TextFlag.TextWordWrap
        for row in range(self.rows.rowCount()):
            at, high = self.rows.source_row(row), ROW_PX
            for i, column in enumerate(self.rows.table.columns):
                room = QRect(0, 0, max(1, self.columnWidth(i) - CELL_PX), HIGHEST_PX)
                high = max(high, metrics.boundingRect(room, shape, column.cell(at)).height() + GAP_PX)
            self.setRowHeight(row, high)

    def _narrowed(self) -> list[int]:
        """Widths that fit: each column at least its longest word, the rest by how much it wishes beyond that."""
        more = [wish - least for wish, least in zip(self._wishes, self._leasts, strict=True)]
        room = max(0, min(sum(more), self.viewport().width() - sum(self._leasts)))
        return [least + one * room // max(1, sum(more)) for least, one in zip(self._leasts, more, strict=True)]

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Share the room anew."""
        super().resizeEvent(event)
        self._share_width()
        if self.currentIndex().isValid():
            self._reveal(self.currentIndex())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Rows that the keyboard goes to are chosen."""
        before = self.currentIndex().row()
        super().keyPressEvent(event)
        row = self.currentIndex().row()
        if row != before and row >= 0:
            self.row_chosen.emit(self.rows.source_row(row))
