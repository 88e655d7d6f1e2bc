"""The candidates of the shown step: bars before and after the pipeline, and the draw that chose one."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QMenu, QVBoxLayout, QWidget

from app.panels import acting_tables, candidates_preview, tables, token_menu
from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import select
from app.state.acting_state import Acting
from app.state.branch_intents import ForceToken
from app.state.intents import AskView, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.widgets import candidate_rows, draw_text, numbers, step_text
from app.widgets.candidate_bars import CandidateBars
from app.widgets.candidate_rows import CandidateRow
from app.widgets.focus_ring import FocusRing
from app.widgets.needle import DrawNeedle
from app.widgets.readout import Readout, share_room
from app.widgets.twin import Twin, TwinStack
from core.contract import InterventionAnswer

SPOKEN = 5  # candidates that are read aloud
STEP_PX = 54  # of the title bar, for “step 1234”
SHORT_PX = 160  # below this height the draw leaves its axis out, for the sake of the candidates


class CandidatesPanel(Panel):
    """Top-K tokens of one step."""

    name = "candidates"
    calm = True
    title = "Candidates"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Candidates")
        self.bars = CandidateBars()
        self.bars.setAccessibleName(self.tr("Candidates of the shown step"))
        self.bars.fill_menu = self._fill_menu
        FocusRing(self.bars)
        self.bars.forced.connect(self._force)
        self.needle = DrawNeedle()
        self.needle.setAccessibleName(self.tr("Draw on the cumulative probability"))
        plots = QWidget(self)
        box = QVBoxLayout(plots)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.bars, 1)
        box.addWidget(self.needle)
        self.needle.hide()
        twin = Twin(self.tr("Candidates"), (self.bars, self.needle))
        self.twins = TwinStack(self.title, plots, (twin,), self)
        self.twins.turned.connect(self._show_table)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.twins)
        self.moment = Readout(numbers=False, parent=self)
        self.readout = Readout(numbers=True, parent=self)
        self._hint = self.tr(
            "Press Ctrl+Enter to run. Each step shows every candidate before and after the pipeline, and the draw."
        )
        self._say_empty(self._hint)
        for readout in (self.readout, self.moment):
            readout.wish_changed.connect(self._share_room)
        self._run: RunView | None = None
        self._index: int | None = None
        self._problem = ""  # why there is no preview
        self._shown: tuple[object, ...] = ()
        self._theme = ""
        self._described: Moment = None
        self._acting = Acting()
        self._preview: InterventionAnswer | None = None
        self._generation = 0  # of the preview
        self._asked = False

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.moment)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.bars.set_palette(palette)
            for widget in (self.needle, self.moment, self.readout, self.twins):
                widget.set_palette(palette)
        show_swatches(state, self.bars, self.needle)
        self._run, self._index, self._acting = state.run, select.chosen_index(state), state.acting
        self._preview = self._take_preview(state)
        hint = select.next_step(state, self._hint)
        key = None if state.run is None else state.run.key
        said = hint if self._index is None else self._problem
        shown = (key, self._index, self._preview and self._generation, said)
        self._described = describe_selection(self, (self.bars, self.needle), state, self._described)
        if shown == self._shown:
            return
        self._shown = shown
        if self._run is None or self._index is None:
            self._show_nothing(hint)
        else:
            self._show_step(self._run, self._index)
        self._show_table()

    def hidden(self) -> None:
        if self._asked:
            self._asked = False
            self.dispatch(WithdrawView(candidates_preview.SLOT))

    def _take_preview(self, state: AppState) -> InterventionAnswer | None:
        """The preview of the shown step, where one is wanted; it is asked for once the step rests."""
        query = candidates_preview.query_of(state)
        self._problem = ""
        if query is None:
            self.hidden()
            return None
        asked = state.asked.get(candidates_preview.SLOT)
        follows = state.selected is None and asked is not None and select.is_waiting(state, candidates_preview.SLOT)
        if (asked is None or asked.query != query) and not follows:
            self._asked = True
            self.dispatch(AskView(candidates_preview.SLOT, query))
        elif asked is not None and asked.query == query and not select.is_waiting(state, candidates_preview.SLOT):
            self._problem = candidates_preview.problem_of(state)
        got = select.answer(state, candidates_preview.SLOT)
        self._generation = 0 if got is None else got.generation
        return candidates_preview.answer_of(state, query)

    def _fill_menu(self, menu: QMenu, row: CandidateRow) -> None:
        token_menu.add_token(menu, self.dispatch, self._acting, row.token_id, row.piece)

    def resizeEvent(self, event: QResizeEvent) -> None:
        short = self.height() < SHORT_PX
        self.bars.set_dense(short)
        self.needle.set_compact(short)
        self._share_room()

    def _share_room(self) -> None:
        share_room(self.width(), self.title, (self.twins.button,), (self.readout, 0), (self.moment, STEP_PX))

    def describe(self) -> str:
        """The likeliest candidates in words."""
        if self._run is None or self._index is None:
            return self.tr("No candidates yet.")
        step = self._run.step(self._index)
        if self._preview is not None:
            found = candidate_rows.preview_rows(self._preview, step.token_id)[:SPOKEN]
            change = self.tr("{0} from {1} to {2}")
            changes = (change.format(step_text.spoken(r.piece), *map(numbers.percent, (r.raw, r.final))) for r in found)
            return self.tr("Preview of step {0}: {1}.").format(self._index, ", ".join(changes))
        rows = candidate_rows.rows(step)[:SPOKEN]
        names = ", ".join(f"{step_text.spoken(r.piece)} {numbers.percent(r.raw)}" for r in rows)
        said = f"{step_text.sentence(self._run, self._index)} " + self.tr("Likeliest: {0}.").format(names)
        u, note = draw_text.shown(step, step_text.params_at(self._run, self._index))
        return f"{said} " + (note if u is None else self.tr("The draw was {0}.").format(f"{u:.3f}"))

    def _force(self, token_id: int) -> None:
        if self._index is not None:
            self.dispatch(ForceToken(token_id, self._index))

    def point_at_another(self) -> None:
        """Choose a token to be forced by keyboard: the likeliest that was not chosen."""
        self.bars.setFocus(Qt.FocusReason.ShortcutFocusReason)
        if self._run is not None and self._index is not None:
            rows = candidate_rows.rows(self._run.step(self._index))
            self.bars.point_at(next((row.token_id for row in rows if not row.chosen), None))

    def _say_empty(self, hint: str) -> None:
        self.bars.set_empty(self.tr("What is likely to come next appears here"), hint)

    def _show_table(self) -> None:
        if self.twins.shown is None:
            return
        if self._run is None or self._index is None:
            self.twins.show_table(None)
            return
        step = self._run.step(self._index)
        key = (self._run.key, self._index)
        if self._preview is not None:
            rows = candidate_rows.preview_rows(self._preview, step.token_id)
            self.twins.show_table(acting_tables.preview_table(rows, (key, self._preview.query)))
            return
        parts = candidate_rows.segments(step.top, step.token_id)
        self.twins.show_table(tables.candidates_table(candidate_rows.rows(step), parts, key))

    def _show_nothing(self, hint: str) -> None:
        self._say_empty(hint)
        self.bars.set_rows(())
        self.needle.hide()
        self.moment.set_wordings("")
        self.readout.set_wordings("")

    def _show_step(self, run: RunView, index: int) -> None:
        step = run.step(index)
        if self._preview is not None:
            self._show_preview(run, index, self._preview)
            return
        self.moment.set_wordings(*step_text.moments(run, index))
        entropy = self.tr("{0} bits").format(numbers.significant(step.entropy_bits))
        self.readout.set_wordings(self.tr("{0} · rank {1}").format(entropy, step.rank), entropy)
        if self._problem:
            self.moment.set_wordings(self.tr("no preview: {0}").format(self._problem), self.tr("no preview"))
        self.bars.set_rows(candidate_rows.rows(step))
        u, note = draw_text.shown(step, step_text.params_at(run, index))
        self.needle.show_draw(candidate_rows.segments(step.top, step.token_id), u, note)
        self.needle.setVisible(len(step.top.token_ids) > 0)
        if not len(step.top.token_ids):
            self.bars.set_empty(
                self.tr("No candidates were recorded"), self.tr("This run was started without top_logprobs.")
            )

    def _show_preview(self, run: RunView, index: int, answer: InterventionAnswer) -> None:
        count = len(answer.query.interventions)
        under = self.tr("under 1 intervention") if count == 1 else self.tr("under {0} interventions").format(count)
        step = self.tr("preview of step {0}").format(index)
        self.moment.set_wordings(f"{step}, {under}", step, self.tr("preview"))
        self.readout.set_wordings(*candidates_preview.readout(run, index, answer))
        self.bars.set_rows(candidate_rows.preview_rows(answer, run.step(index).token_id))
        self.needle.hide()
