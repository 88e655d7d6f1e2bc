"""Plots and the tables that say the same: a stack of both, and the button in the title bar that turns it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen
from PySide6.QtWidgets import QStackedWidget, QTabBar, QToolButton, QVBoxLayout, QWidget

from app.theme.palette import LIGHT, Palette
from app.widgets.table_data import Table
from app.widgets.table_view import TableView


@dataclass(frozen=True)
class Twin:
    """A table: the name of its tab, the plots whose numbers it has, what choosing a row does."""

    name: str
    plots: tuple[QWidget, ...]
    chosen: Callable[[int], None] | None = None


class TwinButton(QToolButton):
    """A small table, drawn; checked while the tables are shown."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setProperty("plain", True)
        self.setAccessibleName(self.tr("{0} as a table").format(title))
        self.setToolTip(self.tr("Show the same numbers as a table"))

    def sizeHint(self) -> QSize:
        """A square."""
        return QSize(20, 20)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The button of the style, and three rows on it."""
        super().paintEvent(event)
        painter = QPainter(self)
        role = QPalette.ColorRole.Accent if self.isChecked() else QPalette.ColorRole.PlaceholderText
        painter.setPen(QPen(QColor(self.palette().color(role)), 1))
        box = QRectF((self.width() - 13) // 2 + 0.5, (self.height() - 11) // 2 + 0.5, 12, 10)
        painter.drawRect(box)
        for y in (box.top() + 3, box.top() + 7):
            painter.drawLine(int(box.left()), int(y), int(box.right()), int(y))
        painter.drawLine(int(box.left() + 4), int(box.top()), int(box.left() + 4), int(box.bottom()))


class TwinStack(QStackedWidget):
    """The plots of a panel, or their tables. Tables are made when they are first wanted, and filled while shown."""

    turned = Signal()  # plots ↔ tables, or another table

    def __init__(self, title: str, plots: QWidget, twins: tuple[Twin, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.twins = twins
        self.addWidget(plots)
        self.button = TwinButton(title, self)
        self.button.toggled.connect(self._turn)
        self._title = title
        self._palette = LIGHT
        self.views: tuple[TableView, ...] = ()
        self.tabs: QTabBar | None = None

    @property
    def shown(self) -> int | None:
        """The number of the table shown; None while the plots are."""
        if not self.button.isChecked():
            return None
        return self.tabs.currentIndex() if self.tabs is not None else 0

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        for view in self.views:
            view.set_palette(palette)

    def show_table(self, table: Table | None) -> None:
        """Fill the table shown; the caller makes it only while `shown` says so."""
        if self.shown is not None:
            self.views[self.shown].show_table(table or Table((), 0, None))

    def twin_of(self, plot: QWidget) -> int:
        """The number of the table that has a plot's numbers. Raises ValueError for a plot without one."""
        found = [i for i, twin in enumerate(self.twins) if plot in twin.plots]
        if not found:
            raise ValueError(f"{type(plot).__name__} has no table")
        return found[0]

    def _turn(self, tables: bool) -> None:
        if tables and not self.views:
            self._build()
        self.setCurrentIndex(1 if tables else 0)
        self.turned.emit()

    def _build(self) -> None:
        page, pages = QWidget(self), QStackedWidget()
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        views = []
        for twin in self.twins:
            view = TableView(twin.name, pages)
            view.set_palette(self._palette)
            view.setAccessibleDescription(self.tr("The numbers of the view {0}, one row each").format(self._title))
            if twin.chosen is not None:
                view.row_chosen.connect(twin.chosen)
            pages.addWidget(view)
            views.append(view)
        if len(views) > 1:
            self.tabs = QTabBar(page)
            self.tabs.setProperty("underline", True)
            self.tabs.setDrawBase(False)
            self.tabs.setExpanding(False)
            self.tabs.setAccessibleName(self.tr("Table shown"))
            self.tabs.setToolTip(self.tr("Which of the view’s tables is shown"))
            self.tabs.setAccessibleDescription(self.tabs.toolTip())
            for twin in self.twins:
                self.tabs.addTab(twin.name)
            self.tabs.currentChanged.connect(pages.setCurrentIndex)
            self.tabs.currentChanged.connect(lambda _index: self.turned.emit())
            box.addWidget(self.tabs)
        box.addWidget(pages, 1)
        self.views = tuple(views)
        self.addWidget(page)
