"""Two branches side by side: twins that go on in lockstep, or any two that are compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.state import acting, branches, notices, params, select
from app.state import twin_intents as t
from app.state.acting_state import Act
from app.state.branch_state import BranchNode, BranchRequest, Key, TwinChange
from app.state.plan import written
from app.state.run import RunView, begin_branch
from app.state.state import AppState
from app.state.texts import tr
from core.contract import (
    PARAMETERS,
    BranchesGone,
    BranchStarted,
    BreakpointHit,
    BreakpointProblem,
    Intervention,
    InterventionsApplied,
    RunFinished,
    StartTwin,
    hit_words,
)
from core.contract import words as acting_words


def on_intent(state: AppState, intent: t.TwinIntent) -> AppState:
    """The state after the intent. A new run that a twin needs is requested by the caller, before."""
    match intent:
        case t.RunTwin(change, begin):
            return _asked(state, change, begin)
        case t.CompareBranches(first, second):
            return _compared(state, first, second)
        case t.CloseComparison():
            return _with(state, compared=None)
        case t.EndTwinRun():
            return unpaired(state)


def _with(state: AppState, **changes: Any) -> AppState:
    return replace(state, branches=replace(state.branches, **changes))


def _asked(state: AppState, change: TwinChange, begin: t.TwinBegin) -> AppState:
    run, branch_id = state.run, state.branches.last_id + 1
    position: int | None = None
    steps: int | None = None
    if begin == "run":
        if state.requested is None:
            return state
        run_id, beside, row = state.requested.run_id, 0, 0
    else:
        index = select.step_index(state)
        if run is None or (begin == "token" and index is None):
            return state
        run_id, beside, row = run.run_id, run.branch_id, run.row
        kept = index if begin == "token" and index is not None else 0
        position = run.prompt_tokens + kept
        if select.is_paused(state):
            steps = max(1, run.count - kept)  # the twin catches up, then both wait
    acts, model, cache = change.interventions, change.model, change.cache
    if acts is not None and run is not None and begin != "run":
        acts = select.as_asked(run, acts)
    command = StartTwin(run_id, branch_id, beside, position, row, change.params, model, acts, cache, steps)
    state = notices.without_errors(state)
    state = replace(state, pace=replace(state.pace, paused=False), stepping=False)
    return _with(state, requested=BranchRequest(command, "twin", change), last_id=branch_id)


def started(state: AppState, event: BranchStarted) -> AppState:
    """The twin is shown beside the branch in use."""
    beside = (event.run_id, event.branch_id if event.beside is None else event.beside)
    parent, before = branches.view(state, beside), state.branches
    if parent is None or beside not in before.nodes:
        return state
    request, change = before.requested, TwinChange()
    if request is not None and request.command.branch_id == event.branch_id:
        change, before = request.change or change, replace(before, requested=None)
    run = begin_branch(parent, event)
    if event.model is not None:
        run = replace(run, model=event.model)
    ours = before.nodes[beside]
    in_use = state.run is not None and state.run.branch == beside
    state = acting.with_twin(state) if in_use else state
    told = branches.told(state, parent) if in_use or ours.asked is None else ours.asked
    own = {name: getattr(told, name) for name in change.params}
    acts = None if change.interventions is None else state.acting.acts
    other, last_id = _acts(change.interventions, state.acting.last_id)
    node = BranchNode(
        event.beside, event.position, "twin", run, told.replace(change.params), change, change.params, other
    )
    nodes = {**before.nodes, beside: replace(ours, own=MappingProxyType(own), own_acts=acts), run.branch: node}
    state = replace(state, acting=replace(state.acting, last_id=last_id))
    pairs = {k: v for k, v in before.pairs.items() if beside not in (k, v)}
    pairs |= {beside: run.branch, run.branch: beside}
    before = replace(before, nodes=MappingProxyType(nodes), pairs=MappingProxyType(pairs))
    return replace(state, branches=replace(before, compared=(beside, run.branch)))


def _acts(asked: tuple[Intervention, ...] | None, last_id: int) -> tuple[tuple[Act, ...] | None, int]:
    """The list of interventions of a side that has its own, and the last number given out."""
    if asked is None:
        return None, last_id
    return tuple(Act(last_id + 1 + n, one) for n, one in enumerate(asked)), last_id + len(asked)


def unpaired(state: AppState) -> AppState:
    """The branch in use goes on alone, what it says is still compared."""
    run, pairs = state.run, state.branches.pairs
    if run is None or run.branch not in pairs:
        return state
    state = branches.left(state)
    pair = (run.branch, pairs[run.branch])
    kept = {k: v for k, v in state.branches.pairs.items() if k not in pair}
    return _with(state, pairs=MappingProxyType(kept))


def on_acting_event(state: AppState, event: InterventionsApplied | BreakpointHit | BreakpointProblem) -> AppState:
    """What happened to the side that is not in use."""
    now = state.acting
    match event:
        case InterventionsApplied() if now.epoch is not None and now.epoch <= event.epoch:
            return replace(state, acting=replace(now, epoch=None))
        case BreakpointHit():
            text = tr("The other side stopped at token {0}: {1}")
            return notices.announce(state, "info", text.format(event.index, hit_words(event.breakpoint, event.value)))
        case _:
            return state


def other_ended(state: AppState, event: RunFinished) -> AppState:
    """The side that is not in use has ended; where the other one had, no change waits any more."""
    if state.run is not None and state.run.finish is not None:
        state = replace(state, pending=MappingProxyType({}))
    return state if event.error is None else notices.report(state, event.error)


def gone(state: AppState, event: BranchesGone) -> AppState:
    """Core has forgotten these; they cannot come back."""
    keys = {(event.run_id, branch_id) for branch_id in event.branch_ids}
    pairs = {k: v for k, v in state.branches.pairs.items() if k not in keys and v not in keys}
    before = state.branches
    deleted, forgotten = before.deleted | keys, before.gone | keys
    return _with(state, deleted=deleted, gone=forgotten, pairs=MappingProxyType(pairs))


def _compared(state: AppState, first: int, second: int) -> AppState:
    run = state.run
    if run is None or first == second:
        return state
    keys = [(run.run_id, branch_id) for branch_id in sorted((first, second))]
    if any(key not in state.branches.nodes or key in state.branches.deleted for key in keys):
        return state
    if run.branch not in keys:
        state = branches.show(state, keys[1])
    return _with(state, compared=(keys[0], keys[1]))


# -- reading


@dataclass(frozen=True, slots=True)
class Pair:
    """Two branches to be compared; the older one is the first."""

    first: RunView
    second: RunView

    @property
    def key(self) -> object:
        """Another one where other sequences are compared."""
        return self.first.key, self.second.key

    @property
    def prompt_tokens(self) -> int:
        """Of the first one."""
        return self.first.prompt_tokens

    def side_of(self, run: RunView) -> int:
        """0 or 1."""
        return int(run.branch == self.second.branch)


def beside(state: AppState) -> Key | None:
    """The branch that goes on with the one in use."""
    return None if state.run is None else state.branches.pairs.get(state.run.branch)


def compared(state: AppState) -> Pair | None:
    """The two branches that are compared, as far as they are there and not deleted."""
    keys = state.branches.compared
    if keys is None or any(key in state.branches.deleted for key in keys):
        return None
    first, second = (branches.view(state, key) for key in keys)
    return None if first is None or second is None else Pair(first, second)


def columns(state: AppState) -> Pair | None:
    """The same, where one of them is in use: then they are shown side by side."""
    pair, run = compared(state), state.run
    if pair is None or run is None or run.branch not in (pair.first.branch, pair.second.branch):
        return None
    return pair


def token_ids(run: RunView) -> NDArray[np.int64]:
    """Of the whole sequence, prompt first."""
    return np.concatenate([np.asarray(run.prompt.token_ids, np.int64), run.column("token_id")])


def same_tokens(pair: Pair) -> NDArray[np.bool_]:
    """For each position that both have, whether the tokens are equal."""
    first, second = pair.first, pair.second
    if first.prompt.token_ids == second.prompt.token_ids:
        both = min(first.count, second.count)
        own = first.column("token_id")[:both] == second.column("token_id")[:both]
        return np.concatenate([np.ones(first.prompt_tokens, bool), own])
    ours, theirs = token_ids(first), token_ids(second)
    common = min(len(ours), len(theirs))
    return np.asarray(ours[:common] == theirs[:common])


def first_difference(pair: Pair) -> int | None:
    """The first position where the tokens differ, prompt included; None where they do not so far."""
    differs = np.flatnonzero(~same_tokens(pair))
    return int(differs[0]) if len(differs) else None


def change_of(state: AppState, pair: Pair) -> TwinChange | None:
    """What a twin was asked to have otherwise; None where the second is no twin of the first."""
    node = state.branches.nodes.get(pair.second.branch)
    return None if node is None or node.parent != pair.first.branch_id else node.change


def difference_words(state: AppState, pair: Pair) -> str:
    """What differs between the two, in words."""
    named = _differing(state, pair)
    return ", ".join(f"{what} {ours} ↔ {theirs}" for what, (ours, theirs) in named.items()) or tr("same settings")


def side_words(state: AppState, pair: Pair, side: int) -> str:
    """The same of one of them."""
    return ", ".join(f"{what} {values[side]}" for what, values in _differing(state, pair).items())


def side_values(state: AppState, pair: Pair, side: int) -> str:
    """The values alone."""
    return ", ".join(values[side] for values in _differing(state, pair).values())


def _differing(state: AppState, pair: Pair) -> Mapping[str, tuple[str, str]]:
    """What differs → how it is written, of both."""
    ours, theirs = pair.first.params, pair.second.params
    change = change_of(state, pair)
    names = tuple(change.params) if change is not None else tuple(params.differences(ours, theirs))
    found = {n: (written(getattr(ours, n)), written(getattr(theirs, n))) for n in names if n in PARAMETERS}
    twin = change is not None and change.interventions is not None
    at = None if twin else min(pair.second.kept, pair.first.count)  # the list is told to every branch one goes to
    acts = [
        ", ".join(map(acting_words, select.interventions(view, at))) or tr("none") for view in (pair.first, pair.second)
    ]
    found[tr("interventions")] = acts[0], acts[1]
    caches = [view.plan.cache.spec.words() for view in (pair.first, pair.second)]
    found[tr("cache")] = caches[0], caches[1]
    one, other = pair.first.model, pair.second.model
    if one.spec.name != other.spec.name:
        found[tr("model")] = one.title, other.title
    if one.dtype != other.dtype:
        found[tr("weights")] = one.dtype, other.dtype
    draws = [str(view.started.plan.draws.reroll) for view in (pair.first, pair.second)]
    found[tr("draws")] = draws[0], draws[1]
    return {what: values for what, values in found.items() if values[0] != values[1]}


def summary(state: AppState, pair: Pair) -> str:
    """What differs, and where the texts part."""
    at = first_difference(pair)
    if at is None:
        return tr("{0}; no difference so far").format(difference_words(state, pair))
    if at < pair.prompt_tokens:
        return tr("{0}; first difference in the prompt, at position {1}").format(difference_words(state, pair), at)
    return tr("{0}; first difference at token {1}").format(difference_words(state, pair), at - pair.prompt_tokens)
