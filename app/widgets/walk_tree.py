"""The modules of a forward pass as a tree: shapes of a first and of a later step side by side, times, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QColor, QResizeEvent
from PySide6.QtWidgets import QFrame, QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from app.state.texts import tr
from app.theme import fonts
from app.theme.palette import LIGHT, Palette
from app.widgets.arrow_keys import claims_arrows
from core.contract import TensorFact, WalkAnswer, WalkNode

STAGE, FIRST, FIRST_MS, LATER, LATER_MS, FACTS = range(6)
NAME_PX, MS_PX, SHAPE_PX, FACTS_PX = 204, 52, 140, 300


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


def shapes(node: WalkNode | None) -> str:
    """What a node made, as shapes: `1×9×12×64`, tensors of one shape once."""
    if node is None:
        return "–"
    if not node.made:
        return node.note.partition(":")[0] or "–"
    texts = list(dict.fromkeys(shape(fact) for fact in node.made))
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
        return fact.dtype
    return f"{_g(fact.mean)} ± {_g(fact.std)} in [{_g(fact.low)}, {_g(fact.high)}]"


def _g(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}".replace("-", "−")


class WalkTree(QTreeWidget):
    """Shows `merged` passes. What is open and selected stays so from step to step."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFont(fonts.mono(fonts.SMALL_PX))
        self.setUniformRowHeights(True)
        self.setIndentation(12)
        self.setColumnCount(6)
        self.setAllColumnsShowFocus(True)
        self.setTabKeyNavigation(False)
        head = self.header()
        head.setFont(fonts.ui(fonts.SMALL_PX))
        head.setStretchLastSection(False)
        self.setColumnWidth(FACTS, FACTS_PX)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in (
            (STAGE, NAME_PX),
            (FIRST, SHAPE_PX),
            (FIRST_MS, MS_PX),
            (LATER, SHAPE_PX),
            (LATER_MS, MS_PX),
        ):
            self.setColumnWidth(column, width)
        self._keys: tuple[str, ...] = ()
        self._items: dict[str, QTreeWidgetItem] = {}
        self.set_palette(LIGHT)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette = palette
        self.setStyleSheet(
            f"QTreeWidget {{ background: {palette.surface}; color: {palette.text}; outline: none;"
            f" selection-background-color: {palette.accent_soft}; selection-color: {palette.text}; }}"
            f"QTreeWidget::item {{ padding-right: 8px; }}"
            f"QHeaderView {{ background: {palette.surface}; }}"
            f"QHeaderView::section {{ background: {palette.surface}; color: {palette.secondary}; border: none;"
            f" border-bottom: 1px solid {palette.line}; padding: 0 4px; }}"
        )
        self._colour_items()

    def set_titles(self, first: str, later: str) -> None:
        """What the two passes are called."""
        titles = [tr("module"), first, tr("ms"), later, tr("ms"), tr("what came out, mean ± deviation")]
        self.setHeaderLabels(titles)

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
        for line in _walk(lines):
            self._fill(self._items[line.key], line)

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
        node = line.node
        facts = node.made[:1]
        told = "; ".join(f"{statistics(fact)}  {fact.name}" for fact in facts)
        cells = (line.title, shapes(line.first), milliseconds(line.first), shapes(line.later), milliseconds(line.later))
        for column, text in enumerate((*cells, ". ".join(filter(None, (node.note, told))))):
            if item.text(column) != text:
                item.setText(column, text)
        item.setToolTip(STAGE, _tooltip(line))
        item.setToolTip(FIRST, _tooltip(line))
        item.setToolTip(LATER, _tooltip(line))
        item.setToolTip(FACTS, _tooltip(line))

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
            for column in (FIRST_MS, LATER_MS, FACTS):
                item.setForeground(column, quiet)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Narrow, the names and shapes share what there is."""
        super().resizeEvent(event)
        room = self.viewport().width() - 2 * MS_PX
        share = min(1.0, room / (NAME_PX + 2 * SHAPE_PX + 60))
        for column, width in ((STAGE, NAME_PX), (FIRST, SHAPE_PX), (LATER, SHAPE_PX)):
            self.setColumnWidth(column, max(60, int(width * share)))

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


def _tooltip(line: Line) -> str:
    """Everything that is known of both passes, as escaped rich text."""
    node = line.node
    lines = [f"{line.title}  {line.key.partition('#')[0].partition(':')[0]}  {node.kind}"]
    for name, one in ((tr("first step"), line.first), (tr("later step"), line.later)):
        if one is None:
            continue
        lines += ["", name + (f", {milliseconds(one)} ms" if one.ms is not None else "")]
        if one.note:
            lines.append(one.note)
        for what, facts in ((tr("in"), one.given), (tr("out"), one.made)):
            lines += [f"  {what} {fact.name} {shape(fact)} {fact.dtype} {statistics(fact)}" for fact in facts]
    return "<div style='white-space:pre'>" + "<br>".join(map(escape, lines)) + "</div>"
