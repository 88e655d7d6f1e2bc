"""Interventions, breakpoints and watches in the window's state: pure, from intents and events to state and commands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.pacing import Pacer
from app.state import acting, select
from app.state import acting_intents as a
from app.state import intents as i
from app.state.effects import commands
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    BreakpointHit,
    BreakpointProblem,
    Command,
    CommandRefused,
    EntropyAbove,
    ErrorReport,
    EveryTokens,
    GenerationParams,
    InterventionsApplied,
    ModelReady,
    ModelSpec,
    MutePositions,
    PreviewPlan,
    PromptRow,
    RunStarted,
    ScaleHeads,
    SetBreakpoints,
    SetInterventions,
    SkipPart,
    StartRun,
    StateChanged,
    StepSnapshot,
    WorkerState,
)
from tests.ui.fake_lab import model_info, snapshot


def started(run_id: int) -> RunStarted:
    row = PromptRow((1, 2, 3), ("a", "b", "c"), "abc")
    return RunStarted(1, run_id, 0, (row,), GenerationParams(), 0, 99, ())


def ready() -> AppState:
    return update(AppState(), ModelReady(model_info()))


def running(steps: int = 3) -> AppState:
    state = update(ready(), i.Run())
    state = update(state, started(run_id=1))
    for index in range(steps):
        state = update(state, snapshot(1, index, 3, f" w{index}"))
    return update(state, StateChanged(WorkerState.PAUSED))


def after(state: AppState, *intents: i.Intent) -> AppState:
    for intent in intents:
        state = update(state, intent)
    return state


def told(before: AppState, state: AppState, intent: i.Intent) -> tuple[Command, ...]:
    """What core is told, questions about the plan left out."""
    return tuple(c for c in commands(before, state, intent) if not isinstance(c, PreviewPlan))


def test_heads_of_a_layer_share_a_line_and_speak_again_one_by_one() -> None:
    state = after(ready(), a.MuteHead(2, 4), a.MuteHead(2, 1), a.MuteHead(3, 0))
    assert state.acting.interventions == (ScaleHeads(2, (1, 4)), ScaleHeads(3, (0,)))
    assert select.muted_heads(state.acting.interventions) == {(2, 1), (2, 4), (3, 0)}
    state = after(state, a.MuteHead(2, 4))
    assert state.acting.interventions == (ScaleHeads(2, (1,)), ScaleHeads(3, (0,)))
    off = after(state, a.SwitchIntervention(state.acting.acts[0].act_id, False), a.MuteHead(2, 5))
    assert off.acting.interventions == (ScaleHeads(2, (5,)), ScaleHeads(3, (0,)))  # what was off is not brought back
    assert after(state, a.MuteHead(2, 1), a.MuteHead(3, 0)).acting.acts == ()
    assert after(state, a.AddIntervention(SkipPart(0, "mlp")), a.UnmuteHeads()).acting.interventions == (
        SkipPart(0, "mlp"),
    )


def test_positions_and_skips_toggle() -> None:
    state = after(ready(), a.MutePosition(0, 4), a.MutePosition(0, 2), a.MutePosition(1, 0))
    assert state.acting.interventions == (MutePositions(0, (2, 4)), MutePositions(1, (0,)))
    assert select.muted_positions(state.acting.interventions, 0) == {2, 4}
    state = after(state, a.SetMuted(0, (7,)), a.MutePosition(1, 0), a.SkipLayer(1, "mlp"))
    assert state.acting.interventions == (MutePositions(0, (7,)), SkipPart(1, "mlp"))
    assert after(state, a.SkipLayer(1, "mlp"), a.SetMuted(0, ())).acting.acts == ()


def test_a_change_during_a_run_has_an_epoch_until_it_is_applied() -> None:
    before = running()
    state = after(before, a.MuteHead(0, 1))
    assert (state.epoch, state.acting.epoch) == (1, 1)
    [command] = told(before, state, a.MuteHead(0, 1))
    assert command == SetInterventions(1, (ScaleHeads(0, (1,)),), 1)
    state = update(state, InterventionsApplied(1, 1, 3, (ScaleHeads(0, (1,)),)))
    assert state.acting.epoch is None
    assert select.interventions(state.run) == (ScaleHeads(0, (1,)),)
    assert select.interventions(state.run, 2) == ()
    assert select.interventions(state.run, 3) == (ScaleHeads(0, (1,)),)
    switched = after(state, a.SwitchIntervention(state.acting.acts[0].act_id, False))
    assert switched.acting.epoch == 2
    assert after(state, a.ChangeIntervention(99, SkipPart(0, "mlp"))).epoch == state.epoch  # nothing changed


def test_without_a_run_the_next_one_begins_with_them() -> None:
    before = ready()
    state = after(before, a.MuteHead(0, 1), a.AddBreakpoint(EveryTokens(4)))
    assert (state.epoch, told(before, state, a.MuteHead(0, 1))) == (0, ())
    assert state.plan_generation == before.plan_generation + 1
    asked = after(state, i.Run())
    [command] = [c for c in told(state, asked, i.Run()) if isinstance(c, StartRun)]
    assert command.spec.interventions == (ScaleHeads(0, (1,)),)
    assert command.spec.breakpoints == (EveryTokens(4),)
    # Changed again before the run has begun: it is told to that run.
    later = after(asked, a.MuteHead(0, 2))
    assert told(asked, later, a.MuteHead(0, 2)) == (SetInterventions(1, (ScaleHeads(0, (1, 2)),), 1),)


def test_what_the_model_has_not_changes_nothing() -> None:
    state = after(ready(), a.AddIntervention(ScaleHeads(99, (0,))))
    assert state.acting.acts == ()
    assert "no layer 99" in state.notices[-1].text
    state = after(running(), a.MutePosition(1, 0))
    assert state.acting.acts == ()
    assert "no row 1" in state.notices[-1].text


def test_a_refused_change_is_switched_off() -> None:
    state = after(running(), a.MuteHead(0, 1))
    state = update(state, CommandRefused("SetInterventions", ErrorReport("parameter", "No."), 1))
    assert [act.on for act in state.acting.acts] == [False]
    assert state.acting.epoch is None


def hit(index: int, breakpoint: object = EveryTokens(2), run_id: int = 1) -> BreakpointHit:
    return BreakpointHit(run_id, index, breakpoint, 2)  # type: ignore[arg-type]


def test_a_hit_selects_its_token_and_going_on_follows_the_newest_again() -> None:
    state = after(running(), a.AddBreakpoint(EveryTokens(2)), a.AddBreakpoint(EntropyAbove(1.0)))
    state = update(update(state, hit(2)), hit(2, EntropyAbove(1.0)))
    assert state.selected == 2
    assert [one.hits for one in state.acting.breaks] == [1, 1]
    assert acting.stopped_text(state).startswith("Stopped at token 2: 2 tokens")
    assert " · entropy" in acting.stopped_text(state)
    gone = after(state, i.TogglePause())
    assert (gone.selected, gone.acting.hits) == (None, ())
    elsewhere = after(state, i.SelectStep(0), i.Step())
    assert (elsewhere.selected, elsewhere.acting.hits) == (0, ())
    again = update(update(after(gone, i.Run()), started(run_id=2)), hit(1, run_id=1))
    assert [one.hits for one in again.acting.breaks] == [0, 0]  # of another run


def test_a_problem_is_told_and_kept_at_its_breakpoint() -> None:
    state = after(running(), a.AddBreakpoint(EveryTokens(2)))
    state = update(state, BreakpointProblem(1, EveryTokens(2), "It cannot be."))
    assert state.acting.breaks[0].problem == "It cannot be."
    assert state.notices[-1].text == "It cannot be."
    state = after(state, a.SwitchBreakpoint(state.acting.breaks[0].break_id, True))
    assert state.acting.breaks[0].problem == ""


def test_breakpoints_change_while_the_run_goes_on() -> None:
    before = running()
    state = after(before, a.AddBreakpoint(EveryTokens(2)))
    assert told(before, state, a.AddBreakpoint(EveryTokens(2))) == (SetBreakpoints(1, (EveryTokens(2),)),)
    number = state.acting.breaks[0].break_id
    off = after(state, a.SwitchBreakpoint(number, False))
    assert told(state, off, a.SwitchBreakpoint(number, False)) == (SetBreakpoints(1, ()),)
    assert after(off, a.AddBreakpoint(EveryTokens(2))).acting.breakpoints == (EveryTokens(2),)  # there already: on
    assert after(state, a.RemoveBreakpoint(None)).acting.breaks == ()
    wrong = after(state, a.AddBreakpoint(EveryTokens(0)))
    assert len(wrong.acting.breaks) == 1
    assert "at least 1" in wrong.notices[-1].text


def test_another_model_forgets_the_same_one_keeps() -> None:
    state = after(ready(), a.MuteHead(0, 1), a.PinToken(5, "x"), a.AddBreakpoint(EveryTokens(2)))
    kept = update(state, ModelReady(model_info(2)))
    assert kept.acting == state.acting
    gone = update(state, ModelReady(model_info(3, spec=ModelSpec("another"))))
    assert (gone.acting.acts, gone.acting.pins) == ((), ())
    assert gone.acting.breakpoints == (EveryTokens(2),)
    smaller = update(after(ready(), a.MuteHead(5, 1)), ModelReady(model_info(2, layers=2)))
    assert smaller.acting.acts == ()


def test_reading_speed_never_hides_where_a_run_has_stopped() -> None:
    pacer = Pacer()
    steps = [snapshot(1, index, 3, " w") for index in range(5)]
    assert len(pacer.take(steps, 1.0, False, 0.0)) == 1
    shown = pacer.take([hit(4)], 1.0, True, 0.1)
    assert [e.id.index for e in shown if isinstance(e, StepSnapshot)] == [1, 2, 3, 4]
    assert shown[-1] == hit(4)
    assert pacer.waiting == 0


@pytest.mark.parametrize("row", [0, 1])
def test_a_hit_shows_its_row(row: int) -> None:
    state = running()
    two = replace(state.run.started, rows=(*state.run.started.rows, *state.run.started.rows))
    state = replace(state, run=replace(state.run, started=two))
    state = update(state, BreakpointHit(1, 0, EveryTokens(1), 1, row))
    assert state.run.row == row
    assert (f"of row {row}" in acting.stopped_text(state)) is True
