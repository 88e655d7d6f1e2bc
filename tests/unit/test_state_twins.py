"""Two branches side by side in the window's state: what intents ask of core, what events make of it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from app.state import branch_intents as b
from app.state import intents as i
from app.state import select, twins
from app.state import twin_intents as t
from app.state.branch_state import BranchNode, TwinChange
from app.state.effects import commands
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    BranchesGone,
    BranchStarted,
    Command,
    CommandRefused,
    EndTwin,
    ParameterError,
    RunFinished,
    RunStarted,
    StartRun,
    StartTwin,
    SwitchBranch,
)
from tests.ui import synthetic

HOT = TwinChange({"temperature": 1.5})


def started(before: AppState) -> tuple[AppState, BranchStarted]:
    """The twin that was asked for has begun, one token long."""
    request = before.branches.requested
    assert request is not None
    assert isinstance(request.command, StartTwin)
    command, run = request.command, before.run
    assert run is not None
    own = replace(
        run.started, branch_id=command.branch_id, rows=(run.prompt,), params=run.params.replace(command.params)
    )
    event = BranchStarted(
        command.run_id,
        command.branch_id,
        command.beside,
        0,
        run.prompt_tokens,
        0,
        (),
        own,
        0,
        3,
        1,
        beside=command.beside,
    )
    return update(before, event), event


def asked(before: AppState, intent: i.Intent) -> tuple[AppState, tuple[Command, ...]]:
    after = update(before, intent)
    return after, commands(before, after, intent)


def base() -> AppState:
    """A run of six tokens, known as a branch."""
    state = synthetic.state(6)
    assert state.run is not None
    nodes = MappingProxyType({state.run.branch: BranchNode(None, 0, "run", state.run)})
    return replace(state, branches=replace(state.branches, nodes=nodes))


def with_twin() -> AppState:
    state = base()
    return started(update(state, t.RunTwin(HOT)))[0]


def test_a_new_run_begins_before_its_twin() -> None:
    state = synthetic.state(4)
    after, sent = asked(state, t.RunTwin(HOT, "run"))
    run, twin = sent[:2]
    assert isinstance(run, StartRun)
    assert isinstance(twin, StartTwin)
    assert (twin.run_id, twin.beside, twin.position, dict(twin.params)) == (run.run_id, 0, None, {"temperature": 1.5})
    assert state.run is not None
    begun = update(
        after, RunStarted(**{n: getattr(state.run.started, n) for n in RunStarted.__slots__} | {"run_id": run.run_id})
    )
    assert begun.branches.requested is after.branches.requested  # it waits for its run


def test_the_twin_is_shown_beside_and_what_differs_belongs_to_each_side() -> None:
    state = with_twin()
    pair = twins.columns(state)
    assert pair is not None
    assert state.run is pair.first
    assert twins.difference_words(state, pair).startswith("temperature ")
    before = select.params(state).temperature
    second = pair.second.branch_id
    state, sent = asked(state, b.ShowBranch(second))
    assert sent == (SwitchBranch(pair.first.run_id, second), *sent[1:])
    assert not [c for c in sent if type(c).__name__ == "SetParams"]  # nothing is changed by looking
    assert select.params(state).temperature == 1.5
    state, _ = asked(state, i.SetParameter("temperature", 1.9))
    state, _ = asked(state, i.SetParameter("top_k", 3))
    state, _ = asked(state, b.ShowBranch(0))
    assert (select.params(state).temperature, select.params(state).top_k) == (before, 3)
    state, _ = asked(state, b.ShowBranch(second))
    assert select.params(state).temperature == 1.9


def test_letting_go_is_told_and_ends_the_pair_but_not_the_comparison() -> None:
    state = with_twin()
    assert state.run is not None
    run_id = state.run.run_id
    state, sent = asked(state, t.EndTwinRun())
    assert sent == (EndTwin(run_id),)
    assert twins.beside(state) is None
    assert twins.columns(state) is not None
    state, sent = asked(state, t.EndTwinRun())
    assert sent == ()


def test_a_failure_of_the_side_that_is_not_in_use_is_told() -> None:
    state = with_twin()
    key = twins.beside(state)
    assert key is not None
    error = ParameterError("It broke.").report()
    end = RunFinished(key[0], "cancelled", ("cancelled",), ("",), ((),), (3,), 0, None, None, error, branch_id=key[1])
    state = update(state, end)
    assert state.notices[-1].text == "It broke."


def test_what_is_gone_does_not_come_back_by_undo() -> None:
    state = with_twin()
    key = twins.beside(state)
    assert key is not None
    state = update(state, BranchesGone(key[0], (key[1],)))
    assert twins.beside(state) is None
    assert twins.compared(state) is None
    state = update(state, i.Undo())
    assert key in state.branches.deleted


def test_a_refused_twin_is_no_longer_asked_for() -> None:
    state = update(synthetic.state(6), t.RunTwin(HOT))
    state = update(state, CommandRefused("StartTwin", ParameterError("No.").report()))
    assert state.branches.requested is None
    assert update(state, t.CompareBranches(0, 7)).branches.compared is None
