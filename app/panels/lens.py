"""The residual stream of a step: logit lens, norms, and the parts of the chosen token's logit."""

from __future__ import annotations

import time
from typing import cast

from PySide6.QtWidgets import QPushButton, QStackedWidget, QToolButton, QVBoxLayout, QWidget

from app.panels import lens_questions as ask
from app.panels import lens_words, looking_tables
from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import select
from app.state.intents import AskView, SelectStep, SetFocus, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.theme.colormaps import token_fills
from app.widgets import numbers
from app.widgets.arrow_tabs import ArrowTabs
from app.widgets.attribution_plot import PARTS, AttributionPlot
from app.widgets.choice import Choice
from app.widgets.focus_ring import FocusRing
from app.widgets.legend import MapLegend, SwatchLegend
from app.widgets.lens_columns import COLOURS, LensColour, LensColumns, colour_ends
from app.widgets.lens_table import LensTable
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.spare_row import SpareRow
from app.widgets.twin import Twin, TwinStack
from core.contract import AttributionAnswer, LensAnswer, NormsAnswer, ViewQuery

LENS, NORMS, ATTRIBUTION, HEADS = range(4)  # the tables; the first three are the pages too


class LensPanel(Panel):
    """Three pages on one residual stream; only the page that is shown asks for anything."""

    name = "lens"
    title = "Lens"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Lens")
        self.columns = LensColumns()
        self.table = LensTable(self.columns)
        self.table.setAccessibleName(self.tr("Logit lens, layers down, positions across"))
        self.table.tooltip = self._tooltip
        self.table.clicked.connect(self._select_position)
        self.table.visible_changed.connect(self._refresh)
        self.norms = SeriesPlot(self._lanes(False))
        self.norms.x_unit = self.tr("layer")
        self.norms.setAccessibleName(self.tr("Norms of the residual stream by layer"))
        self.norms.tooltip = self._norms_tooltip
        self.parts = AttributionPlot()
        self.parts.setAccessibleName(self.tr("Parts of the chosen token’s logit by layer and head"))
        self.parts.tooltip = self._parts_tooltip
        self.parts.clicked.connect(lambda layer, head: dispatch(SetFocus(layer, head)))
        for plot in (self.table, self.norms, self.parts):
            FocusRing(plot)
        self._build()
        self._state: AppState | None = None
        self._labels: list[str] = []
        self._key: tuple[int, int] | None = None
        self._theme = ""
        self._by: LensColour = "probability"
        self._described: Moment = None
        self._asked: set[str] = set()
        self._just_asked: set[str] = set()  # slots with a question that `_state` does not know of yet
        self._asked_s = dict.fromkeys(ask.SLOTS, 0.0)
        self._taken = dict.fromkeys(ask.SLOTS, 0)
        self._problem: dict[str, ask.Declined] = {}
        self._recompute = self._can_recompute = False
        self._first = 0  # the position from which on there are records
        self.norms_answer: NormsAnswer | None = None
        self.parts_answer: AttributionAnswer | None = None
        self._show_page(LENS)

    def _build(self) -> None:
        self.pages = QStackedWidget()
        for plot in (self.table, self.norms, self.parts):
            self.pages.addWidget(plot)
        names = (self.tr("Lens"), self.tr("Norms"), self.tr("Attribution"))
        what = self.tr("Logit lens, norms or direct logit attribution")
        self.tabs = ArrowTabs(names, self.tr("View of the residual stream"), what)
        self.tabs.currentChanged.connect(self._show_page)
        self.colour = Choice(self.tr("colour"), self.tr("Quantity that colours the cells"), self._choose_colour, self)
        quantities = {
            "probability": self.tr("probability"),
            "rank": self.tr("rank of final token"),
            "KL": self.tr("KL"),
        }
        self.colour.set_options([(by, quantities[by]) for by in COLOURS])
        self.legend = MapLegend(36)
        self.swatches = SwatchLegend((self.tr("attention"), self.tr("MLP")))
        self.rounded = SwatchLegend((self.tr("between, rounding"),))
        self.rounded.setToolTip(self.tr("What a layer adds beside both: the rounding of its sums, or norms inside it"))
        self.signs = MapLegend(36)
        self.streams = SwatchLegend((self.tr("residual"), self.tr("update")))
        self.add = QToolButton(self)
        self.add.setText(self.tr("attention and MLP"))
        self.add.setCheckable(True)
        self.add.setProperty("plain", True)
        tip = self.tr("Norms of what attention and MLP add; feeds the position once more")
        self.add.setToolTip(tip)
        self.add.setAccessibleName(self.tr("Show what attention and MLP add"))
        self.add.toggled.connect(lambda _on: self._show_page(NORMS))
        self.again = QPushButton(self.tr("Recompute"), self)
        self.again.setToolTip(self.tr("Run the model again over the positions whose records were dropped"))
        self.again.clicked.connect(self._recompute_clicked)
        self.row = SpareRow(self.tabs, (self.legend, self.add, self.again))
        self.legends = SpareRow(QWidget(), (self.rounded, self.signs, self.streams, self.swatches))
        page = QWidget(self)
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.row)
        box.addWidget(self.legends)
        box.addWidget(self.pages, 1)
        twins = (
            Twin(self.tr("Lens"), (self.table,)),
            Twin(self.tr("Norms"), (self.norms,)),
            Twin(self.tr("Attribution"), (self.parts,)),
            Twin(self.tr("Heads"), (), self._head_chosen),
        )
        self.twins = TwinStack(self.title, page, twins, self)
        self.twins.turned.connect(self._turned)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.twins)

    def _lanes(self, added: bool) -> tuple[Lane, ...]:
        """With what attention and MLP add, or without."""
        sizes = tuple(range(4 if added else 2))
        turn = self.tr("1 − cosine to the layer before")
        return (Lane(3, "norm", sizes), Lane(2, "", (len(sizes),), False, turn))

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.colour)

    def hidden(self) -> None:
        for slot in sorted(self._asked):
            self.dispatch(WithdrawView(slot))
        self._asked.clear()

    @property
    def active(self) -> int:
        """The page (or table) that is shown."""
        shown = self.twins.shown
        return self.pages.currentIndex() if shown is None else min(shown, ATTRIBUTION)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state is not self._state:
            self._just_asked.clear()
        self._state = state
        show_swatches(state, self.table)
        if state.theme != self._theme:
            self._set_theme(state)
        run = state.run
        if run is None or run.key != self._key:
            self._start_over(run)
        status = select.view_status(state, "distribution")
        reason = status.reason if status is not None and not status.available else ""
        if run is None or reason:
            self._say(lens_words.nothing(reason, state))
            self.table.show_positions((), 0, 0, None, False)
        else:
            self._labels.extend(s.piece for s in run.steps(len(self._labels) - len(run.prompt.pieces)))
            for slot in ask.SLOTS:
                self._take(slot, state)
            self._ask(run, state)
            self._show(run, state)
        self._show_table(state)
        plots = (self.table, self.norms, self.parts)
        self._described = describe_selection(self, plots, state, self._waiting(state))

    def describe(self) -> str:
        """The shown step in words, as the active page has it."""
        return lens_words.sentence(self._state, self.active, self.columns, self.norms_answer, self.parts_answer)

    def _waiting(self, state: AppState) -> Moment:
        """Describe anew as long as an answer is missing."""
        return None if any(select.is_waiting(state, slot) for slot in self._asked) else self._described

    def _set_theme(self, state: AppState) -> None:
        self._theme = state.theme
        palette = select.palette(state)
        self.table.set_palette(palette)
        self.parts.set_palette(palette)
        self._colour_norms()
        self.swatches.set_colours(*(palette.categorical[index] for index in PARTS))
        self.rounded.set_colours(palette.warning)
        self._show_signs()
        self.add.setStyleSheet(f"QToolButton:checked {{ color: {palette.accent} }}")
        self.twins.set_palette(palette)
        self._show_legend()

    def _colour_norms(self) -> None:
        if self._state is None:
            return
        palette = select.palette(self._state)
        update, turn = palette.categorical[:2]
        attention, mlp = (palette.categorical[index] for index in PARTS)
        added = (attention, mlp) if self.norms_answer is not None and self.norms_answer.mlp is not None else ()
        self.norms.set_palette(palette, (palette.secondary, update, *added, turn))
        self.streams.set_colours(palette.secondary, update)

    def _start_over(self, run: RunView | None) -> None:
        self._key = None if run is None else run.key
        self._labels = [] if run is None else list(run.prompt.pieces)
        self.columns.clear()
        self._taken = dict.fromkeys(ask.SLOTS, 0)
        self._problem.clear()
        self._recompute, self._first = False, 0
        self._asked_s = dict.fromkeys(ask.SLOTS, 0.0)
        self._offer_recompute()
        self.norms_answer = self.parts_answer = None
        self.norms.show_steps((), (), None, restart=True)
        self.parts.show_answer(None)

    # answers

    def _take(self, slot: str, state: AppState) -> None:
        got = select.answer(state, slot)
        if got is None or got.generation <= self._taken[slot]:
            return
        self._taken[slot] = got.generation
        answer, asked = got.answer, state.asked.get(slot)
        if got.error is not None and asked is not None:
            self._first = max(self._first, got.first_recorded)
            self._problem[slot] = ask.Declined(asked.query, got.error.message, got.can_recompute)
            return
        self._problem.pop(slot, None)
        if isinstance(answer, LensAnswer):
            self.columns.take(answer)
        elif isinstance(answer, NormsAnswer):
            self.norms_answer = answer
        elif isinstance(answer, AttributionAnswer):
            self.parts_answer = answer

    def _offer_recompute(self) -> None:
        """Where records of what the page shows were dropped."""
        slots = (ask.PAGE_SLOTS[self.active], ask.FILL_SLOT) if self.active == LENS else (ask.PAGE_SLOTS[self.active],)
        can = any(self._problem[slot].can_recompute for slot in slots if slot in self._problem)
        if can != self._can_recompute:
            self._can_recompute = can
            self._share_row()

    # questions

    def _ask(self, run: RunView, state: AppState) -> None:
        pinned, busy = state.selected is not None, ask.is_busy(state)
        self._put(ask.PAGE_SLOTS[self.active], self._query(run, state), state, 0 if pinned else ask.LIVE_INTERVAL_S)
        waits = ask.LENS_SLOT in self._just_asked or select.is_waiting(state, ask.LENS_SLOT)
        if self.active != LENS or (waits and not busy):
            return
        visible, most = self.table.visible_positions(), 1 if busy else ask.PORTION
        first = 0 if self._recompute else self._first
        rest = ask.fill_query(run, self.columns, visible, most, first, recompute=self._recompute)
        self._put(ask.FILL_SLOT, rest, state, ask.LIVE_INTERVAL_S if pinned else ask.FILL_INTERVAL_S)

    def _put(self, slot: str, query: ViewQuery | None, state: AppState, interval_s: float) -> None:
        """Ask, unless it is known or asked already; while tokens are produced not more often than `interval_s` says.

        The answer for a moment that was just chosen is waited for: its question takes the place of an older one.
        """
        if query is None:
            self._problem.pop(slot, None)
            return
        urgent = state.selected is not None and slot != ask.FILL_SLOT
        asked = state.asked.get(slot)
        overtakes = urgent and asked is not None and asked.query != query
        if slot in self._just_asked or (select.is_waiting(state, slot) and not overtakes):
            return
        declined, now = self._problem.get(slot), time.monotonic()
        if declined is not None and declined.query == query:
            return
        if ask.is_busy(state) and now - self._asked_s[slot] < interval_s:
            return
        self._asked_s[slot] = now
        self._asked.add(slot)
        self._just_asked.add(slot)
        self.dispatch(AskView(slot, query, slot != ask.FILL_SLOT))

    def _query(self, run: RunView, state: AppState) -> ViewQuery | None:
        shown, live = select.shown_position(state), ask.is_busy(state) and state.selected is None
        if self.active == LENS:
            return ask.lens_query(run, self.columns, shown, recompute=self._recompute)
        if shown is None:
            return None
        if self.active == NORMS:
            added = self.add.isChecked() and not live
            norms = ask.norms_query(run, shown, added, recompute=self._recompute and not added)
            return None if self.norms_answer is not None and self.norms_answer.query == norms else norms
        parts = None if live else ask.attribution_query(run, state)
        return None if self.parts_answer is not None and self.parts_answer.query == parts else parts

    def _recompute_clicked(self) -> None:
        self._recompute = True
        self._problem.clear()
        self._refresh()

    # showing

    def _say(self, words: tuple[str, str]) -> None:
        self.table.set_message(*words)
        self.norms.set_empty(*words)
        self.parts.set_empty(*words)

    def _show(self, run: RunView, state: AppState) -> None:
        self._offer_recompute()
        problem = self._problem.get(ask.PAGE_SLOTS[self.active])
        live = ask.is_busy(state) and state.selected is None
        waiting = lens_words.waiting(state, self.active == ATTRIBUTION, live)
        waiting = lens_words.nothing("", state) if select.has_nothing(state) else waiting
        self._say((problem.message, "") if problem else waiting)
        if not problem and select.fed_positions(run):
            self.table.set_message("")
        shown, pinned = select.shown_position(state), state.selected is not None
        if self.active == LENS:
            fed = select.fed_positions(run)
            self.table.show_positions(self._labels, fed, run.model.layers, shown, pinned)
        elif self.active == NORMS and problem:
            self.norms.show_steps((), (), None, restart=True)
        elif self.active == NORMS and self.norms_answer is not None:
            self._show_norms(self.norms_answer)
        elif self.active == ATTRIBUTION:
            fits = self.parts_answer is not None and self.parts_answer.query == ask.attribution_query(run, state)
            self.parts.show_answer(self.parts_answer if fits else None)
            self._show_signs()

    def _show_signs(self) -> None:
        """The scale of the heads' parts."""
        if self._state is not None:
            end = numbers.significant(self.parts.heads_scale)
            meaning = self.tr("Part of the logit that a head adds")
            self.signs.show_map(self.parts.signs, f"−{end}", f"+{end}", select.palette(self._state), meaning)

    def _show_norms(self, answer: NormsAnswer) -> None:
        series = lens_words.norm_series(answer)
        self._colour_norms()
        self.norms.shortest = len(answer.residual)
        self.norms.set_lanes(self._lanes(answer.attention is not None))
        self.norms.show_steps(tuple(map(Series, series)), (), None, restart=True)

    def _show_table(self, state: AppState) -> None:
        which, shown = self.twins.shown, select.shown_position(state)
        if which is None:
            return
        table = None
        column = None if shown is None else self.columns.by_position.get(shown)
        if which == LENS and column is not None:
            table = looking_tables.lens_table(self.columns, column, (self._key, shown))
        elif which == NORMS and self.norms_answer is not None:
            table = looking_tables.norms_table(self.norms_answer)
        elif self.parts_answer is not None and which in (ATTRIBUTION, HEADS):
            made = looking_tables.parts_table if which == ATTRIBUTION else looking_tables.heads_parts_table
            table = made(self.parts_answer)
        self.twins.show_table(table)

    def _show_page(self, index: int) -> None:
        self.pages.setCurrentIndex(index)
        self.colour.setEnabled(index == LENS)
        self._share_row()
        self._described = None
        self._refresh()

    def _share_row(self) -> None:
        index, both = self.pages.currentIndex(), self.add.isChecked()
        shown: dict[int, tuple[QWidget, ...]] = {
            LENS: (self.legend,),
            NORMS: (self.add,),
            ATTRIBUTION: (),
        }
        told: dict[int, tuple[QWidget, ...]] = {
            LENS: (),
            NORMS: (self.streams, self.swatches) if both else (self.streams,),
            ATTRIBUTION: (self.swatches, self.rounded, self.signs),
        }
        self.legends.setVisible(bool(told[index]))
        self.legends.want(*told[index])
        self.row.want(*shown[index], *((self.again,) if self._can_recompute else ()))

    def _turned(self) -> None:
        self._described = None
        self._refresh()

    def _show_legend(self) -> None:
        self.colour.show_key(self._by)
        if self._state is not None:
            palette, (low, high) = select.palette(self._state), colour_ends(self._by)
            self.legend.show_map(token_fills(palette), low, high, palette, lens_words.meaning(self._by))

    # controls

    def _refresh(self) -> None:
        if self._state is not None:
            self.render(self._state)

    def _choose_colour(self, key: str) -> None:
        self._by = cast(LensColour, key)
        self.table.set_colour(self._by)
        self._show_legend()

    def _select_position(self, position: int) -> None:
        run = self._state.run if self._state else None
        if run is not None:
            index = position - (run.prompt_tokens - 1)
            self.dispatch(SelectStep(index if index < max(0, run.count - 1) else None))

    def _head_chosen(self, row: int) -> None:
        if self.parts_answer is not None:
            table = looking_tables.heads_parts_table(self.parts_answer)
            self.dispatch(SetFocus(int(table.columns[0].values[row]), int(table.columns[1].values[row])))

    def _tooltip(self, layer: int, position: int) -> str:
        column = self.columns.by_position.get(position)
        label = self._labels[position] if position < len(self._labels) else ""
        return lens_words.cell_tooltip(self.columns, column, label, layer, position)

    def _norms_tooltip(self, layer: int) -> str:
        return "" if self.norms_answer is None else lens_words.norms_tooltip(self.norms_answer, layer)

    def _parts_tooltip(self, column: int, head: int | None) -> str:
        return "" if self.parts_answer is None else lens_words.part_tooltip(self.parts_answer, column, head)
