"""The candidates of the shown step: bars before and after the pipeline, and the draw that chose one."""

from __future__ import annotations

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.widgets import candidate_rows, numbers, step_text
from app.widgets.candidate_bars import CandidateBars
from app.widgets.needle import DrawNeedle
from app.widgets.readout import Readout, share_room

STEP_PX = 70  # of the title bar, for “step 1234”
SHORT_PX = 160  # below this height the draw leaves its axis out, for the sake of the candidates


class CandidatesPanel(Panel):
    """Top-K tokens of one step."""

    name = "candidates"
    title = "Candidates"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.bars = CandidateBars(self)
        self.bars.setAccessibleName("Candidates of the shown step")
        self.needle = DrawNeedle(self)
        self.needle.setAccessibleName("Draw on the cumulative probability")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.bars, 1)
        box.addWidget(self.needle)
        self.needle.hide()
        self.moment = Readout(numbers=False, parent=self)
        self.readout = Readout(numbers=True, parent=self)
        self.bars.set_empty(
            "The likeliest next tokens appear here",
            "Press Ctrl+Enter to run. Each step shows every candidate before and after the pipeline, and the draw.",
        )
        self._run: RunView | None = None
        self._index: int | None = None
        self._shown: tuple[object, ...] = ()
        self._theme = ""
        self._described: Moment = (None, None)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.moment,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.bars.set_palette(palette)
            for widget in (self.needle, self.moment, self.readout):
                widget.set_palette(palette)
        self._run, self._index = state.run, select.step_index(state)
        shown = (state.run.run_id if state.run else None, self._index)
        self._described = describe_selection(self, state, self._described)
        if shown == self._shown:
            return
        self._shown = shown
        if self._run is None or self._index is None:
            self._show_nothing()
        else:
            self._show_step(self._run, self._index)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self.needle.set_compact(self.height() < SHORT_PX)
        share_room(self.width(), self.title, (), (self.readout, 0), (self.moment, STEP_PX))

    def describe(self) -> str:
        """The likeliest candidates in words."""
        if self._run is None or self._index is None:
            return "No candidates yet."
        rows = candidate_rows.rows(self._run.step(self._index))[:5]
        names = ", ".join(f"{step_text.quoted(r.piece)} {numbers.probability(r.raw).strip()}" for r in rows)
        return f"{step_text.sentence(self._run, self._index)} Likeliest: {names}."

    def _show_nothing(self) -> None:
        self.bars.set_rows(())
        self.needle.hide()
        self.moment.set_wordings("")
        self.readout.set_wordings("")

    def _show_step(self, run: RunView, index: int) -> None:
        step = run.step(index)
        contexts = (step_text.context(run, index), step_text.context(run, index, 8))
        self.moment.set_wordings(*(f"step {index}, after “{text}”" for text in contexts), f"step {index}")
        entropy = f"{numbers.significant(step.entropy_bits)} bits"
        self.readout.set_wordings(f"{entropy} · rank {step.rank}", entropy)
        self.bars.set_rows(candidate_rows.rows(step))
        greedy = step_text.params_at(run, index).mode == "greedy_search"
        note = "no draw (greedy)" if greedy else "no draw to show (drawn by torch’s generator)"
        self.needle.show_draw(candidate_rows.segments(step.top, step.token_id), step.u, note)
        self.needle.setVisible(len(step.top.token_ids) > 0)
        if not len(step.top.token_ids):
            self.bars.set_empty("No candidates were recorded", "This run was started without top_logprobs.")
