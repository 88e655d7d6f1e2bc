"""Two branches compared: how far their distributions are apart at every token, and what they look at differently."""

from __future__ import annotations

import math
import time
from typing import cast

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app.panels import attention_words, compare_words, tables
from app.panels.accessible import Moment, describe_selection
from app.panels.compare_steps import STEPS_SLOT, ComparedSteps, common, map_query
from app.panels.panel import Dispatch, Panel
from app.state import select, twins
from app.state.intents import AskView, SelectStep, SetFocus, WithdrawView
from app.state.state import AppState, Head
from app.state.texts import tr
from app.state.twins import Pair
from app.theme import fonts
from app.theme.colormaps import diverging
from app.widgets.choice import Choice
from app.widgets.focus_ring import FocusRing
from app.widgets.heat_matrix import HeatMatrix
from app.widgets.heatmap import Heatmap
from app.widgets.legend import MapLegend, SwatchLegend
from app.widgets.series_plot import Flag, Lane, Series, SeriesPlot
from app.widgets.twin import Twin, TwinStack
from core.contract import CompareAnswer, CompareAttentionAnswer, CompareAttentionQuery, CompareQuery, WorkerState

MAP_SLOT = "compare.attention"
LANES = (
    Lane(5, "bits", (0,), robust=True),
    Lane(4, "Δ p", (1,), signed=True),
)
MAP_INTERVAL_S = 1.0  # between two maps while tokens are produced
LEAST_PX, LEGEND_PX, NARROW_PX = 120, 56, 260
WIDE = 1.0  # times as wide as high: the map stands beside the curves
MAP = 1  # the number of its table


class ComparePanel(Panel):
    """Curves over the steps, a map of attention differences; a click selects the step in the branch in use."""

    name = "compare"
    title = "Compare"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Compare")
        self.plot = SeriesPlot(LANES)
        self.plot.setAccessibleName(self.tr("Divergence and difference in probability at every token"))
        self.plot.tooltip = self._step_tooltip
        self.plot.clicked.connect(self._clicked)
        self.plot.set_empty(*compare_words.empty())
        self.matrix = HeatMatrix()
        self.heatmap = Heatmap(self.matrix)
        self.heatmap.set_scale("signed")
        self.heatmap.setAccessibleName(self.tr("Difference of attention, queries down, keys across"))
        self.heatmap.tooltip = self._cell_tooltip
        self.heatmap.clicked.connect(self._row_clicked)
        for view in (self.plot, self.heatmap):
            FocusRing(view)
        self.summary = QLabel()
        self.summary.setTextFormat(Qt.TextFormat.PlainText)
        self.summary.setWordWrap(True)
        self.summary.hide()
        tip = self.tr("Compare the model’s own distributions, as papers do, or those that tokens were drawn from")
        self.kind = Choice(self.tr("KL"), tip, lambda key: self._set_final(key == "final"))
        self.kind.set_options([("raw", self.tr("of the model’s own")), ("final", self.tr("after the pipeline"))])
        self.kind.show_key("raw")
        self.swatches = SwatchLegend((self.tr("KL divergence"), self.tr("Δ probability")), self)
        layer, head = self.tr("Layer of the difference map"), self.tr("Head of the difference map")
        self.layer = Choice(self.tr("layer"), layer, lambda key: self._focus(layer=int(key)))
        self.head = Choice(self.tr("head"), head, lambda key: self._focus(head=_head(key)))
        self.legend = MapLegend(LEGEND_PX)
        self._build()
        self.final = False
        self.steps = ComparedSteps()
        self._state: AppState | None = None
        self._pair: Pair | None = None
        self._theme = ""
        self._flags: tuple[Flag, ...] = ()
        self._labels: list[str] = []
        self._labelled: object = None
        self._generations = {STEPS_SLOT: 0, MAP_SLOT: 0}
        self._asked: set[str] = set()
        self._blocked: object = None  # of the questions that core has declined
        self._map: CompareAttentionQuery | None = None
        self._map_asked_s = 0.0
        self._described: Moment = None

    def _build(self) -> None:
        line = QHBoxLayout()
        line.setSpacing(8)
        for widget in (self.layer, self.head):
            line.addWidget(widget)
        line.addStretch(1)
        line.addWidget(self.legend)
        self.below = QWidget()
        lower = QVBoxLayout(self.below)
        lower.setContentsMargins(0, 0, 0, 0)
        lower.setSpacing(2)
        lower.addLayout(line)
        lower.addWidget(self.heatmap, 1)
        plots = QWidget(self)
        self._split = QBoxLayout(QBoxLayout.Direction.TopToBottom, plots)
        self._split.setContentsMargins(0, 0, 0, 0)
        self._split.setSpacing(8)
        self.above = QWidget()
        upper = QVBoxLayout(self.above)
        upper.setContentsMargins(0, 0, 0, 0)
        upper.setSpacing(2)
        upper.addWidget(self.kind, 0, Qt.AlignmentFlag.AlignLeft)
        upper.addWidget(self.plot, 1)
        for half in (self.above, self.below):
            half.setMinimumWidth(LEAST_PX)  # the two share the room evenly
            self._split.addWidget(half, 1)
        steps = Twin(self.tr("Steps"), (self.plot,), self._clicked)
        row = Twin(self.tr("Attention of the step"), (self.heatmap,))
        self.twins = TwinStack(self.title, plots, (steps, row), self)
        self.twins.turned.connect(self._refresh)
        self.summary.setFont(fonts.ui(fonts.SMALL_PX))
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.summary)
        box.addWidget(self.twins, 1)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.swatches,)

    def hidden(self) -> None:
        for slot in sorted(self._asked):
            self.dispatch(WithdrawView(slot))
        self._asked.clear()

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.plot.set_palette(palette, palette.categorical[:2])
            self.swatches.set_colours(*palette.categorical[:2])
            self.heatmap.set_palette(palette)
            self.twins.set_palette(palette)
            meaning = self.tr("Attention of the first branch less that of the second, square-root scale")
            self.legend.show_map(diverging(palette.dark), "−1", "1 √", palette, meaning)
        pair = self._pair = twins.compared(state)
        for widget in (self.summary, self.below, self.kind, self.swatches):
            if widget.isHidden() == (pair is not None):
                widget.setVisible(pair is not None)
        if pair is None:
            self._forget()
            self._described = describe_selection(self, (self.plot, self.heatmap), state, self._described)
            return
        text = compare_words.summary(state, pair, bool(np.isinf(self.steps.kl_bits).any()))
        if text != self.summary.text():
            self.summary.setText(text)
        self._show_choices(state, pair)
        self._follow(pair)
        self._take(state, pair)
        self._ask(state, pair)
        self._show(state, pair)
        self._described = describe_selection(self, (self.plot, self.heatmap), state, self._described)

    def describe(self) -> str:
        """The comparison, and its numbers at the shown step."""
        if self._state is None or self._pair is None:
            return self.tr("Nothing is compared.")
        at = self._step(self._state)
        numbers = "" if at is None else compare_words.step_line(self._pair, self.steps, at)
        return f"{compare_words.summary(self._state, self._pair)}. {numbers}".strip()

    # taking and asking

    def _forget(self) -> None:
        self.steps = ComparedSteps()
        self._labelled = self._map = None
        if self.matrix.rows:
            self.matrix.clear()
            self.heatmap.show_rows(0)
        self.plot.show_steps((), (), None, restart=True)
        self.hidden()
        if self.twins.shown is not None:
            self.twins.show_table(None)

    def _follow(self, pair: Pair) -> None:
        if self.steps.follow(pair, self.final):
            self._blocked = None
        if pair.key != self._labelled:
            self._labelled, self._labels = pair.key, list(pair.first.prompt.pieces)
            self._map = None
            self.matrix.clear()
            self.heatmap.set_labels(self._labels)
            self.heatmap.show_rows(0)
        first = pair.first
        self._labels.extend(s.piece for s in first.steps(len(self._labels) - first.prompt_tokens))

    def _take(self, state: AppState, pair: Pair) -> None:
        for slot in (STEPS_SLOT, MAP_SLOT):
            got, asked = select.answer(state, slot), state.asked.get(slot)
            if got is None or got.generation <= self._generations[slot]:
                continue
            self._generations[slot] = got.generation
            if asked is None or not isinstance(asked.query, CompareQuery | CompareAttentionQuery):
                continue
            if (asked.query.run_id, asked.query.branch_id) != pair.first.branch:
                continue
            if isinstance(got.answer, CompareAnswer):
                if (got.answer.query.final, got.answer.query.other) == (self.final, pair.second.branch_id):
                    self.steps.take(got.answer)
            elif isinstance(got.answer, CompareAttentionAnswer):
                self._take_map(got.answer)
            elif got.error is not None and slot == STEPS_SLOT:
                if not self.steps.skip(got.first_recorded + 1):
                    self._blocked = self._moment(pair)
                    self.plot.set_empty(self.tr("These branches cannot be compared"), got.error.message)
            elif got.error is not None:
                self.matrix.clear()
                self.heatmap.set_message(got.error.message)
                self.heatmap.show_rows(0)

    def _take_map(self, answer: CompareAttentionAnswer) -> None:
        stop, factor = answer.rows[1], answer.cell[0]
        if answer.cell[1] == factor and answer.rows[0] == 0:
            self.matrix.set_cells(answer.difference, stop, factor)
            self.heatmap.show_rows(0)

    def _moment(self, pair: Pair) -> object:
        return self.steps.key, common(pair), pair.first.finish is None, pair.second.finish is None

    def _ask(self, state: AppState, pair: Pair) -> None:
        if self._blocked is not None and self._blocked != self._moment(pair):
            self._blocked = None
        query = self.steps.query(pair, self.final)
        if query is not None and self._blocked is None and not select.is_waiting(state, STEPS_SLOT):
            self._put(AskView(STEPS_SLOT, query))
        heads, reduce = select.heads_of(state.focus)
        if reduce is None and (heads is None or len(heads) > 1):
            reduce = "mean"
        wanted = map_query(pair, state.focus.layer, heads, reduce)
        now, busy = time.monotonic(), state.worker in (WorkerState.DECODING, WorkerState.PREFILL)
        late = not busy or now - self._map_asked_s >= MAP_INTERVAL_S
        if wanted != self._map and late and not select.is_waiting(state, MAP_SLOT) and common(pair) > 1:
            self._map, self._map_asked_s = wanted, now
            self._put(AskView(MAP_SLOT, wanted))

    def _put(self, question: AskView) -> None:
        self._asked.add(question.slot)
        self.dispatch(question)

    # showing

    def _show(self, state: AppState, pair: Pair) -> None:
        parted = twins.first_difference(pair)
        flags: tuple[Flag, ...] = ()
        if parted is not None and parted >= self.steps.start:
            flags = (Flag(parted - self.steps.start, tr("the texts part")),)
        at = self._step(state)
        series = (Series(self.steps.kl_bits), Series(self.steps.change)) if self.steps.count else ()
        restart = flags != self._flags or self.steps.count == 0
        self._flags = flags
        self.plot.show_steps(series, flags, at if state.selected is not None else None, restart)
        position = None if at is None else self.steps.start + at - 1
        self.heatmap.set_row(position, state.selected is not None)
        if self.twins.shown == 0:
            self.twins.show_table(compare_words.steps_table(pair, self.steps, at) if self.steps.count else None)
        elif self.twins.shown == MAP:
            table = None
            if position is not None and self.matrix.rows:
                table = tables.attention_table(self.matrix, self._labels, min(position, self.matrix.rows - 1))
            self.twins.show_table(table)

    def _step(self, state: AppState) -> int | None:
        """The shown step, counted from the first one that is compared."""
        index, run = select.token_index(state), state.run
        if index is None or run is None or self._pair is None:
            return None
        if run.branch not in (self._pair.first.branch, self._pair.second.branch):
            return None
        at = run.prompt_tokens + index - self.steps.start
        return at if at >= 0 else None

    def _show_choices(self, state: AppState, pair: Pair) -> None:
        one, other = pair.first.model, pair.second.model
        self.layer.set_options([(str(n), str(n)) for n in range(min(one.layers, other.layers))])
        joins = [("mean", self.tr("mean")), ("max", self.tr("max"))]
        self.head.set_options([*joins, *((str(n), str(n)) for n in range(min(one.heads, other.heads)))])
        self.layer.show_key(str(state.focus.layer))
        self.head.show_key(str(state.focus.head))

    # what the user does

    def _refresh(self) -> None:
        if self._state is not None:
            self.render(self._state)

    def _set_final(self, final: bool) -> None:
        self.final = final
        self.kind.show_key("final" if final else "raw")
        self._refresh()

    def _focus(self, layer: int | None = None, head: Head | None = None) -> None:
        if self._state is not None:
            focus = self._state.focus
            self.dispatch(SetFocus(focus.layer if layer is None else layer, focus.head if head is None else head))

    def _clicked(self, index: int) -> None:
        run = self._state.run if self._state else None
        if run is None or self._pair is None or run.branch not in (self._pair.first.branch, self._pair.second.branch):
            return
        own = index + self.steps.start - run.prompt_tokens
        if 0 <= own < run.count:
            self.dispatch(SelectStep(None if own == run.count - 1 else own))

    def _row_clicked(self, query: int) -> None:
        self._clicked(query + 1 - self.steps.start)

    def _step_tooltip(self, index: int) -> str:
        if self._pair is None or index >= self.steps.count:
            return ""
        return compare_words.tooltip(self._pair, self.steps, index)

    def _cell_tooltip(self, query: int, key: int) -> str:
        if self._state is None or not self.matrix.rows or math.isnan(self.matrix.at(query, key)):
            return ""
        return attention_words.cell_tooltip(
            self.matrix, 0, self._labels, self._state.focus, (query, key), tr("difference")
        )

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Beside each other where there is room, else one above the other."""
        wide = self.width() >= WIDE * self.height()
        self._split.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)
        narrow = (self.width() // 2 if wide else self.width()) < NARROW_PX
        self.legend.set_strip(LEGEND_PX // 2 if narrow else LEGEND_PX, not narrow)
        self.layer.set_label(self.tr("L") if narrow else self.tr("layer"))
        self.head.set_label(self.tr("H") if narrow else self.tr("head"))


def _head(key: str) -> Head:
    return int(key) if key.isdigit() else cast(Head, key)
