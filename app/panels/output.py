"""The output: the token flow, its colours, the attention row of the selected token drawn over the text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QMenu, QPushButton, QToolButton, QVBoxLayout, QWidget

from app.panels import branch_rows, tables, token_menu
from app.panels.accessible import Moment, describe_selection
from app.panels.output_attention import SOURCE_TEXT, SOURCES, Query, Source, levels_of, query_of, same_view
from app.panels.output_columns import ENDED, OutputColumns
from app.panels.output_feed import FlowFeed, tooltip
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import branches, select
from app.state.acting import stopped_text
from app.state.branch_intents import (
    AnotherTry,
    DeleteBranch,
    EditFrom,
    Fork,
    MoveBranch,
    RenameBranch,
    Rewind,
    ShowBranch,
)
from app.state.intents import AskView, SelectStep, SetColour, WithdrawView
from app.state.run import RunView
from app.state.state import AppState, ColourBy
from app.state.texts import tr
from app.state.twin_intents import CompareBranches
from app.theme.colormaps import token_fills
from app.widgets import numbers, step_text
from app.widgets.branch_strip import BranchStrip
from app.widgets.choice import Choice
from app.widgets.edit_bar import EditBar
from app.widgets.flow_painter import NO_FILL
from app.widgets.focus_ring import FocusRing
from app.widgets.legend import MapLegend
from app.widgets.readout import Readout, share_room
from app.widgets.token_flow import TokenFlow
from app.widgets.twin import Twin, TwinStack
from core.contract import AssistedDetail, WorkerState, deleted_positions

ROW_SLOT = "attention.row"
LEGEND_PX, NARROW_LEGEND_PX = 72, 36
WIDE_PX, NARROW_PX = 480, 380  # below these widths the title bar says less and less
QUANTITIES: tuple[ColourBy, ...] = ("probability", "entropy", "rank", "surprisal")
MEANING = {
    "probability": "Probability of the chosen token before the pipeline",
    "entropy": "Entropy of the model's distribution before the pipeline, in bits",
    "rank": "Rank of the chosen token before the pipeline, 0 is the likeliest; logarithmic",
    "surprisal": "Surprisal of the chosen token, −log2 of its probability, in bits",
    "attention": "Attention from the shown token to every earlier one, square-root scale",
    "column": "Attention that every later token pays to the shown one, square-root scale",
    "rollout": "Attention rollout from the shown token through all layers, square-root scale",
}


class OutputPanel(Panel):
    """Prompt and generated tokens."""

    name = "output"
    title = "Output"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Output")
        self.flow = TokenFlow()
        self.flow.setAccessibleName(self.tr("Output tokens"))
        FocusRing(self.flow)
        self.flow.tooltip = self._tooltip
        self.flow.clicked.connect(self._clicked)
        self.flow.follow_changed.connect(lambda _follow: self._show_newest_button())
        self.flow.more = self._offer
        self.strip = self._make_strip()
        self.edit = EditBar()
        self.edit.given.connect(lambda position, text: dispatch(EditFrom(position, text)))
        self.edit.closed.connect(self._edited)
        plots = QWidget(self)
        inner = QVBoxLayout(plots)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(0)
        self.columns = OutputColumns(self.flow, dispatch)
        for widget, stretch in ((self.strip, 0), (self.columns, 1), (self.edit, 0)):
            inner.addWidget(widget, stretch)
        inner.setSpacing(4)
        twins = (
            Twin(self.tr("Output tokens"), (self.flow, self.columns.beside), self._select),
            Twin(self.tr("Branches"), (self.strip,), self._choose_branch),
        )
        self.twins = TwinStack(self.title, plots, twins, self)
        self.twins.turned.connect(self._refresh)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.twins)
        self.colour = Choice(self.tr("colour"), self.tr("Quantity that colours the tokens"), self._choose_colour, self)
        self.colour.set_options([(q, tr(q)) for q in QUANTITIES] + [(s, tr(SOURCE_TEXT[s])) for s in SOURCES])
        self.legend = MapLegend(LEGEND_PX, self)
        self.progress = Readout(numbers=False, parent=self)
        self.overlay = QToolButton(self)
        self.overlay.setText(self.tr("attention row"))
        self.overlay.setCheckable(True)
        self.overlay.setChecked(True)
        self.overlay.setProperty("plain", True)
        self.overlay.setToolTip(self.tr("Underline each token as strongly as the selected token attends to it"))
        self.overlay.setAccessibleName(self.tr("Underline tokens by attention from the selected one"))
        self.overlay.toggled.connect(lambda _on: self._refresh())
        self.again = QPushButton(self.tr("Recompute"), self)
        self.again.setToolTip(self.tr("Run the model again over the positions whose records were dropped"))
        self.again.clicked.connect(self._recompute_clicked)
        self.again.hide()
        self._recompute: object = None  # of the sequence that may be fed again
        self.newest = QPushButton(self.tr("Follow newest"), self)
        self.newest.setToolTip(self.tr("Show the newest step in every panel, and scroll along"))
        self.newest.clicked.connect(self._follow_newest)
        self.newest.hide()
        self._state: AppState | None = None
        self._feed = FlowFeed(self.flow)
        self._source: Source | None = None  # the attention that colours the tokens
        self._asked = False
        self._theme = ""
        self._described: Moment = None
        self._legend_key: tuple[str, ...] = ()
        self._branches_seen: tuple[object, ...] = ()

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.colour, self.overlay, self.progress)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.legend,)

    def hidden(self) -> None:
        if self._asked:
            self._asked = False
            self.dispatch(WithdrawView(ROW_SLOT))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        show_swatches(state, self.flow)
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.flow.set_palette(palette)
            self.progress.set_palette(palette)
            self.twins.set_palette(palette)
            self.strip.set_palette(palette)
            self.overlay.setStyleSheet(f"QToolButton:checked {{ color: {palette.accent} }}")
            self.columns.set_palette(state)
            self._feed.coloured = ()
        run = state.run
        self._show_legend(state)
        derived = select.fraction_done(state, ROW_SLOT)
        self.progress.set_wordings(*(_progress(state) if derived is None else _derived(derived)))
        self._described = describe_selection(self, (self.flow,), state, self._described)
        self._show_branches(state)
        if self.twins.shown == 1:
            self.twins.show_table(branch_rows.table(state))
        elif self.twins.shown == 0:
            selected = select.pinned_index(state)
            self.twins.show_table(tables.output_table(run, selected, self.columns.other) if run and run.count else None)
        if run is None:
            self._show_nothing(state)
            return
        self._feed.show(run, state, None if self._source else state.colour_by)
        self.columns.render(state)
        self._ask_row(run, state)
        self._show_row(run, state)
        self.flow.set_selected(branch_rows.selected_position(state))
        self.flow.set_source(*_source_of_draft(state))
        asked, row = state.acting.interventions, select.listed_row(run)
        self.flow.set_struck(select.muted_positions(asked, row), deleted_positions(asked, row))
        self._show_newest_button()

    def describe(self) -> str:
        """The shown step in words."""
        state = self._state
        index = select.token_index(state) if state else None
        if state is None or state.run is None or index is None:
            return self.tr("No output yet.")
        if index < 0:
            return step_text.prompt_sentence(state.run, state.run.prompt_tokens + index)
        return step_text.sentence(state.run, index)

    # tokens and their colours

    def _show_nothing(self, state: AppState) -> None:
        self._feed.forget()
        self.columns.render(state)
        waiting = state.worker in (WorkerState.STARTING, WorkerState.LOADING, WorkerState.NO_MODEL)
        hint = self.tr("Press Ctrl+Enter to run the prompt.")
        if waiting:
            hint = self.tr("Load a model, then press Ctrl+Enter.")
        hint = select.next_step(state, hint)
        self.flow.set_empty(self.tr("The text appears here, token by token"), hint)
        self.newest.hide()

    def _show_legend(self, state: AppState) -> None:
        quantity = self._source or state.colour_by
        key = (quantity, state.theme)
        if self._legend_key == key:
            return
        self._legend_key = key
        self.colour.show_key(quantity)
        low, high = ("0", "1 √") if self._source else select.colour_ends(state.colour_by)
        palette = select.palette(state)
        self.legend.show_map(token_fills(palette), low, high, palette, tr(MEANING[quantity]))
        self._share_room()

    # branches

    def _make_strip(self) -> BranchStrip:
        strip = BranchStrip()
        strip.setAccessibleName(self.tr("Branches of the run"))
        FocusRing(strip)
        strip.chosen.connect(lambda branch_id: self.dispatch(ShowBranch(branch_id)))
        strip.moved.connect(lambda delta: self.dispatch(MoveBranch(delta)))
        strip.renamed.connect(lambda branch_id, name: self.dispatch(RenameBranch(branch_id, name)))
        strip.compared.connect(self._compare)
        strip.deleted.connect(lambda branch_id: self.dispatch(DeleteBranch(branch_id)))
        strip.hide()
        return strip

    def _compare(self, branch_id: int) -> None:
        run = self._state.run if self._state is not None else None
        if run is not None:
            self.dispatch(CompareBranches(run.branch_id, branch_id))

    def _show_branches(self, state: AppState) -> None:
        """The strip, once there is more than one branch."""
        seen = (state.run, state.branches, state.selected)
        if seen == self._branches_seen:
            return
        self._branches_seen = seen
        lanes = branch_rows.lanes(state)
        self.strip.setVisible(len(lanes) > 1)
        if state.run is not None and len(lanes) > 1:
            self.strip.show_lanes(lanes, state.run.branch_id, branch_rows.selected_position(state))
            self.strip.setAccessibleDescription(branch_rows.describe(state))

    def _choose_branch(self, row: int) -> None:
        shown = branches.lanes(self._state) if self._state is not None else []
        if row < len(shown):
            self.dispatch(ShowBranch(shown[row][0][1]))

    def _offer(self, menu: QMenu, token: int) -> None:
        """What can be done from a token on, in front of what can be copied."""
        state = self._state
        run = state.run if state else None
        if state is None or run is None:
            return
        menu.addAction(self.tr("Who looks at this token"), lambda: self._look_at(token)).setEnabled(_can_look(state))
        menu.addSeparator()
        if not run.has_beams:
            self._offer_branches(menu, token - run.prompt_tokens, token)
        self._offer_acts(menu, token)
        menu.addSeparator()

    def _look_at(self, token: int) -> None:
        """The tokens are coloured by the attention that each pays to this one."""
        self._clicked(token)
        self._choose_colour("column")

    def _offer_branches(self, menu: QMenu, index: int, token: int) -> None:
        if index >= 0:
            menu.addAction(self.tr("Rewind to here"), lambda: self.dispatch(Rewind(index)))
            menu.addAction(self.tr("Another try from here"), lambda: self.dispatch(AnotherTry(index)))
        menu.addAction(self.tr("Edit text here…"), lambda: self.edit_text(token))
        if index >= 0:
            menu.addAction(self.tr("Fork after this token"), lambda: self.dispatch(Fork(index)))
        menu.addSeparator()

    def edit_text(self, token: int | None = None) -> None:
        """A field for the text from a token on (None: the one shown); inside the prompt for all that is left of it."""
        state = self._state
        run = state.run if state is not None else None
        if state is None or run is None:
            return
        index = select.token_index(state)
        if token is None:
            token = run.prompt_tokens + (0 if index is None else index)
        self.twins.button.setChecked(False)
        if token < run.prompt_tokens:
            text, what = "".join(run.prompt.pieces[token:]), self.tr("Instead of the prompt from position {0} on")
        else:
            own = token - run.prompt_tokens
            text = run.step(own).text if own < run.count else ""
            what = self.tr("Instead of the token at position {0}")
        self.edit.ask(token, what.format(f"{token:,}"), text)
        self._show_newest_button()

    def _edited(self) -> None:
        self.flow.setFocus(Qt.FocusReason.OtherFocusReason)
        self._show_newest_button()

    # the attention row

    def _wants_row(self, state: AppState) -> bool:
        if not _can_look(state):
            return False
        return self._source is not None or (self.overlay.isChecked() and state.selected is not None)

    def _row_query(self, run: RunView, state: AppState) -> Query | None:
        if not self._wants_row(state):
            return None
        rests = state.selected is not None or state.worker not in (WorkerState.DECODING, WorkerState.PREFILL)
        return query_of(run, state, self._source or "attention", self._recompute == run.key and rests)

    def _ask_row(self, run: RunView, state: AppState) -> None:
        query = self._row_query(run, state)
        if query is None:
            return
        asked = state.asked.get(ROW_SLOT)
        if asked is not None and asked.query == query:
            return
        follows = state.selected is None and asked is not None and same_view(asked.query, query)
        if follows and select.is_waiting(state, ROW_SLOT):
            return  # one question at a time: the worker's answers set the pace
        self._asked = True
        self.dispatch(AskView(ROW_SLOT, query))

    def _show_row(self, run: RunView, state: AppState) -> None:
        """The newest answer, if it belongs to what is shown (while following, the row of a step just past will do)."""
        wanted = self._row_query(run, state)
        got = select.answer(state, ROW_SLOT)
        answer = got.answer if got else None
        asked = state.asked.get(ROW_SLOT)
        declined = got is not None and got.can_recompute and asked is not None and asked.query == wanted
        self.again.setVisible(declined and not select.is_waiting(state, ROW_SLOT))
        self._place_newest()
        levels: NDArray[np.int16] | None = None
        if wanted is not None and answer is not None:
            follows = state.selected is None and same_view(answer.query, wanted)
            if answer.query == wanted or follows:
                levels = levels_of(answer)
        self.flow.set_underlines(None if self._source else levels)
        if self._source:
            self._fill_by_attention(levels, got.generation if got and levels is not None else None)

    def _fill_by_attention(self, levels: NDArray[np.int16] | None, generation: int | None) -> None:
        mode = (self._source, generation)
        if mode == self._feed.coloured:
            return
        self._feed.coloured = mode
        fills = np.full(self.flow.tokens, NO_FILL, np.int16)
        if levels is not None:
            fills[: len(levels)] = levels[: len(fills)]
        self.flow.set_levels(fills)

    def _recompute_clicked(self) -> None:
        if self._state is not None and self._state.run is not None:
            self._recompute = self._state.run.key
        self._refresh()

    # controls

    def _refresh(self) -> None:
        if self._state is not None:
            self.render(self._state)

    def _choose_colour(self, key: str) -> None:
        self._source = next((source for source in SOURCES if source == key), None)
        self._feed.coloured = ()
        if key in QUANTITIES:
            self.dispatch(SetColour(QUANTITIES[QUANTITIES.index(key)]))
        self._refresh()

    def _clicked(self, token: int) -> None:
        run = self._state.run if self._state else None
        if run is not None:
            self._select(token - run.prompt_tokens)

    def _offer_acts(self, menu: QMenu, token: int) -> None:
        state = self._state
        run = state.run if state else None
        if state is None or run is None or token >= run.prompt_tokens + run.count:
            return
        if token < run.prompt_tokens:
            token_id, piece = run.prompt.token_ids[token], run.prompt.pieces[token]
        else:
            step = run.step(token - run.prompt_tokens)
            token_id, piece = step.token_id, step.piece
        if token_id >= 0:  # embeddings have no token
            token_menu.add_token(menu, self.dispatch, state.acting, token_id, piece)
        row, fed, goes_on = select.listed_row(run), select.fed_positions(run), run.finish is None
        token_menu.add_position(menu, self.dispatch, state.acting, row, token, fed, goes_on)

    def _select(self, index: int) -> None:
        run = self._state.run if self._state else None
        self.dispatch(SelectStep(None if run is not None and 0 <= index == run.count - 1 else index))

    def _follow_newest(self) -> None:
        self.flow.follow()
        self.dispatch(SelectStep(None))

    def _show_newest_button(self) -> None:
        pinned = self._state is not None and self._state.selected is not None
        self.newest.setVisible(self.flow.tokens > 0 and (pinned or not self.flow.following))
        tables = self.twins.shown is not None and not self.newest.isHidden()  # it must not cover a cell
        below = self.newest.sizeHint().height() + 4 if tables else 0
        box = self.layout()
        if box is not None and box.contentsMargins().bottom() != below:
            box.setContentsMargins(0, 0, 0, below)
        self._place_newest()

    def _place_newest(self) -> None:
        """The button floats in the corner of the tokens, above what is written below them."""
        hint, edit = self.newest.sizeHint(), self.edit.height() if self.edit.isVisible() else 0
        top = self.height() - hint.height() - edit
        self.newest.setGeometry(self.width() - hint.width() - 16, top, hint.width(), hint.height())
        self.newest.raise_()
        if not self.again.isHidden():
            beside = 0 if self.newest.isHidden() else hint.width() + 8
            wish = self.again.sizeHint()
            self.again.setGeometry(self.width() - beside - wish.width() - 16, top, wish.width(), wish.height())
            self.again.raise_()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The button stays in its corner, the title bar says what fits."""
        self._place_newest()
        wide, narrow = self.width() >= WIDE_PX, self.width() < NARROW_PX
        self.legend.set_strip(LEGEND_PX if wide else NARROW_LEGEND_PX, not narrow)
        self.colour.set_label(self.tr("colour") if wide else "")
        self.overlay.setText(self.tr("row") if narrow else self.tr("attention row"))
        self._share_room()

    def _share_room(self) -> None:
        fixed = (self.twins.button, self.colour, self.overlay, self.legend)
        share_room(self.width(), self.title, fixed, (self.progress, 0))

    def _tooltip(self, token: int) -> str:
        return tooltip(self._state.run if self._state else None, token)


def _can_look(state: AppState) -> bool:
    status = select.view_status(state, "attention")
    return status is None or status.available


def _source_of_draft(state: AppState) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    """Of the step shown, the tokens that prompt lookup copied, and those by which it found them: there and here."""
    run, index = state.run, select.step_index(state)
    detail = None if run is None or index is None else run.step(index).detail
    if run is None or index is None or not isinstance(detail, AssistedDetail) or detail.match is None:
        return (0, 0), ()
    start, stop = detail.match
    begun = run.prompt_tokens + index - detail.place  # where the pass began
    return (start + detail.matched, stop), ((start, start + detail.matched), (begun - detail.matched, begun))


def _derived(fraction: float) -> tuple[str, ...]:
    """How far the colours are that take long."""
    return tr("deriving, {0}").format(numbers.percent(fraction)), numbers.percent(fraction)


def _progress(state: AppState) -> tuple[str, ...]:
    """What goes on or how it ended, in fewer and fewer words."""
    run = state.run
    if run is None:
        return ("",)
    if run.finish is not None:
        return (tr(ENDED.get(run.finish.finish_reason, run.finish.finish_reason)),)
    stopped = stopped_text(state)
    if stopped:
        return stopped, tr("at a breakpoint"), tr("stopped")
    if run.count == 0 and run.prefill is not None:
        done, total = f"{run.prefill.done:,}", f"{run.prefill.total:,}"
        long, short = tr("reading the prompt, {0} of {1} tokens"), tr("reading {0} of {1}")
        return long.format(done, total), short.format(done, total)
    return ("",)
