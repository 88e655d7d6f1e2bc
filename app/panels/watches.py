"""Watches: the probability and rank of chosen tokens over the steps, past and new ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

import numpy as np
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from app.panels import acting_tables
from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.panels.watch_columns import WatchColumn, WatchColumns
from app.state import select
from app.state.acting_intents import PinToken, UnpinToken
from app.state.acting_state import Pin
from app.state.intents import AskView, SelectStep, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers, step_text
from app.widgets.focus_ring import FocusRing
from app.widgets.kind_form import FormField, FormKind, FormToggle, KindForm, whole
from app.widgets.pin_list import WIDTH_PX, PinList
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.twin import Twin, TwinStack
from core.contract import ParameterError, WatchAnswer, WorkerState

SLOT = "watches"
LEAST_LIST_PX, LIST_SHARE = 124, 0.36  # of the width, for the list of tokens
LIVE_INTERVAL_S = 0.25  # between two questions while tokens are produced


class WatchesPanel(Panel):
    """Two plots over the steps, the list of tokens beside them, a form to add one."""

    name = "watches"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Watches")
        self.columns = WatchColumns()
        self.form = KindForm(self.tr("Watch a token"), _kinds(), self._add, self)
        self.toggle = FormToggle(self.form, self)
        self.plot = SeriesPlot(self._lanes(0))
        self.plot.setAccessibleName(self.tr("Probability and rank of the watched tokens over the steps"))
        self.plot.set_empty(
            self.tr("Watched tokens are drawn here over the steps"),
            self.tr("Add a token here, or right-click one in Candidates or Output."),
        )
        self.plot.clicked.connect(self._clicked)
        self.plot.tooltip = self._tooltip
        FocusRing(self.plot)
        self.list = PinList()
        self.list.setAccessibleName(self.tr("Watched tokens"))
        self.list.removed.connect(self._removed)
        self.list.hide()
        plots = QWidget(self)
        row = QHBoxLayout(plots)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.plot, 1)
        row.addWidget(self.list)
        twin = Twin(self.tr("Watched tokens"), (self.plot,), self._select)
        self.twins = TwinStack(self.title, plots, (twin,), self)
        self.twins.turned.connect(self._refresh)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.form)
        box.addWidget(self.twins, 1)
        self._state: AppState | None = None
        self._key: object = None
        self._generation = 0
        self._blocked: object = None  # the question that core declined
        self._asked = False
        self._asked_s = 0.0
        self._drawn: tuple[object, ...] = ()
        self._theme = ""
        self._described: Moment = None

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.toggle)

    def hidden(self) -> None:
        if self._asked:
            self._asked = False
            self.dispatch(WithdrawView(SLOT))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            self.twins.set_palette(select.palette(state))
            self.toggle.set_accent(select.palette(state).accent)
            self._drawn = ()
        run, pins = state.run, state.acting.pins
        if run is None or run.key != self._key:
            self._key, self._generation, self._blocked = None if run is None else run.key, 0, None
            self.columns.restart(pins)
        self.columns.follow(pins)
        if run is not None and pins:
            self._take(run, state)
            self._ask(run, state)
        self._draw(run, state)
        self._described = describe_selection(self, (self.plot,), state, self._described)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.toggle.fit(self.height(), not self.columns.columns)
        self.list.setFixedWidth(max(LEAST_LIST_PX, min(WIDTH_PX, int(self.width() * LIST_SHARE))))

    # questions

    def _take(self, run: RunView, state: AppState) -> None:
        got = select.answer(state, SLOT)
        if got is None or got.generation <= self._generation:
            return
        self._generation = got.generation
        if isinstance(got.answer, WatchAnswer):
            if got.answer.query.run_id == run.run_id:
                self.subtitle = ""
                self.columns.take(run, got.answer)
            return
        asked = state.asked.get(SLOT)
        query = None if asked is None else asked.query
        if got.error is not None and query is not None:
            first = got.first_recorded - select.query_position(run, 0)
            tokens = getattr(query, "tokens", ())
            if first > 0:
                self.columns.skip(tokens, min(first, run.count))
                self.subtitle = self.tr("records of the first steps were dropped")
            else:
                self._blocked, self.subtitle = tokens, got.error.message

    def _ask(self, run: RunView, state: AppState) -> None:
        live = state.worker in (WorkerState.DECODING, WorkerState.PREFILL)
        if select.is_waiting(state, SLOT) or (live and time.monotonic() - self._asked_s < LIVE_INTERVAL_S):
            return
        query = self.columns.query(run, live)
        if query is None or query.tokens == self._blocked:
            return
        self._asked, self._asked_s = True, time.monotonic()
        self.dispatch(AskView(SLOT, query))

    # drawing

    def _lanes(self, count: int) -> tuple[Lane, ...]:
        ranks = tuple(range(count, 2 * count))
        return (
            Lane(3, "p", tuple(range(count)), caption=self.tr("probability before the pipeline")),
            Lane(2, "log", ranks, caption=self.tr("rank, as log₁₀(1 + rank)")),
        )

    def _draw(self, run: RunView | None, state: AppState) -> None:
        index = select.step_index(state)
        selected = select.pinned_index(state)
        steps = 0 if run is None or not self.columns.columns else run.count
        drawn = (self._key, self.columns.version, steps, selected, index, self._theme)
        if drawn == self._drawn:
            return
        restart = drawn[:2] != self._drawn[:2]
        self._drawn = drawn
        columns, palette = self.columns.columns, select.palette(state)
        colours = palette.categorical[: len(columns)]
        self.plot.set_palette(palette, (*colours, *colours))
        self.plot.set_lanes(self._lanes(len(columns)))
        series = [Series(column.probability(steps)) for column in columns]
        series += [Series(np.log10(1.0 + column.rank(steps))) for column in columns]
        self.plot.show_steps(tuple(series) if steps else (), (), selected, restart)
        self.list.setVisible(bool(columns))
        self.toggle.fit(self.height(), not columns)
        at = None if not steps else index
        self.list.show_pins([_line(c, at, colour) for c, colour in zip(columns, colours, strict=True)])
        if self.twins.shown is not None:
            table = acting_tables.watch_table(run, columns, selected) if run is not None and steps else None
            self.twins.show_table(table)

    def describe(self) -> str:
        """The watched tokens at the shown step, in words."""
        state = self._state
        index = select.step_index(state) if state else None
        if state is None or state.run is None or index is None or not self.columns.columns:
            return self.tr("No token is watched, or there are no steps yet.")
        said = "; ".join(_words(column, index) for column in self.columns.columns)
        return self.tr("Step {0}: {1}.").format(index, said)

    def _tooltip(self, index: int) -> str:
        lines = [tr("step {0}").format(index), *(_words(column, index) for column in self.columns.columns)]
        return "<br>".join(map(escape, lines))

    # controls

    def _refresh(self) -> None:
        self._drawn = ()
        if self._state is not None:
            self.render(self._state)

    def _add(self, thing: object) -> None:
        if isinstance(thing, Pin):
            self.dispatch(PinToken(thing.token, thing.piece))

    def _removed(self, number: int) -> None:
        self.dispatch(UnpinToken(self.columns.columns[number].pin.token))

    def _clicked(self, index: int) -> None:
        run = self._state.run if self._state else None
        if run is not None:
            self._select(min(index, run.count - 1))

    def _select(self, index: int) -> None:
        run = self._state.run if self._state else None
        newest = run is not None and index == run.count - 1
        self.dispatch(SelectStep(None if newest else index))


def _line(column: WatchColumn, index: int | None, colour: str) -> tuple[str, str, str, str]:
    value = float("nan") if index is None else float(column.probability(index + 1)[index])
    shown = "–" if np.isnan(value) else numbers.probability(value)
    tip = "" if column.token_id is None else f"id {column.token_id}"
    return step_text.quoted(column.piece), shown, colour, tip


def _words(column: WatchColumn, index: int) -> str:
    value, rank = float(column.probability(index + 1)[index]), float(column.rank(index + 1)[index])
    named = step_text.quoted(column.piece)
    if np.isnan(value):
        return tr("{0} is not known yet").format(named)
    return tr("{0} {1}, rank {2}").format(named, numbers.percent(value), int(rank))


def _kinds() -> tuple[FormKind, ...]:
    text = FormField(
        "", tr("Text of the token; its first one where it takes several"), "", True, tr(" word, with its space")
    )
    number = FormField("", tr("Token id"), "")
    return (
        FormKind("text", tr("token by text"), (text,), _by_text),
        FormKind("id", tr("token by id"), (number,), _by_id),
    )


def _by_text(texts: Sequence[str]) -> Pin:
    if not texts[0]:
        raise ParameterError(tr("Write the text of a token; most words begin with a space."))
    return Pin(texts[0], texts[0])


def _by_id(texts: Sequence[str]) -> Pin:
    token_id = whole(texts[0], tr("The token id"))
    if token_id < 0:
        raise ParameterError(tr("Token ids are counted from 0."))
    return Pin(token_id, f"id {token_id}")
