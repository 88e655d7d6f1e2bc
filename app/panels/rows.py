"""The rows of a batch at a glance; the one chosen here is the one that every panel shows."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from app.panels import tables
from app.panels.cache_words import padding_at, padding_share
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import select
from app.state.intents import ShowRow
from app.state.run import RunView, columns_of, ended_as
from app.state.state import AppState
from app.state.texts import tr
from app.theme.colormaps import indices, sequential
from app.widgets import numbers
from app.widgets.focus_ring import FocusRing
from app.widgets.legend import MapLegend
from app.widgets.row_list import RowLine, RowList
from app.widgets.twin import Twin, TwinStack
from app.widgets.visible_text import LINE_BREAK, visible

TAIL_TOKENS = 64  # the newest ones, whose text is shown
ENDED = {
    "stop": "stop",
    "length": "length",
    "length_limit": "positions",
    "time": "time",
    "cancelled": "stopped",
    "breakpoint": "breakpoint",
}


class RowsPanel(Panel):
    """Emits the choice of a row."""

    name = "rows"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Rows")
        self.list = RowList()
        self.list.setAccessibleName(self.tr("Rows of the batch"))
        FocusRing(self.list)
        self.list.chosen.connect(lambda row: dispatch(ShowRow(row)))
        self.list.set_empty(
            self.tr("The rows of a batch appear here"),
            self.tr("Write several prompts in the Batch tab, or raise num_return_sequences, and run."),
        )
        self.legend = MapLegend()
        self.padding = QLabel()
        self.padding.setProperty("secondary", True)
        twin = Twin(self.title, (self.list,), lambda row: dispatch(ShowRow(row)))
        self.twins = TwinStack(self.title, self.list, (twin,), self)
        self.twins.turned.connect(self._show_table)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.twins)
        self._run: RunView | None = None
        self._shown: tuple[object, ...] = ()
        self._theme = ""

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.legend)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.padding,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the run."""
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.list.set_palette(palette)
            self.twins.set_palette(palette)
            low, high = select.colour_ends("entropy")
            self.legend.show_map(sequential(), low, high, palette, self.tr("Entropy of each token's distribution"))
        show_swatches(state, self.list)
        run = state.run if state.run is not None and len(state.run.started.rows) > 1 else None
        if run is self._run:
            return
        self._run = run
        rows = 0 if run is None else len(run.started.rows)
        self.list.show_rows(rows, self._line, 0 if run is None else run.row)
        self.padding.setText("" if run is None else padding_text(run))
        self.subtitle = "" if run is None else self.tr("{0} of {1}").format(run.row + 1, f"{rows:,}")
        self.list.setAccessibleDescription(self.describe())
        self._show_table()

    def describe(self) -> str:
        """How many rows there are and how far they are, in words."""
        run = self._run
        if run is None:
            return self.tr("No batch.")
        total, ended = len(run.started.rows), sum(bool(ended_as(run, r)) for r in range(len(run.started.rows)))
        return self.tr("{0} rows, {1} ended, row {2} is shown.").format(total, ended, run.row + 1)

    def _line(self, row: int) -> RowLine:
        run = self._run
        assert run is not None
        columns = columns_of(run, row)
        levels = indices(select.entropy_levels(columns.column("entropy_bits", columns.count))).astype(np.uint8)
        said = "".join(columns.texts[max(0, columns.count - TAIL_TOKENS) : columns.count])
        text = said or "".join(run.started.rows[row].pieces[-TAIL_TOKENS:])
        shown = visible(text.replace("\n", LINE_BREAK))
        return RowLine(str(row + 1), shown, levels, f"{columns.count:,}", self.tr(ENDED.get(ended_as(run, row), "")))

    def _show_table(self) -> None:
        if self.twins.shown is not None:
            run = self._run
            lines = None if run is None else [self._line(r) for r in range(len(run.started.rows))]
            self.twins.show_table(None if run is None or lines is None else tables.rows_table(run, lines))


def padding_text(run: RunView) -> str:
    """How much of what the cache holds is padding at the newest step; empty where that is not known."""
    step = run.sequences.newest()
    padding = padding_at(run, step.id.index if step is not None else -1)
    if not any(padding):
        return tr("no padding")
    if step is None or not step.cache.layouts or step.cache.kind == "heavy_hitters":  # each head keeps others
        return ""
    share = padding_share(step.cache, padding)
    return tr("cache {0} padding").format(numbers.percent(share)) if share else tr("no padding")
