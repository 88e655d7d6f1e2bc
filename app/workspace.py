"""The cards and their named arrangements: a main window of docks inside the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from PySide6.QtCore import QByteArray, QChildEvent, QEvent, Qt, QTimer, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QApplication, QMainWindow, QTabBar, QTabWidget, QWidget

from app.panels.panel import Panel
from app.state.state import LayoutName
from app.theme.style import GAP_PX
from app.widgets.card import Card

STATE_VERSION = 6  # raise it when cards are added or renamed: older arrangements are then ignored


@dataclass(frozen=True, slots=True)
class Column:
    """Cards from top to bottom with their shares of the height; `share` is the column's own of the width."""

    share: int
    cards: tuple[tuple[str, int], ...]


_LEFT = Column(21, (("prompt", 27), ("parameters", 73)))
_CENTRE = Column(48, (("output", 70), ("timeline", 30)))
LAYOUTS: Mapping[LayoutName, tuple[Column, ...]] = {
    "sample": (_LEFT, _CENTRE, Column(31, (("candidates", 62), ("waterfall", 38)))),
    "attention": (_LEFT, Column(33, (("output", 100),)), Column(46, (("attention", 72), ("candidates", 28)))),
    "cache": (_LEFT, Column(40, (("output", 38), ("cachelab", 62))), Column(39, (("cache", 100),))),
    "everything": (_LEFT, _CENTRE, Column(31, (("candidates", 28), ("attention", 42), ("cache", 30)))),
    "image": (
        Column(22, (("prompt", 42), ("parameters", 58))),
        Column(45, (("canvas", 78), ("timeline", 22))),
        Column(33, (("candidates", 36), ("layers", 34), ("cache", 30))),
    ),
    "model": (Column(45, (("config", 100),)), Column(55, (("onnx", 100),))),
}
BEHIND: Mapping[LayoutName, Mapping[str, str]] = {  # as a second tab: the card, and the one in front of it
    "sample": {"plan": "parameters"},
    "everything": {"plan": "parameters"},
    "image": {"waterfall": "candidates", "attention": "layers"},
}
DESKS = ("canvas", "config", "onnx")  # closed at first; opened, they come up as tabs beside the output
TABBED = ("lens", "walk", "compare")  # closed at first; opened, they share the place of the largest view of the model
LOW_SHARE = 0.27  # of the height, at least, for such a card when it is opened
ACTING = ("interventions", "breakpoints", "watches")  # closed at first; opened, they share a low place


BEAMS_SHARE = 0.4  # of the height, for the lanes of beams when they are opened
BELOW_OUTPUT = ("errors", "rows", "beams", "cachelab")  # cards that are opened in the middle column


class Workspace(QMainWindow):
    """Holds the cards. It is a child of the window, so that toolbar and status bar keep to themselves.

    While nobody has moved a card or a separator, the shares of the named arrangement hold at every window size.
    """

    def __init__(self, panels: tuple[Panel, ...], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowFlags(Qt.WindowType.Widget)
        self.setDockOptions(QMainWindow.DockOption.AllowNestedDocks | QMainWindow.DockOption.AllowTabbedDocks)
        self.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, QTabWidget.TabPosition.North)
        self.setContentsMargins(GAP_PX, GAP_PX, GAP_PX, GAP_PX)
        self.cards = {panel.name: Card(panel, self) for panel in panels}
        self._columns: list[Column] = []  # empty once the user has arranged something
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self._share)
        self._fit_later = QTimer(self)  # after the layout has given every card its place
        self._fit_later.setSingleShot(True)
        self._fit_later.setInterval(0)
        self._fit_later.timeout.connect(self._fit)
        self._newest: Card | None = None
        for name, card in self.cards.items():
            card.topLevelChanged.connect(self._arranged_by_hand)
            card.toggleViewAction().triggered.connect(lambda visible, card=card: self._came(card, visible))
            if name in (*TABBED, *ACTING, *DESKS):
                card.toggleViewAction().triggered.connect(lambda visible, card=card: self._opened(card, visible))
                continue
            card.closed.connect(self._arranged_by_hand)
            card.toggleViewAction().triggered.connect(self._arranged_by_hand)
        self._beams_later = QTimer(self)  # a card that has just come has no size to be changed
        self._beams_later.setSingleShot(True)
        self._beams_later.setInterval(0)
        self._beams_later.timeout.connect(self._make_room_for_beams)
        if "beams" in self.cards:
            self.cards["beams"].toggleViewAction().triggered.connect(lambda _visible: self._beams_later.start())
            self.cards["beams"].visibilityChanged.connect(lambda _visible: self._later.start())

    def arrange(self, layout: LayoutName) -> None:
        """Put the cards into a named arrangement; those that are not part of it are hidden."""
        columns = [c for c in map(self._present, LAYOUTS[layout]) if c.cards]
        self._columns = []
        focus = QApplication.focusWidget()
        for card in self.cards.values():
            card.setFloating(False)
            self.removeDockWidget(card)
        area = Qt.DockWidgetArea.LeftDockWidgetArea
        heads = [self.cards[c.cards[0][0]] for c in columns]
        self.addDockWidget(area, heads[0])
        for before, head in pairwise(heads):
            self.splitDockWidget(before, head, Qt.Orientation.Horizontal)
        for column in columns:
            names = [name for name, _ in column.cards]
            for above, below in pairwise(names):
                self.splitDockWidget(self.cards[above], self.cards[below], Qt.Orientation.Vertical)
        shown = {name for column in columns for name, _ in column.cards}
        for name, front in BEHIND.get(layout, {}).items():
            if name in self.cards and front in shown:
                self.tabifyDockWidget(self.cards[front], self.cards[name])
                shown.add(name)
        # Tabs last: what is split off from a card that has tabs becomes one of them.
        for name, card in sorted(self.cards.items(), key=lambda item: item[0] in (*TABBED, *ACTING)):
            if name in TABBED and name not in shown:
                self.tabifyDockWidget(self.cards[self._home_of_tabs(columns)], card)
            elif name in ACTING and name not in shown:
                self._add_low(card, columns)
            elif name not in shown and name not in DESKS:  # kept at the end of the last column, in case it is wanted
                home = columns[min(1, len(columns) - 1)] if name in BELOW_OUTPUT else columns[-1]
                self.splitDockWidget(self.cards[home.cards[-1][0]], card, Qt.Orientation.Vertical)
            card.setVisible(name in shown)
        for front in BEHIND.get(layout, {}).values():
            if front in shown:
                self.cards[front].raise_()
        self._columns = columns
        self._share()
        self._later.start()  # once more when the cards know how small they can be
        if focus is not None and focus.isVisible():
            focus.setFocus()  # taking the cards apart has moved it

    def _home_of_tabs(self, columns: list[Column]) -> str:
        names = [name for column in columns for name, _ in column.cards]
        return "attention" if "attention" in names else columns[-1].cards[0][0]

    def bring_up(self, name: str) -> None:
        """Open a card that the run needs, where its kind of card is opened."""
        card = self.cards[name]
        card.show()
        if name in DESKS:
            self._opened(card, True)
        self._came(card, True)

    def put_away(self, name: str) -> None:
        """Close a card that was brought up; the others have its room."""
        card = self.cards[name]
        if not card.isHidden():
            card.hide()
            self._came(card, False)

    def _add_low(self, card: Card, columns: list[Column]) -> None:
        """As a tab beside the timeline; without one, tabs of their own at the foot of the middle column."""
        names = [name for column in columns for name, _ in column.cards]
        placed = next((self.cards[n] for n in ACTING if n in self.cards and self._is_placed(self.cards[n])), None)
        if "timeline" in names or placed is not None:
            self.tabifyDockWidget(self.cards["timeline"] if "timeline" in names else placed or card, card)
            return
        home = columns[min(1, len(columns) - 1)].cards[-1][0]
        self.splitDockWidget(self.cards[home], card, Qt.Orientation.Vertical)

    def _is_placed(self, card: Card) -> bool:
        return self.dockWidgetArea(card) != Qt.DockWidgetArea.NoDockWidgetArea

    def _opened(self, card: Card, visible: bool) -> None:
        """A card that shares its place comes to the front, the columns keep their shares."""
        if visible:
            if not self._is_placed(card):
                homes = [self.cards[name] for name in ("output", "canvas") if name in self.cards]
                self.tabifyDockWidget(next((home for home in homes if home.isVisible()), homes[0]), card)
                card.show()
            card.raise_()
            if card.panel.name in ACTING and card.height() < self.height() * LOW_SHARE:
                self.resizeDocks([card], [int(self.height() * LOW_SHARE)], Qt.Orientation.Vertical)
        self._name_tabs()

    def _came(self, card: Card, visible: bool) -> None:
        if visible or self._newest is card:  # one that leaves does not hide another that has just come
            self._newest = card if visible else None
        self._fit_later.start()

    @Slot()
    def _fit(self) -> None:
        """Cards that are too many for the height of a column share places: Qt would lay them over each other."""
        for _ in self.cards:
            column = max(self._stacks(), key=self._least_height, default=[])
            if len(column) < 2 or self._least_height(column) <= self.height():
                return
            above, below = column[-2:]
            self.tabifyDockWidget(above, below)
            front = self._newest if self._newest in (above, below) else above
            front.raise_()
            QApplication.sendPostedEvents(self, QEvent.Type.LayoutRequest)
        self._name_tabs()

    def _stacks(self) -> list[list[Card]]:
        """The cards in front, column by column from left to right, each from top to bottom."""
        columns: dict[int, list[Card]] = {}
        for card in self.cards.values():
            if card.isVisible() and not card.isFloating() and not card.visibleRegion().isEmpty():
                columns.setdefault(card.x(), []).append(card)
        return [sorted(cards, key=lambda card: card.y()) for _, cards in sorted(columns.items())]

    def _least_height(self, cards: list[Card]) -> int:
        """Of a column. Qt's own minimum does not count the whole height of a row of tabs."""
        bars = [bar.sizeHint().height() for bar in self.findChildren(QTabBar) if bar.parent() is self]
        needed = GAP_PX * (len(cards) + 1)
        for card in cards:
            behind = [other for other in self.tabifiedDockWidgets(card) if other.isVisible()]
            needed += max(one.minimumSizeHint().height() for one in (card, *behind))
            needed += max(bars, default=0) if behind else 0
        return needed

    @Slot()
    def _make_room_for_beams(self) -> None:
        beams, output = self.cards["beams"], self.cards["output"]
        if beams.isVisible() and not beams.isFloating() and not self._columns:
            wanted = int(self.height() * BEAMS_SHARE)
            less = max(0, output.height() - max(0, wanted - beams.height()))
            self.resizeDocks([output, beams], [less, wanted], Qt.Orientation.Vertical)

    def _name_tabs(self) -> None:
        """Qt makes the tab bars of cards that share a place, without a name."""
        for bar in self.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
            bar.setAccessibleName(self.tr("Cards that share this place"))
            bar.setAccessibleDescription(self.tr("Which of them is in front"))

    def _present(self, column: Column) -> Column:
        return Column(column.share, tuple(c for c in column.cards if c[0] in self.cards))

    def _with_beams(self, column: Column) -> Column:
        """The column of the output with the lanes below, where they are shown."""
        beams = self.cards.get("beams")
        if (
            beams is None
            or beams.isHidden()
            or beams.isFloating()
            or column is not self._columns[min(1, len(self._columns) - 1)]
        ):
            return column
        whole = sum(share for _, share in column.cards)
        return Column(column.share, (*column.cards, ("beams", round(whole * BEAMS_SHARE / (1 - BEAMS_SHARE)))))

    @Slot()
    def _share(self) -> None:
        self._name_tabs()
        columns = self._columns
        if not columns:
            return
        width = self.width() - 2 * GAP_PX - GAP_PX * (len(columns) - 1)
        height = self.height() - 2 * GAP_PX
        whole = sum(c.share for c in columns)
        heads = [self.cards[c.cards[0][0]] for c in columns]
        self.resizeDocks(heads, [width * c.share // whole for c in columns], Qt.Orientation.Horizontal)
        for column in map(self._with_beams, columns):
            room = height - GAP_PX * (len(column.cards) - 1)
            total = sum(share for _, share in column.cards)
            docks = [self.cards[name] for name, _ in column.cards]
            sizes = [room * share // total for _, share in column.cards]
            self.resizeDocks(docks, sizes, Qt.Orientation.Vertical)

    def _arranged_by_hand(self) -> None:
        self._columns = []

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._share()
        self._later.start()
        self._fit_later.start()

    def event(self, event: QEvent) -> bool:
        # A press that reaches the workspace itself is on a separator between cards.
        if event.type() == QEvent.Type.MouseButtonPress:
            self._columns = []
        if event.type() == QEvent.Type.LayoutRequest:
            self._fit_later.start()  # a card may have come to need more
        # Qt makes tab bars whenever cards come to share a place.
        if isinstance(event, QChildEvent) and event.polished():
            bar = event.child()
            if isinstance(bar, QTabBar):
                bar.setAccessibleName(self.tr("Cards in one place"))
                bar.setAccessibleDescription(self.tr("Brings one of the cards that share a place to the front"))
        return super().event(event)

    def save(self) -> QByteArray:
        """The arrangement made by hand, for the settings; empty where there is none."""
        return QByteArray() if self._columns else self.saveState(STATE_VERSION)

    def restore(self, saved: QByteArray) -> bool:
        """A saved arrangement; False (nothing changed) when it is of another version or damaged. After `show()`."""
        if saved.isEmpty() or not self.restoreState(saved, STATE_VERSION):
            return False
        self._later.stop()
        self._columns = []
        return True
