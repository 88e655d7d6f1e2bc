"""Interventions, breakpoints and watched tokens: how they change the state, and what core has to do for it. Pure."""

from __future__ import annotations

from dataclasses import replace

from app.state import acting_intents as a
from app.state import deleting, notices, select
from app.state.acting_state import Act, Acting, Break, Pin
from app.state.run import RunView, show_row, with_acts
from app.state.shown import of_sequence
from app.state.state import AppState
from app.state.texts import tr
from core.contract import (
    BreakpointHit,
    BreakpointProblem,
    Command,
    DeletePositions,
    Intervention,
    InterventionsApplied,
    ModelInfo,
    MutePositions,
    ParameterError,
    ScaleHeads,
    SetBreakpoints,
    SetInterventions,
    SkipPart,
    check_breakpoint,
    check_interventions,
    hit_words,
    words,
)

_MANY = 1_000_000  # rows
MOST_PINS = 8  # as many as there are colours to tell them apart
ActingEvent = InterventionsApplied | BreakpointHit | BreakpointProblem


def on_intent(state: AppState, intent: a.ActingIntent) -> AppState:
    """The state after an intent."""
    if isinstance(intent, a.AddBreakpoint | a.SwitchBreakpoint | a.RemoveBreakpoint):
        return _on_break(state, intent)
    if isinstance(intent, a.PinToken | a.UnpinToken):
        return _on_pin(state, intent)
    if isinstance(intent, a.ShowPreview):
        return replace(state, acting=replace(state.acting, preview=intent.on))
    acts = state.acting.acts
    final = frozenset(act.act_id for act in acts if deleting.is_final(act, state.run))
    match intent:
        case a.AddIntervention(DeletePositions(row, positions)):
            return _deleted(state, row, positions)
        case a.AddIntervention(one):
            return with_list(state, (*acts, Act(state.acting.last_id + 1, one)))
        case a.ChangeIntervention(act_id, one):
            return with_list(state, tuple(replace(x, intervention=one) if x.act_id == act_id else x for x in acts))
        case a.SwitchIntervention(act_id, _) if act_id in final:
            return state
        case a.SwitchIntervention(act_id, on):
            return with_list(state, tuple(replace(x, on=on) if x.act_id == act_id else x for x in acts))
        case a.RemoveIntervention(act_id):
            return with_list(state, tuple(x for x in acts if x.act_id in final or act_id not in (None, x.act_id)))
        case a.MuteHead(layer, head):
            return with_list(state, _toggled_head(state.acting, layer, head))
        case a.UnmuteHeads():
            return with_list(state, tuple(x for x in acts if not _mutes_heads(x.intervention)))
        case a.SkipLayer(layer, part):
            return with_list(state, _toggled_skip(state.acting, SkipPart(layer, part)))
        case a.SetMuted(row, positions):
            return with_list(state, _muted(state.acting, row, positions))
        case a.MutePosition(row, position):
            return with_list(state, _toggled_position(state.acting, row, position))
        case a.DeletePosition(row, position):
            return _deleted(state, row, (position,))


def _deleted(state: AppState, row: int, positions: tuple[int, ...]) -> AppState:
    """From the cache of the run in progress."""
    if state.run is None or state.run.finish is not None:
        text = tr("Positions are deleted while a run is in progress; go back to a token first.")
        return notices.announce(state, "info", text)
    return with_list(state, deleting.with_positions(state.acting, row, positions))


def _muted(acting: Acting, row: int, positions: tuple[int, ...]) -> tuple[Act, ...]:
    """One line for all positions of a row, in the place of those that were there."""
    others = tuple(
        x for x in acting.acts if not (isinstance(x.intervention, MutePositions) and x.intervention.row == row)
    )
    made = (Act(acting.last_id + 1, MutePositions(row, positions)),) if positions else ()
    return (*others, *made)


def with_list(state: AppState, acts: tuple[Act, ...]) -> AppState:
    """Another list; during a run a change that acts gets an epoch. What the model has not is announced instead."""
    before = state.acting
    last = max([before.last_id, *(act.act_id for act in acts)])
    acting = replace(before, acts=acts, last_id=last)
    problem = _problem(state, acting.interventions)
    if problem:
        return notices.announce(state, "error", problem)
    if acting.interventions == before.interventions or not select.is_active(state):
        return replace(state, acting=acting)
    epoch = state.epoch + 1
    return replace(state, acting=replace(acting, epoch=epoch), epoch=epoch)


def _problem(state: AppState, asked: tuple[Intervention, ...]) -> str:
    info, run = state.model, state.run
    if info is None:
        return ""
    if run is not None and select.is_active(state) and state.requested is None:
        return _misfit(info, select.as_asked(run, asked), len(run.started.rows))
    return _misfit(info, asked, _MANY)  # before a run nobody knows its rows


def _misfit(info: ModelInfo, asked: tuple[Intervention, ...], rows: int) -> str:
    try:
        check_interventions(asked, info.title, info.layers, info.heads, info.hidden_size, rows)
    except ParameterError as error:
        return error.message
    return ""


def _mutes_heads(one: Intervention) -> bool:
    return isinstance(one, ScaleHeads) and one.factor == 0


def _toggled_head(acting: Acting, layer: int, head: int) -> tuple[Act, ...]:
    """Muted heads of a layer share one line of the list; one that is muted there, on or off, speaks again."""
    for act in acting.acts:
        one = act.intervention
        if not isinstance(one, ScaleHeads) or one.layer != layer or one.factor != 0:
            continue
        heads = tuple(h for h in one.heads if h != head) if head in one.heads and act.on else one.heads
        if heads == one.heads:
            heads = tuple(sorted({*one.heads, head})) if act.on else (head,)
        changed = (replace(act, intervention=replace(one, heads=heads), on=True),) if heads else ()
        return _replaced(acting, act, changed)
    return (*acting.acts, Act(acting.last_id + 1, ScaleHeads(layer, (head,))))


def _toggled_skip(acting: Acting, one: SkipPart) -> tuple[Act, ...]:
    if any(act.on and act.intervention == one for act in acting.acts):
        return tuple(act for act in acting.acts if act.intervention != one)
    others = tuple(act for act in acting.acts if act.intervention != one)
    return (*others, Act(acting.last_id + 1, one))


def _toggled_position(acting: Acting, row: int, position: int) -> tuple[Act, ...]:
    for act in acting.acts:
        one = act.intervention
        if not isinstance(one, MutePositions) or one.row != row:
            continue
        if act.on and position in one.positions:
            left = tuple(p for p in one.positions if p != position)
            return _replaced(acting, act, (replace(act, intervention=replace(one, positions=left)),) if left else ())
        positions = tuple(sorted({*one.positions, position})) if act.on else (position,)
        return _replaced(acting, act, (replace(act, intervention=replace(one, positions=positions), on=True),))
    return (*acting.acts, Act(acting.last_id + 1, MutePositions(row, (position,))))


def _replaced(acting: Acting, old: Act, new: tuple[Act, ...]) -> tuple[Act, ...]:
    at = acting.acts.index(old)
    return (*acting.acts[:at], *new, *acting.acts[at + 1 :])


def _on_break(state: AppState, intent: a.AddBreakpoint | a.SwitchBreakpoint | a.RemoveBreakpoint) -> AppState:
    acting = state.acting
    match intent:
        case a.AddBreakpoint(one, on):
            try:
                check_breakpoint(one)
            except ParameterError as error:
                return notices.announce(state, "error", error.message)
            same = next((x for x in acting.breaks if x.breakpoint == one), None)
            if same is not None:
                return _on_break(state, a.SwitchBreakpoint(same.break_id, on))
            made = Break(acting.last_id + 1, one, on)
            acting = replace(acting, breaks=(*acting.breaks, made), last_id=made.break_id)
        case a.SwitchBreakpoint(break_id, on):
            breaks = tuple(replace(x, on=on, problem="") if x.break_id == break_id else x for x in acting.breaks)
            acting = replace(acting, breaks=breaks)
        case a.RemoveBreakpoint(break_id):
            left = tuple(x for x in acting.breaks if break_id is not None and x.break_id != break_id)
            acting = replace(acting, breaks=left)
    return replace(state, acting=acting)


def _on_pin(state: AppState, intent: a.PinToken | a.UnpinToken) -> AppState:
    pins = tuple(pin for pin in state.acting.pins if pin.token != intent.token)
    if isinstance(intent, a.PinToken):
        width = state.model.output_size if state.model is not None else None
        if isinstance(intent.token, int) and width is not None and intent.token >= width:
            text = tr("There is no token {0}; ids of this model end at {1}.").format(intent.token, width - 1)
            return notices.announce(state, "error", text)
        if len(pins) >= MOST_PINS:
            text = tr("At most {0} tokens can be watched; remove one first.").format(MOST_PINS)
            return notices.announce(state, "info", text)
        pins = (*pins, Pin(intent.token, intent.piece))
    return replace(state, acting=replace(state.acting, pins=pins))


def commands(before: AppState, after: AppState) -> tuple[Command, ...]:
    """What core has to do for the change; nothing where no run is in progress."""
    if not select.is_active(before):
        return ()
    run_id = after.requested.run_id if after.requested else after.run.run_id if after.run else 0
    found: list[Command] = []
    if after.acting.breakpoints != before.acting.breakpoints:
        found.append(SetBreakpoints(run_id, after.acting.breakpoints))
    return tuple(found)


def on_event(state: AppState, run: RunView, event: ActingEvent) -> AppState:
    """The state after an event of the run shown."""
    acting = state.acting
    match event:
        case InterventionsApplied():
            if acting.epoch is not None and acting.epoch <= event.epoch:
                acting = replace(acting, epoch=None)
            return replace(state, acting=acting, run=with_acts(run, event))
        case BreakpointProblem(_, one, reason):
            breaks = tuple(replace(x, problem=reason) if x.breakpoint == one else x for x in acting.breaks)
            state = replace(state, acting=replace(acting, breaks=breaks))
            return notices.announce(state, "error", reason)
        case BreakpointHit():
            breaks = tuple(
                replace(x, hits=x.hits + 1) if x.breakpoint == event.breakpoint else x for x in acting.breaks
            )
            acting = replace(acting, breaks=breaks, hits=(*acting.hits, event))
            if run.row != acting.hits[0].row:
                state = of_sequence(state, show_row(run, acting.hits[0].row))
            return replace(state, acting=acting, selected=acting.hits[0].index)


def gone_on(state: AppState) -> AppState:
    """The run goes on, or another one begins: it is stopped nowhere, and the newest token is followed again."""
    hits = state.acting.hits
    if not hits:
        return state
    selected = None if state.selected == hits[0].index else state.selected
    return replace(state, acting=replace(state.acting, hits=()), selected=selected)


def cleared(state: AppState, before: RunView | None = None) -> AppState:
    """Another branch is in use than `before`: it is stopped at no breakpoint."""
    same = before is not None and state.run is not None and state.run.branch == before.branch
    return state if same or not state.acting.hits else replace(state, acting=replace(state.acting, hits=()))


def with_earlier(state: AppState, acts: tuple[Act, ...]) -> AppState:
    """An earlier list; what is deleted in the run shown stays so."""
    return with_list(state, deleting.settled(replace(state.acting, acts=acts), state.run).acts)


def told(before: AppState, after: AppState) -> tuple[Command, ...]:
    """The interventions, if the run in progress is to be told others than it was."""
    epoch, run, request = after.acting.epoch, after.run, after.requested
    if epoch is None or epoch <= before.epoch:
        return ()
    if run is None or request is not None:
        return (SetInterventions(request.run_id if request else 0, after.acting.interventions, epoch),)
    return (SetInterventions(run.run_id, select.as_asked(run, after.acting.interventions), epoch),)


def taken_over(state: AppState, run: RunView, asked: bool = True) -> AppState:
    """The list of a branch gone back to is its own again: as it was left, and on is what is in force there.

    asked: whether the user went there, so that core can be told what is to be in force again.
    """
    node, acting = state.branches.nodes[run.branch], state.acting
    acts, epoch = acting.acts if node.acts is None else node.acts, node.acts_epoch
    if epoch is not None and all(act.epoch < epoch for act in run.acts):  # told, but not in force yet
        return replace(state, acting=replace(acting, acts=acts, epoch=epoch))
    back = node.acts_back if asked and run.finish is None else None
    now, new = select.interventions(run) if back is None else back, acting.last_id + 1
    kept = _in_force(acts, run, now)
    missing = [x for x in now if not isinstance(x, DeletePositions) and all(act.intervention != x for act in kept)]
    acts = (*kept, *(Act(new + number, one) for number, one in enumerate(missing)))
    acting = replace(acting, acts=acts, epoch=None, last_id=acting.last_id + len(missing))
    acting = deleting.settled(acting, run)
    if back is None:
        return replace(state, acting=acting)
    return replace(state, acting=replace(acting, epoch=state.epoch + 1), epoch=state.epoch + 1)


def as_it_is(state: AppState) -> AppState:
    """The list with the switches as the run in progress has them."""
    run = state.run
    if run is None or run.finish is not None:
        return state
    acts = _in_force(state.acting.acts, run, select.interventions(run))
    return replace(state, acting=deleting.settled(replace(state.acting, acts=acts, epoch=None), run))


def with_twin(state: AppState) -> AppState:
    """The list as both have it that go on: a twin is under what the one beside it ran under, even where that has ended
    and was told nothing since."""
    run = state.run
    if run is None or state.acting.epoch is not None:
        return state
    acts = _in_force(state.acting.acts, run, select.interventions(run))
    return replace(state, acting=deleting.settled(replace(state.acting, acts=acts), run))


def _in_force(acts: tuple[Act, ...], run: RunView, asked: tuple[Intervention, ...]) -> tuple[Act, ...]:
    """The list with those of `asked` on; nothing is said about rows that are not in this branch."""
    now, kept = list(asked), []
    for act in acts:
        one = act.intervention
        if run.origin is None or not isinstance(one, MutePositions | DeletePositions) or one.row == run.origin:
            act = replace(act, on=one in now)
        if one in now:
            now.remove(one)
        kept.append(act)
    return tuple(kept)


def after_switch(after: AppState) -> tuple[Command, ...]:
    """What a branch gone back to has to be told."""
    run = after.run
    if run is None or run.finish is not None or not after.acting.last_id:
        return ()
    return (SetBreakpoints(run.run_id, after.acting.breakpoints),)  # it may know breakpoints that are gone


def unused(state: AppState, run: RunView) -> tuple[Intervention, ...] | None:
    """What a paused run was under, if it has been told otherwise since; no token of it was chosen under that yet."""
    if run.finish is not None or not run.count or not select.is_paused(state):
        return None
    ran, now = select.interventions(run, run.count - 1), select.interventions(run)
    if ran == now and state.acting.epoch is None:
        return None
    kept = (one for one in ran if not isinstance(one, DeletePositions))
    return (*kept, *(one for one in now if isinstance(one, DeletePositions)))  # what is deleted stays so


def asked_for(state: AppState) -> AppState:
    """Another run or branch is asked for, with the whole list: what the one before makes of a change is its own."""
    return state if state.acting.epoch is None else replace(state, acting=replace(state.acting, epoch=None))


def run_started(state: AppState) -> AppState:
    """Nothing has been hit yet in a new run."""
    acting = state.acting
    breaks = tuple(replace(one, hits=0, problem="") for one in acting.breaks)
    return replace(state, acting=deleting.settled(replace(acting, breaks=breaks, hits=(), epoch=None), None))


def model_ready(state: AppState, info: ModelInfo) -> AppState:
    """Interventions and watched tokens belong to a model; for another one they are forgotten, and that is said."""
    acting = state.acting
    if not acting.acts and not acting.pins:
        return state
    same = state.model is not None and state.model.spec.name == info.spec.name
    if same and not _misfit(info, acting.interventions, _MANY):
        return state
    state = replace(state, acting=replace(acting, acts=(), pins=(), hits=(), epoch=None))
    return notices.announce(
        state, "info", tr("Interventions and watched tokens were for the model before, so their lists are empty now.")
    )


def given_up(state: AppState, epoch: int) -> AppState:
    """Interventions were not even made ready, because something else came; the list is for what comes."""
    return replace(state, acting=replace(state.acting, epoch=None)) if state.acting.epoch == epoch else state


def refused(state: AppState, epoch: int) -> AppState:
    """The list as the run really has it: the refused interventions are switched off."""
    if state.acting.epoch != epoch:
        return state
    run, acts = state.run, state.acting.acts
    off = tuple(replace(act, on=False) for act in acts)
    acts = off if run is None else _in_force(acts, run, select.interventions(run))
    return replace(state, acting=deleting.settled(replace(state.acting, acts=acts, epoch=None), run))


def stopped_text(state: AppState) -> str:
    """Where and why the run is stopped at a breakpoint; empty where it is not."""
    hits = state.acting.hits
    if not hits:
        return ""
    why = " · ".join(hit_words(hit.breakpoint, hit.value) for hit in hits)
    row = "" if state.run is None or len(state.run.started.rows) < 2 else tr(" of row {0}").format(hits[0].row)
    return tr("Stopped at token {0}{1}: {2}").format(hits[0].index, row, why)


def change_text(event: InterventionsApplied, before: tuple[Intervention, ...]) -> str:
    """What changed, for the timeline: `head 3.1 muted`, or what is gone."""
    new = [words(one) for one in event.interventions if one not in before]
    gone = [words(one) for one in before if one not in event.interventions]
    parts = [*new, *(tr("no more {0}").format(text) for text in gone)]
    return ", ".join(parts)
