"""The output in one column, or in two where branches are compared: the one in use, and the other one beside it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from app.panels import branch_rows
from app.panels.accessible import Moment, describe_selection
from app.panels.output_feed import FlowFeed, tooltip
from app.panels.panel import Dispatch
from app.panels.pixels import show_swatches
from app.state import select, twins
from app.state.branch_intents import ShowBranch
from app.state.intents import SelectStep
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.state.twin_intents import CloseComparison
from app.widgets import step_text
from app.widgets.column_head import ColumnHead
from app.widgets.focus_ring import FocusRing
from app.widgets.token_flow import TokenFlow

GAP_PX = 12
ENDED = {
    "stop": "ended at a stop token or text",
    "length": "ended at max_new_tokens",
    "length_limit": "ended at the model's last position",
    "time": "ended by time",
    "cancelled": "stopped",
    "breakpoint": "stopped at a breakpoint",
}


class OutputColumns(QWidget):
    """Holds the flow of the branch in use, and makes the other column come and go. The older branch is on the left."""

    def __init__(self, flow: TokenFlow, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._flow, self._dispatch = flow, dispatch
        self.beside = TokenFlow()
        self.beside.setAccessibleName(self.tr("Tokens of the other branch"))
        FocusRing(self.beside)
        self.beside.clicked.connect(self._clicked)
        self.beside.tooltip = lambda token: tooltip(self._other, token)
        self._feed = FlowFeed(self.beside)
        self._other: RunView | None = None
        self._state: AppState | None = None
        self.heads = (ColumnHead(), ColumnHead())
        for side, head in enumerate(self.heads):
            head.clicked.connect(lambda _checked=False, side=side: self._use(side))
        self.close_button = QToolButton()
        self.close_button.setText("✕")
        self.close_button.setProperty("plain", True)
        self.close_button.setAccessibleName(self.tr("Close the comparison"))
        self.close_button.setToolTip(self.tr("Show the branch in use alone"))
        self.close_button.clicked.connect(lambda: dispatch(CloseComparison()))
        self._head = QWidget()
        line = QHBoxLayout(self._head)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(GAP_PX)
        line.addWidget(self.heads[0], 1)
        line.addWidget(self.heads[1], 1)
        line.addWidget(self.close_button)
        self._row = QHBoxLayout()
        self._row.setSpacing(GAP_PX)
        self._row.addWidget(flow, 1)
        self._row.addWidget(self.beside, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self._head)
        box.addLayout(self._row, 1)
        self._head.hide()
        self.beside.hide()
        self._scrolling = False
        self._described: Moment = None
        self.beside.setAccessibleDescription(self.describe())
        for one, other in ((flow, self.beside), (self.beside, flow)):
            one.verticalScrollBar().valueChanged.connect(lambda _value, one=one, other=other: self._scroll(one, other))

    @property
    def other(self) -> RunView | None:
        """The branch beside the one in use, where two are shown."""
        return self._other

    def set_palette(self, state: AppState) -> None:
        """Colours of another theme."""
        palette = select.palette(state)
        for widget in (self.beside, *self.heads):
            widget.set_palette(palette)
        self._feed.coloured = ()

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """One column or two; called after the flow of the branch in use has its tokens."""
        self._state = state
        pair, run = twins.columns(state), state.run
        shown = pair is not None and run is not None
        if shown == self._head.isHidden():
            self._head.setVisible(shown)
            self.beside.setVisible(shown)
        if pair is None or run is None:
            self._flow.set_compared(None)
            self._feed.forget()
            self._other = None
            return
        side = pair.side_of(run)
        self._other = (pair.first, pair.second)[1 - side]
        if self._row.indexOf(self._flow) != side:
            self._row.insertWidget(side, self._flow, 1)
        show_swatches(state, self.beside)
        self._feed.show(self._other, state, state.colour_by)
        self._mark(state, pair, side)
        selected = None if state.selected is None else select.token_index(state)
        marked = None if selected is None else run.prompt_tokens + selected
        self.beside.set_selected(marked if marked is not None and marked < self.beside.tokens else None)
        self._described = describe_selection(self, (self.beside,), state, self._described)

    def describe(self) -> str:
        """The shown step of the other branch, in words."""
        other, state = self._other, self._state
        index = None if state is None else select.step_index(state)
        if other is None or index is None or not other.count:
            return self.tr("No other branch is shown.")
        return step_text.sentence(other, min(index, other.count - 1))

    def _mark(self, state: AppState, pair: twins.Pair, side: int) -> None:
        """What differs, in the colour of the branch that says it."""
        same, palette = twins.same_tokens(pair), select.palette(state)
        parted = twins.first_difference(pair)
        for number, (view, flow) in enumerate(
            zip((pair.first, pair.second), (self._flow, self.beside)[:: 1 - 2 * side], strict=True)
        ):
            colour = branch_rows.number_of(state, view.branch)
            flow.set_compared(same, parted, palette.categorical[colour % len(palette.categorical)])
            text, note, end = head_words(state, pair, number)
            short = twins.side_values(state, pair, number) or text
            self.heads[number].show_branch(text, short, note, end, colour, number == side)

    def _scroll(self, one: TokenFlow, other: TokenFlow) -> None:
        """The other column shows the same place."""
        if self._scrolling or self.beside.isHidden():
            return
        self._scrolling = True
        try:
            if one.following:
                other.follow()
            else:
                other.scroll_to(one.top_token)
        finally:
            self._scrolling = False

    def _clicked(self, token: int) -> None:
        """A step of the other column is shown in every panel, so that its branch is in use from now on."""
        other, focused = self._other, self.beside.hasFocus()
        if other is None:
            return
        index = token - other.prompt_tokens
        self._dispatch(ShowBranch(other.branch_id))
        self._dispatch(SelectStep(None if 0 <= index == other.count - 1 else index))
        if focused:
            self._flow.setFocus(Qt.FocusReason.OtherFocusReason)  # the columns have changed places under the pointer

    def _use(self, side: int) -> None:
        pair = None if self._state is None else twins.columns(self._state)
        if pair is not None:
            self._dispatch(ShowBranch((pair.first, pair.second)[side].branch_id))


def head_words(state: AppState, pair: twins.Pair, side: int) -> tuple[str, str, str]:
    """What a column is, how far it is, how it ended."""
    view = (pair.first, pair.second)[side]
    name = branch_rows.name_of(state, view.branch)
    values = twins.side_words(state, pair, side)
    tokens = tr("1 token") if view.count == 1 else tr("{0} tokens").format(f"{view.count:,}")
    end = "" if view.finish is None else tr(ENDED.get(view.finish.finish_reason, view.finish.finish_reason))
    return values or name, tokens, end
