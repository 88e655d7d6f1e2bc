"""Attention: the map of one layer and head, and small maps of every head."""

from __future__ import annotations

import time
from typing import cast

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.panels import attention_words as words
from app.panels import looking_tables, tables
from app.panels.accessible import Moment, describe_selection
from app.panels.attention_heads import HeadSummaries
from app.panels.attention_questions import (
    DECODING_INTERVAL_S,
    FOCUS_SLOT,
    HEADS_SLOT,
    THUMBNAILS_SLOT,
    WHOLE,
    Span,
    focus_query,
    heads_query,
    is_of,
    snapped,
    thumbnail_query,
)
from app.panels.attention_range import RangeChoice
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.acting_intents import MuteHead, Part, SkipLayer, UnmuteHeads
from app.state.intents import AskView, JoinHeads, SelectStep, SetFocus, ToggleHead, WithdrawView
from app.state.run import RunView
from app.state.state import AppState, AttentionFocus, Head
from app.state.texts import tr
from app.theme import fonts
from app.theme.colormaps import sequential
from app.widgets.choice import Choice
from app.widgets.focus_ring import FocusRing
from app.widgets.heat_matrix import LOG_FLOOR, SCALES, HeatMatrix, Scale
from app.widgets.heatmap import Heatmap
from app.widgets.legend import MapLegend
from app.widgets.thumbnails import LEFT_PX, SCROLL_PX, Thumbnails, wanted_width
from app.widgets.twin import Twin, TwinStack
from core.contract import Answered, AttentionAnswer, HeadsAnswer, ThumbnailAnswer, WorkerState

SCALE_TEXT: dict[Scale, str] = {"sqrt": "√", "linear": "linear", "log": "log"}
THUMBNAIL_SHARE = 0.48  # of the width at most
NARROW_PX = 280  # below it the title bar says L and H instead of layer and head
HEADS = 1  # the number of the table of all heads


class AttentionPanel(Panel):
    """Focus heatmap left, layers × heads right."""

    name = "attention"
    title = "Attention"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Attention")
        self.matrix = HeatMatrix()
        self.heatmap = Heatmap(self.matrix)
        self.heatmap.setAccessibleName(self.tr("Attention of the chosen layer and head, queries down, keys across"))
        self.heatmap.tooltip = self._tooltip
        self.heatmap.clicked.connect(self._row_clicked)
        self.heatmap.ranged.connect(self._set_span)
        self.thumbnails = Thumbnails()
        self.thumbnails.setAccessibleName(self.tr("Attention of every head, layers down, heads across"))
        self.thumbnails.clicked.connect(lambda layer, head: dispatch(SetFocus(layer, head)))
        self.thumbnails.toggled.connect(lambda layer, head: dispatch(ToggleHead(layer, head)))
        self.thumbnails.muted.connect(lambda layer, head: dispatch(MuteHead(layer, head)))
        self.thumbnails.skipped.connect(lambda layer, part: dispatch(SkipLayer(layer, cast(Part, part))))
        self.thumbnails.unmuted.connect(lambda: dispatch(UnmuteHeads()))
        self.summaries = HeadSummaries()
        self.thumbnails.tooltip = self.summaries.tooltip
        self.thumbnails.visible_changed.connect(self._thumbnails_scrolled)
        self.layer = Choice(
            self.tr("layer"), self.tr("Layer of the heatmap"), lambda key: self._focus(layer=int(key)), self
        )
        self.head = Choice(
            self.tr("head"), self.tr("Head of the heatmap"), lambda key: self._focus(head=_head(key)), self
        )
        tip = self.tr("How weights become colours")
        self.scale = Choice("", tip, lambda key: self._set_scale(cast(Scale, key)), self)
        self.scale.set_options([(scale, tr(SCALE_TEXT[scale])) for scale in SCALES])
        self.range = RangeChoice(self._set_span, self)
        self.legend = MapLegend(64)
        self.caption = QLabel()
        self.caption.setTextFormat(Qt.TextFormat.PlainText)
        self.caption.setFont(fonts.ui(fonts.SMALL_PX))
        self.caption.setProperty("secondary", True)
        self.recompute = QPushButton(self.tr("Recompute"), self)
        self.recompute.setToolTip(self.tr("Run the model again over the positions whose records were dropped"))
        self.recompute.clicked.connect(self._recompute_clicked)
        self.recompute.hide()
        self._build()
        self._state: AppState | None = None
        self._span: Span = WHOLE
        self._key: tuple[tuple[int, int], AttentionFocus, Span] | None = None
        self._labels: list[str] = []
        self._labelled_run: tuple[int, int] | None = None
        self._scale: Scale = "sqrt"
        self._theme = ""
        self._described: Moment = None
        self._generations = {FOCUS_SLOT: 0, THUMBNAILS_SLOT: 0, HEADS_SLOT: 0}  # answers that were taken in
        self._blocked: tuple[object, ...] | None = None  # what was asked when core had to decline
        self._recompute = False
        self._first = 0  # the position from which on there are records
        self._asked: set[str] = set()  # slots with a question since the panel was hidden last
        self._just_asked: set[str] = set()  # slots with a question that `_state` does not know of yet
        self._seen: dict[int, int] = {}  # layer → positions its thumbnails cover
        self._thumbnails_asked_s = 0.0

    def _build(self) -> None:
        plots = QWidget(self)
        self._row = QHBoxLayout(plots)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(4)
        self._row.addWidget(self.heatmap, 1)
        self._row.addWidget(self.thumbnails)
        for plot in (self.heatmap, self.thumbnails):
            FocusRing(plot)
        row = Twin(self.tr("Row of the step"), (self.heatmap,))
        heads = Twin(self.tr("Heads"), (self.thumbnails,), self._head_chosen)
        self.twins = TwinStack(self.title, plots, (row, heads), self)
        self.twins.turned.connect(self._turned)
        foot = QHBoxLayout()
        foot.addWidget(self.legend)
        foot.addWidget(self.range)
        foot.addStretch(1)
        foot.addWidget(self.caption)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.twins, 1)
        box.addLayout(foot)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.layer, self.head, self.scale)

    def hidden(self) -> None:
        for slot in sorted(self._asked):
            self.dispatch(WithdrawView(slot))
        self._asked.clear()

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        self._just_asked.clear()
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.heatmap.set_palette(palette)
            self.thumbnails.set_palette(palette)
            self.twins.set_palette(palette)
            self._show_legend()
        self._show_choices(state)
        asked = state.acting.interventions
        self.thumbnails.set_muted(select.muted_heads(asked), select.skipped_parts(asked))
        run = state.run
        status = select.view_status(state, "attention")
        available = status is None or status.available
        for widget in (self.thumbnails, self.legend, self.caption, self.range):
            widget.setVisible(available)
        if run is None or not available:
            self._reset(None)
            self._forget_heads()
            self._say(status.reason if status and not status.available else "", state)
            self._show_table(None)
            self._described = describe_selection(self, (self.heatmap, self.thumbnails), state, self._described)
            return
        self._follow_run(run, state)
        self._take_focus(run, state)
        self._take_thumbnails(run, state)
        self.range.show_span(self._span, run.prompt_tokens, select.fed_positions(run))
        self._ask(run, state)
        position = select.shown_position(state)
        self.heatmap.set_row(position, state.selected is not None)
        self._show_table(position)
        covered = None if select.is_waiting(state, FOCUS_SLOT) else self._described
        self._described = describe_selection(self, (self.heatmap, self.thumbnails), state, covered)

    def describe(self) -> str:
        """Where the shown token looks most, in words."""
        position = select.shown_position(self._state) if self._state else None
        if self._state is None or position is None or not self.matrix.rows:
            return self.tr("No attention yet.")
        return words.sentence(self.matrix, self._span[0], self._labels, self._state.focus, position)

    # focus heatmap

    def _reset(self, key: tuple[tuple[int, int], AttentionFocus, Span] | None) -> None:
        if key == self._key and key is not None:
            return
        self._key = key
        self._blocked, self._recompute = None, False
        self.recompute.hide()
        if self.matrix.rows:
            self.matrix.clear()
            self.heatmap.show_rows(0)

    def _forget_heads(self) -> None:
        self._seen.clear()
        self._first = 0
        self.summaries.clear()
        self.thumbnails.clear()
        self.thumbnails.set_kinds({})

    def _follow_run(self, run: RunView, state: AppState) -> None:
        if run.key != self._labelled_run:
            self._labelled_run, self._labels = run.key, list(run.prompt.pieces)
            self.heatmap.set_labels(self._labels)
            self._forget_heads()
            self._span = WHOLE
            self._generations = dict.fromkeys(self._generations, 0)
        self._labels.extend(s.piece for s in run.steps(len(self._labels) - len(run.prompt.pieces)))
        self._reset((run.key, state.focus, self._span))
        self.heatmap.set_origin(self._span[0])
        self._say("", state)

    def _take_focus(self, run: RunView, state: AppState) -> None:
        got = select.answer(state, FOCUS_SLOT)
        if got is None or got.generation <= self._generations[FOCUS_SLOT]:
            return
        self._generations[FOCUS_SLOT] = got.generation
        if got.answer is None:
            asked = state.asked.get(FOCUS_SLOT)
            if got.error is not None and asked is not None and is_of(asked.query, run.run_id, state.focus):
                if self._begin_later(got.first_recorded):
                    return
                self._blocked = self._block_key(run)
                self.heatmap.set_message(got.error.message)
                self.matrix.clear()
                self.heatmap.show_rows(0)
                self._offer_recompute(got.can_recompute)
            return
        if isinstance(got.answer, AttentionAnswer) and is_of(got.answer.query, run.run_id, state.focus):
            self._take_rows(got.answer)

    def _take_rows(self, answer: AttentionAnswer) -> None:
        """Rows that continue the map, one by one or pooled; others belong to another range."""
        origin, (first, stop), factor = self._span[0], answer.rows, answer.cell[0]
        if answer.cell == (1, 1) and origin <= first <= origin + self.matrix.rows < stop:
            changed = self.matrix.append(first - origin, answer.weights[0][:, origin:])
        elif answer.cell == (factor, factor) and factor > 1 and first == origin + self.matrix.rows:
            changed = self.matrix.append_cells(answer.weights[0][:, origin // factor :], stop - origin, factor)
        else:
            return
        self._offer_recompute(self._first > origin and not self._recompute)
        self.heatmap.show_rows(changed)

    def _begin_later(self, first: int) -> bool:
        """Records before `first` were dropped: show the rows from there on. False where that was tried already."""
        origin = self._span[0]
        if first <= origin + self.matrix.rows or self._recompute:
            return False
        self._first = first
        self.matrix.skip(first - origin)
        self.heatmap.show_rows(0)
        self._offer_recompute(True)
        return True

    def _offer_recompute(self, offered: bool) -> None:
        """Over the corner of the map that is always empty, or below the message that stands in its place."""
        self.recompute.setVisible(offered)
        if offered:
            hint, room = self.recompute.sizeHint(), self.width() - self.thumbnails.width()
            x, y = (room - hint.width()) // 2, self.height() * 2 // 3
            if self.matrix.rows:
                x, y = room - hint.width() - 12, self.height() // 8
            self.recompute.setGeometry(max(0, x), y, hint.width(), hint.height())
            self.recompute.raise_()

    def _block_key(self, run: RunView) -> tuple[object, ...]:
        return (self._key, run.finish is not None, self._recompute)

    def _recompute_clicked(self) -> None:
        self._recompute, self._first = True, 0
        self.summaries.clear()
        self.thumbnails.set_kinds({})
        self.matrix.clear()
        self.heatmap.show_rows(0)
        self.recompute.hide()
        if self._state is not None:
            self.render(self._state)

    def _say(self, reason: str, state: AppState) -> None:
        """What the heatmap says while it is empty."""
        if self._blocked is not None:
            return
        self.heatmap.set_message(*words.empty(reason, state))

    # thumbnails

    def _take_thumbnails(self, run: RunView, state: AppState) -> None:
        heads = select.answer(state, HEADS_SLOT)
        if heads is not None and heads.generation > self._generations[HEADS_SLOT]:
            self._generations[HEADS_SLOT] = heads.generation
            self._first = max(self._first, heads.first_recorded)
            if isinstance(heads.answer, HeadsAnswer) and heads.answer.query.run_id == run.run_id:
                self.summaries.take(heads.answer)
                self.thumbnails.set_kinds(self.summaries.letters())
            self._offer_for(heads)
        got = select.answer(state, THUMBNAILS_SLOT)
        if got is None or got.generation <= self._generations[THUMBNAILS_SLOT]:
            return
        self._generations[THUMBNAILS_SLOT] = got.generation
        answer = got.answer
        self._first = max(self._first, got.first_recorded)
        self._offer_for(got)
        if isinstance(answer, ThumbnailAnswer) and answer.query.run_id == run.run_id:
            self.thumbnails.set_maps(answer.query.layers, answer.maps)
            self._seen.update(dict.fromkeys(answer.query.layers, answer.span[1]))

    def _offer_for(self, declined: Answered) -> None:
        """What heads do can be had although its records were dropped."""
        if declined.can_recompute and not self._recompute:
            self._offer_recompute(True)

    def _thumbnails_scrolled(self) -> None:
        visible = self.thumbnails.visible_layers()
        info = (self._state.run.model if self._state.run else self._state.model) if self._state else None
        if info is None or not visible:
            self.caption.setText("")
            return
        caption = self.tr("layers {0}–{1} of {2}, {3} heads")
        self.caption.setText(caption.format(visible.start, visible.stop - 1, info.layers, info.heads))
        if self._state is not None and self._state.run is not None:
            self._ask_thumbnails(self._state.run, self._state, at_once=True)

    # tables

    def _turned(self) -> None:
        if self._state is not None:
            self.render(self._state)

    def _show_table(self, position: int | None) -> None:
        which = self.twins.shown
        if which == HEADS:
            known = self.summaries
            muted = select.muted_heads(self._state.acting.interventions) if self._state else frozenset()
            made = looking_tables.heads_table(known.by_layer, known.version, muted) if known.by_layer else None
            self.twins.show_table(made)
        elif which is not None:
            table = None
            if position is not None and self.matrix.rows:
                query = max(0, min(position - self._span[0], self.matrix.rows - 1))
                table = tables.attention_table(self.matrix, self._labels, query, self._span[0])
            self.twins.show_table(table)

    def _head_chosen(self, row: int) -> None:
        layers = sorted(self.summaries.by_layer)
        heads = self.summaries.by_layer[layers[0]][0].first.shape[1]
        self.dispatch(SetFocus(layers[row // heads], row % heads))

    # questions

    def _ask(self, run: RunView, state: AppState) -> None:
        if self._blocked == self._block_key(run):
            return
        self._blocked = None
        asked = state.asked.get(FOCUS_SLOT)
        ours = asked is not None and is_of(asked.query, run.run_id, state.focus)
        if not (ours and select.is_waiting(state, FOCUS_SLOT)):
            fed = select.fed_positions(run)
            have = self.matrix.rows
            query = focus_query(run, state.focus, have, fed, recompute=self._recompute, span=self._span)
            if query is not None:
                self._put(AskView(FOCUS_SLOT, query, chosen=False))
        self._ask_thumbnails(run, state)

    def _ask_thumbnails(self, run: RunView, state: AppState, at_once: bool = False) -> None:
        """One question at a time, and not more often than the decoding can bear."""
        waiting = THUMBNAILS_SLOT in self._just_asked or select.is_waiting(state, THUMBNAILS_SLOT)
        if waiting or self._blocked is not None:
            return
        now = time.monotonic()
        decoding = state.worker in (WorkerState.DECODING, WorkerState.PREFILL)
        if decoding and not at_once and now - self._thumbnails_asked_s < DECODING_INTERVAL_S:
            return
        fed, every = select.fed_positions(run), self.twins.shown == HEADS
        visible = range(run.model.layers) if every else self.thumbnails.visible_layers()
        query = None if every else thumbnail_query(run, visible, self._seen, fed, self._first)
        if query is not None:
            self._thumbnails_asked_s = now
            self._put(AskView(THUMBNAILS_SLOT, query, chosen=False))
        elif every or not decoding:
            self._ask_summaries(run, state, visible, fed)

    def _ask_summaries(self, run: RunView, state: AppState, visible: range, fed: int) -> None:
        """What heads do: while tokens stream only for the table, else once the maps are there."""
        got, asked = select.answer(state, HEADS_SLOT), state.asked.get(HEADS_SLOT)
        # An answer made anew feeds the model: not while tokens come.
        again = self._recompute and state.worker not in (WorkerState.DECODING, WorkerState.PREFILL)
        query = heads_query(run, visible, self.summaries.seen, fed, 0 if again else self._first, recompute=again)
        declined = got is not None and got.error is not None and asked is not None and asked.query == query
        waits = HEADS_SLOT in self._just_asked or select.is_waiting(state, HEADS_SLOT)
        if query is not None and not waits and not declined:
            self._thumbnails_asked_s = time.monotonic()
            self._put(AskView(HEADS_SLOT, query, chosen=False))

    def _put(self, question: AskView) -> None:
        self._asked.add(question.slot)
        self._just_asked.add(question.slot)
        self.dispatch(question)

    # controls

    def _show_choices(self, state: AppState) -> None:
        info = state.run.model if state.run else state.model
        if info is not None:
            self.layer.set_options([(str(i), str(i)) for i in range(info.layers)])
            chosen = ", ".join(map(str, state.focus.chosen))
            joined = [
                (by, self.tr("{0} of {1}").format(name, chosen) if chosen else name) for by, name in self._joins()
            ]
            self.head.set_options([*joined, *words.head_options(state, info.heads)])
            if self.thumbnails.set_shape(info.layers, info.heads):
                self._share_width()
            head = state.focus.head
            self.thumbnails.set_focus(state.focus.layer, head if isinstance(head, int) else None, state.focus.chosen)
        self.layer.show_key(str(state.focus.layer))
        self.head.show_key(str(state.focus.head))
        self.scale.show_key(self._scale)

    def _joins(self) -> tuple[tuple[str, str], ...]:
        return (("mean", self.tr("mean")), ("max", self.tr("max")))

    def _set_span(self, start: int, stop: int | None) -> None:
        if self._state is not None and self._state.run is not None:
            fed = select.fed_positions(self._state.run)
            self._span = snapped(start, None if stop is None or stop >= fed > start + 1 else stop, fed)
            self.render(self._state)

    def _focus(self, layer: int | None = None, head: Head | None = None) -> None:
        focus = self._state.focus if self._state else AttentionFocus()
        if layer is None and focus.chosen and head in ("mean", "max"):
            self.dispatch(JoinHeads(head))
            return
        self.dispatch(SetFocus(focus.layer if layer is None else layer, focus.head if head is None else head))

    def _set_scale(self, scale: Scale) -> None:
        self._scale = scale
        self.scale.show_key(scale)
        self.heatmap.set_scale(scale)
        self.thumbnails.set_scale(scale)
        self._show_legend()

    def _show_legend(self) -> None:
        if self._state is None:
            return
        low, high = {"sqrt": ("0", "1 √"), "linear": ("0", "1"), "log": (f"{LOG_FLOOR:g}", "1 log")}[self._scale]
        palette = select.palette(self._state)
        meaning = self.tr("Attention weight, {0} scale").format(tr(SCALE_TEXT[self._scale]))
        self.legend.show_map(sequential(), low, high, palette, meaning)

    def _row_clicked(self, query: int) -> None:
        run = self._state.run if self._state else None
        if run is None:
            return
        index = query - (run.prompt_tokens - 1)
        self.dispatch(SelectStep(index if index < max(0, run.count - 1) else None))

    def _tooltip(self, query: int, key: int) -> str:
        if self._state is None:
            return ""
        return words.cell_tooltip(self.matrix, self._span[0], self._labels, self._state.focus, (query, key))

    def _share_width(self) -> None:
        info = (self._state.run.model if self._state.run else self._state.model) if self._state else None
        most = max(LEFT_PX + SCROLL_PX + 40, int(self.width() * THUMBNAIL_SHARE))
        self.thumbnails.setFixedWidth(wanted_width(info.heads if info else 9, most))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The thumbnails take the width that their heads need; the heatmap takes the rest."""
        narrow = self.width() < NARROW_PX
        self.layer.set_label(self.tr("L") if narrow else self.tr("layer"))
        self.head.set_label(self.tr("H") if narrow else self.tr("head"))
        self._share_width()
        self._offer_recompute(self.recompute.isVisible())


def _head(key: str) -> Head:
    return int(key) if key.isdigit() else cast(Head, key)
