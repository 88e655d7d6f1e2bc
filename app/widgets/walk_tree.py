"""The modules of a forward pass as a tree: shapes of a first and of a later step side by side, times, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QColor, QResizeEvent
from PySide6.QtWidgets import QFrame, QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from app.state.texts import tr
from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.arrow_keys import claims_arrows
from core.contract import TensorFact, WalkAnswer, WalkNode

STAGE, FIRST, FIRST_MS, LATER, LATER_MS = range(5)
NAME_SHARE, NAME_PX, MS_PX = 0.4, 210, 50  # the names get this share of the width, and no more than they need
NARROW_PX = 460  # below, times are told with the chosen line only, and of several shapes the first is shown


@dataclass
class Line:
    """One node of either pass, with its children."""

    key: str
    title: str
    first: WalkNode | None = None
    later: WalkNode | None = None
    children: list[Line] = field(default_factory=list)

    @property
    def node(self) -> WalkNode:
        """The later pass's node where there is one."""
        node = self.later or self.first
        assert node is not None  # a line stands for one at least
        return node


def merged(first: WalkAnswer | None, later: WalkAnswer | None) -> list[Line]:
    """Both passes as one tree; nodes with the same key share a line."""
    roots: list[Line] = []
    known: dict[str, Line] = {}
    for answer, name in ((first, "first"), (later, "later")):
        open_: list[Line] = []
        for node in answer.nodes if answer is not None else ():
            del open_[node.depth :]
            line = known.get(node.key)
            if line is None:
                line = known[node.key] = Line(node.key, node.title)
                (open_[-1].children if open_ else roots).append(line)
            setattr(line, name, node)
            open_.append(line)
    return roots


def shapes(node: WalkNode | None, brief: bool = False) -> str:
    """What a node made, as shapes: `1×9×12×64`, tensors of one shape once. Of the cache, what it grew from and to."""
    if node is None:
        return "–"
    if not node.made or "→" in node.note:
        said = node.note.partition(":")[0] or "–"
        return said.removesuffix(" positions") if brief else said
    texts = list(dict.fromkeys(shape(fact) for fact in node.made))
    if brief and len(node.made) > 1:
        return f"{texts[0]} +{len(node.made) - 1}"
    text = ", ".join(texts)
    return f"{len(node.made)} · {text}" if len(texts) == 1 and len(node.made) > 1 else text


def shape(fact: TensorFact) -> str:
    """`1×12×576`."""
    return "×".join(f"{n:,}" for n in fact.shape) or tr("one number")


def milliseconds(node: WalkNode | None) -> str:
    """Time of a module; nothing for a stage."""
    return "" if node is None or node.ms is None else f"{node.ms:.2f}" if node.ms < 9.995 else f"{node.ms:.1f}"


def statistics(fact: TensorFact) -> str:
    """`0.01 ± 1.02 in [−3.10, 4.20]`."""
    if fact.mean is None or fact.std is None:
        return ""
    return f"{_g(fact.mean)} ± {_g(fact.std)} in [{_g(fact.low)}, {_g(fact.high)}]"


def _g(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}".replace("-", "−")


class WalkTree(QTreeWidget):
    """Shows `merged` passes. What is open and selected stays so from step to step; `told` says what is known of it."""

    told = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFont(fonts.mono(fonts.SMALL_PX))
        self.setUniformRowHeights(True)
        self.setIndentation(9)
        self.setColumnCount(5)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAllColumnsShowFocus(True)
        self.setTabKeyNavigation(False)
        head = self.header()
        head.setFont(fonts.ui(fonts.SMALL_PX))
        head.setStretchLastSection(False)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setMinimumSectionSize(20)
        self._keys: tuple[str, ...] = ()
        self._items: dict[str, QTreeWidgetItem] = {}
        self._lines: dict[str, Line] = {}
        self._brief = False
        self.currentItemChanged.connect(lambda _now, _before: self._tell())
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.setStyleSheet(
            f"QTreeWidget {{ background: {palette.surface}; color: {palette.text}; outline: none;"
            f" selection-background-color: {palette.accent_soft}; selection-color: {palette.text}; }}"
            f"QTreeWidget::item {{ padding-right: 4px; }}"
            f"QHeaderView {{ background: {palette.surface}; }}"
            f"QHeaderView::section {{ background: {palette.surface}; color: {palette.secondary}; border: none;"
            f" border-bottom: 1px solid {palette.line}; padding: 0 4px; }}"
        )
        self._colour_items()

    def set_titles(self, first: str, later: str) -> None:
        """What the two passes are called."""
        self.setHeaderLabels([tr("module"), first, tr("ms"), later, tr("ms")])

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show a tree; the same tree with other numbers keeps its items."""
        keys = tuple(_keys(lines))
        if keys != self._keys:
            self.clear()
            self._items = {}
            self._keys = keys
            for line in lines:
                self.addTopLevelItem(self._item(line, 0))
            self._open_first()
            self._colour_items()
        self._lines = {line.key: line for line in _walk(lines)}
        self._fill_all()
        self._tell()

    def texts(self) -> Mapping[str, tuple[str, ...]]:
        """Key → the cells of each line."""
        return {key: tuple(item.text(c) for c in range(self.columnCount())) for key, item in self._items.items()}

    def item(self, key: str) -> QTreeWidgetItem:
        """The line of a node. KeyError where there is none."""
        return self._items[key]

    def _item(self, line: Line, depth: int) -> QTreeWidgetItem:
        item = QTreeWidgetItem()
        for column in (FIRST_MS, LATER_MS):
            item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._items[line.key] = item
        for child in line.children:
            item.addChild(self._item(child, depth + 1))
        return item

    def _fill(self, item: QTreeWidgetItem, line: Line) -> None:
        first, later = shapes(line.first, self._brief), shapes(line.later, self._brief)
        cells = (line.title, first, milliseconds(line.first), later, milliseconds(line.later))
        for column, text in enumerate(cells):
            if item.text(column) != text:
                item.setText(column, text)
            item.setToolTip(column, _tooltip(line))
        item.setData(STAGE, Qt.ItemDataRole.AccessibleDescriptionRole, "; ".join(details(line)[1:]))

    def _fill_all(self) -> None:
        for key, line in self._lines.items():
            self._fill(self._items[key], line)

    def _tell(self) -> None:
        """What is known of the chosen line; before one is chosen, of what the first layer's cache got."""
        current = self.currentItem()
        key = next((key for key, item in self._items.items() if item is current), None)
        key = key or next((key for key in self._lines if key.endswith(":cache")), None) or next(iter(self._lines), None)
        self.told.emit("" if key is None else "\n".join(details(self._lines[key])))

    def _open_first(self) -> None:
        """The way down to the first layer, and what is in it."""
        level = [self.topLevelItem(i) for i in range(self.topLevelItemCount())]
        while level:
            item = next((one for one in level if one is not None and one.childCount()), None)
            if item is None:
                return
            item.setExpanded(True)
            level = [item.child(i) for i in range(item.childCount())]

    def _colour_items(self) -> None:
        quiet = QColor(self._palette.secondary)
        accent = QColor(self._palette.accent)
        for key, item in self._items.items():
            if ":" in key:  # a stage between modules
                item.setForeground(STAGE, accent)
            for column in (FIRST_MS, LATER_MS):
                item.setForeground(column, quiet)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The columns share what there is, to the last pixel: nothing lies beside the card."""
        super().resizeEvent(event)
        width = self.viewport().width()
        brief = width < NARROW_PX
        ms = 0 if brief else MS_PX
        name = min(NAME_PX, int(width * NAME_SHARE) + 10 * brief)
        shape_px = max(40, (width - name - 2 * ms) // 2)
        for column in (FIRST_MS, LATER_MS):
            self.setColumnHidden(column, brief)
        for column, px in ((STAGE, name), (FIRST, shape_px), (FIRST_MS, ms), (LATER, shape_px), (LATER_MS, ms)):
            self.setColumnWidth(column, px)
        if brief != self._brief:
            self._brief = brief
            self._fill_all()

    def event(self, event: QEvent) -> bool:
        """Arrow keys move and open here; in the window they select tokens."""
        return claims_arrows(event) or super().event(event)


def _walk(lines: Sequence[Line]) -> Sequence[Line]:
    found: list[Line] = []
    for line in lines:
        found.append(line)
        found += _walk(line.children)
    return found


def _keys(lines: Sequence[Line]) -> list[str]:
    return [line.key for line in _walk(lines)]


def details(line: Line) -> list[str]:
    """Everything that is known of both passes, line by line."""
    node = line.node
    path = line.key.partition("#")[0].partition(":")[0]
    lines = ["  ".join(part for part in (line.title, path, node.kind) if part)]
    for name, one in ((tr("first"), line.first), (tr("later"), line.later)):
        if one is None:
            continue
        timed = "" if one.ms is None else f"{milliseconds(one)} ms"
        lines.append(", ".join(part for part in (name, timed, one.note) if part))
        for what, facts in ((tr("in"), one.given), (tr("out"), one.made)):
            for fact in facts:
                said = (what, fact.name, shape(fact), fact.dtype, statistics(fact))
                lines.append("  " + " ".join(part for part in said if part))
    return lines


def _tooltip(line: Line) -> str:
    """The same as escaped rich text."""
    return "<div style='white-space:pre'>" + "<br>".join(map(escape, details(line))) + "</div>"
