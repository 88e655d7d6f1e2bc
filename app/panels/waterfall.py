"""The pipeline of one step as a waterfall, and how that step would look under the parameters as they are set now."""

from __future__ import annotations

import math
from collections.abc import Mapping

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels import tables
from app.panels.panel import Dispatch, Panel
from app.panels.pixels import show_swatches
from app.state import params, select
from app.state.intents import AskView, WithdrawView
from app.state.modes import is_particular
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers, parameter_text, step_text
from app.widgets.focus_ring import FocusRing
from app.widgets.readout import Readout
from app.widgets.segmented import Segmented
from app.widgets.twin import Twin, TwinStack
from app.widgets.visible_text import one_line, plain_tip
from app.widgets.waterfall_rows import StageLine, WaterfallRows
from core.contract import StageReport, WaterfallAnswer, WaterfallQuery

SLOT = "waterfall"
NO_STAGE = ("max_new_tokens", "max_length", "max_time", "stop_strings", "num_return_sequences")
CONTRASTS = ("greedy_search", "sample", "dola_generation")  # modes whose steps DoLa could have contrasted
NAMED = 5  # killed tokens in a line; the tooltip has more


class WaterfallPanel(Panel):
    """Asks for the waterfall of the step shown while it is visible."""

    name = "waterfall"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Waterfall")
        self.rows = WaterfallRows()
        self.rows.setAccessibleName(self.tr("Stages of the pipeline"))
        FocusRing(self.rows)
        self.which = Segmented((self.tr("as it ran"), self.tr("as set now")))
        self.which.setAccessibleName(self.tr("Parameters of the waterfall"))
        self.which.setAccessibleDescription(
            self.tr("The parameters the step ran under, or those that are set now: what if")
        )
        self.which.setToolTip(self.tr("Move a slider to see this very step under it, without running the model"))
        self.which.chosen.connect(self._choose)
        self.outcome = Readout(numbers=False, parent=self)
        self.twins = TwinStack(self.title, self.rows, (Twin(self.title, (self.rows,)),), self)
        self.twins.turned.connect(self._show_table)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.outcome)  # in the title bar of a narrow card there is no room for it
        box.addWidget(self.twins)
        self._state: AppState | None = None
        self._now = True  # what if, wherever the parameters differ
        self._asked = False
        self._answer: WaterfallAnswer | None = None
        self._seen: object = None
        self._theme = ""

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.which)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """As many words as fit."""
        self.outcome.set_room(self.width())

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Ask for what is missing, show what is there."""
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            for widget in (self.rows, self.twins, self.outcome):
                widget.set_palette(palette)
        self._state = state
        show_swatches(state, self.rows)
        query = self._query(state)
        changes = {} if state.run is None else self._changes(state)
        self.which.setEnabled(bool(changes))
        self.which.show_choice(int(bool(changes) and self._now))
        if query is None:
            self._show_empty(state)
            return
        self._ask(state, query)
        got = select.answer(state, SLOT)
        if got is not None and got is not self._seen:
            self._seen = got
            if isinstance(got.answer, WaterfallAnswer):
                self._show(got.answer)
            elif got.error is not None:
                self._say(self.tr("This step cannot be taken apart"), got.error.message)

    def _changes(self, state: AppState) -> Mapping[str, object]:
        """What is set now and was not in force at the step shown."""
        index = select.chosen_index(state)
        if state.run is None or index is None:
            return {}
        ran, now = step_text.params_at(state.run, index), select.params(state)
        own = {"dola_layers"} if state.run.plan.mode in CONTRASTS else set()
        if ran.guidance_scale != 1.0:
            own.add("guidance_scale")  # there is a record of the negative prompt
        differ = params.differences(ran, now)
        if now.min_new_tokens:
            differ.pop("min_length", None)  # it has no say then
        return {n: v for n, v in differ.items() if n in own or not (n in NO_STAGE or is_particular(n))}

    def _query(self, state: AppState) -> WaterfallQuery | None:
        run, index = state.run, select.chosen_index(state)
        if run is None or index is None:
            return None
        position, at = select.query_position(run, index), run.place.named
        changes = self._changes(state) if self._now else {}
        return WaterfallQuery(run.run_id, position, changes, 20, **at)

    def _ask(self, state: AppState, query: WaterfallQuery) -> None:
        asked = state.asked.get(SLOT)
        if asked is not None and asked.query == query:
            return
        if asked is not None and select.is_waiting(state, SLOT) and state.selected is None:
            return  # one question at a time: the worker's answers set the pace
        self._asked = True
        self.dispatch(AskView(SLOT, query))

    def hidden(self) -> None:
        if self._asked:
            self._asked, self._seen = False, None
            self.dispatch(WithdrawView(SLOT))

    def _choose(self, index: int) -> None:
        self._now = index == 1
        if self._state is not None:
            self.render(self._state)

    # showing

    def _show_empty(self, state: AppState) -> None:
        run = self.tr("Press Ctrl+Enter to run; then click a token and move a slider to see that step under it.")
        self._say(self.tr("What each stage of the pipeline does appears here"), select.next_step(state, run))

    def _say(self, title: str, hint: str) -> None:
        self._answer = None
        self.rows.set_empty(title, hint)
        self.rows.show_lines(())
        self._tell("")
        self.rows.setAccessibleDescription(title)
        self._show_table()

    def _show(self, answer: WaterfallAnswer) -> None:
        self._answer = answer
        changed = set(answer.query.changes)
        lines = [_first(answer), *(_line(stage, changed) for stage in answer.stages), _last(answer)]
        self.rows.show_lines(lines)
        self._tell(*_outcome(answer, self._run_token(answer)))
        self.rows.setAccessibleDescription(self.describe())
        self._show_table()

    def _tell(self, *words: str) -> None:
        self.outcome.set_wordings(*words)
        self.outcome.setToolTip(plain_tip(words[0]))
        self.outcome.setVisible(bool(words[0]))

    def _run_token(self, answer: WaterfallAnswer) -> str | None:
        """The token that was really chosen, where this is another one."""
        run: RunView | None = self._state.run if self._state is not None else None
        index = answer.query.position - run.prompt_tokens + 1 if run is not None else -1
        if run is None or not 0 <= index < run.count or run.run_id != answer.query.run_id:
            return None
        step = run.step(index)
        return step.piece if step.token_id != answer.token_id else None

    def describe(self) -> str:
        """The stages in words."""
        if self._answer is None:
            return self.tr("No pipeline yet.")
        said = [
            self.tr("{0} keeps {1} of the probability, {2} tokens left").format(
                s.name, numbers.percent(s.mass_kept), f"{s.survivors:,}"
            )
            for s in self._answer.stages
        ]
        stages = "; ".join(said) or self.tr("No stage: the model's own distribution.")
        return f"{stages}; {self.outcome.whole}" if self.outcome.whole else stages

    def _show_table(self) -> None:
        if self.twins.shown is not None:
            self.twins.show_table(None if self._answer is None else tables.waterfall_table(self._answer))


def _first(answer: WaterfallAnswer) -> StageLine:
    entropy = tr("{0} bits").format(numbers.significant(answer.entropy_bits))
    likely = _tokens(answer.pieces, [math.exp(p) for p in answer.logprob.tolist()])
    return StageLine(tr("model"), "", 1.0, "", "", entropy, likely, likely)


def _last(answer: WaterfallAnswer) -> StageLine:
    finals = sorted(zip(answer.final_logprob.tolist(), answer.pieces, strict=True), reverse=True)
    alive = [(piece, math.exp(p)) for p, piece in finals if p > float("-inf")]
    likely = _tokens([piece for piece, _ in alive], [p for _, p in alive])
    entropy = tr("{0} bits").format(numbers.significant(answer.final_entropy_bits))
    left = tr("{0} left").format(f"{answer.survivors:,}")
    name = tr("final") if answer.replayable else tr("up to here")
    return StageLine(name, "", 1.0, left, left, entropy, likely, likely)


def _line(stage: StageReport, changed: set[str]) -> StageLine:
    values = ", ".join(parameter_text.written(value) or "–" for value in stage.params.values())
    before, after = numbers.significant(stage.entropy_before_bits), numbers.significant(stage.entropy_after_bits)
    killed = _tokens(stage.killed_pieces, stage.killed_probability.tolist())
    words = tr("killed {0}").format(killed) if killed else tr("kills nothing")
    left = tr("keeps {0}, {1} left").format(numbers.percent(stage.mass_kept), f"{stage.survivors:,}")
    many = tr("{0} killed").format(f"{stage.killed:,}")
    named = "\n".join(
        f"{one_line(piece)}  {numbers.probability(p)}"
        for piece, p in zip(stage.killed_pieces, stage.killed_probability.tolist(), strict=True)
    )
    tooltip = "\n".join(part for part in (f"{stage.name} {values}", many, named) if part)
    touched = not changed.isdisjoint({stage.name, *stage.params})
    short = numbers.percent(stage.mass_kept)
    return StageLine(
        stage.name, values, stage.mass_kept, left, short, f"{before} → {after} bits", words, tooltip, touched
    )


def _tokens(pieces: tuple[str, ...] | list[str], probabilities: list[float]) -> str:
    pairs = list(zip(pieces, probabilities, strict=True))[:NAMED]
    return "  ".join(f"{one_line(piece[:24])} {numbers.probability(p).strip()}" for piece, p in pairs)


def _outcome(answer: WaterfallAnswer, ran: str | None) -> tuple[str, ...]:
    """Which token these parameters choose with the same draw, in fewer and fewer words."""
    if not answer.replayable:
        return answer.reason, tr("ends before a stage that cannot run again"), tr("ends early")
    if answer.token_id is None:
        return answer.reason, tr("one step does not tell the token"), ""
    now = step_text.quoted(answer.piece)
    if ran is None:
        return (tr("chooses {0}").format(now), now)
    return (tr("the same draw gives {0}, not {1}").format(now, step_text.quoted(ran)), now)
