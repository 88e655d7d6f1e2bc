"""Branches in the window's state, where events come late or in another order than the user expects."""

from __future__ import annotations

from app.state import branch_intents as b
from app.state import branches, select
from app.state import intents as i
from app.state.effects import commands
from app.state.state import AppState
from app.state.update import update
from core.contract import (
    BranchesHeld,
    BranchMemory,
    BranchStarted,
    BranchSwitched,
    CommandRefused,
    DropBranch,
    ErrorReport,
    Event,
    PreviewPlan,
    RunFinished,
    SetParams,
    StartBranch,
    SwitchBranch,
)
from tests.ui.fake_lab import FakeLab


class Machine:
    """A state after a run of eight tokens by the scripted lab, and the commands that intents lead to."""

    def __init__(self) -> None:
        self.lab = FakeLab()
        self.state, self.sent = AppState(), list[object]()
        self.do(i.ChooseModel("tiny-gpt2"))
        self.happen(*self.lab.drain())
        self.do(i.SetParameter("max_new_tokens", 8))
        self.do(i.Run())
        while select.is_active(self.state):
            self.happen(*self.lab.drain())
        self.sent.clear()

    def do(self, intent: i.Intent) -> None:
        before, self.state = self.state, update(self.state, intent)
        for command in commands(before, self.state, intent):
            if not isinstance(command, PreviewPlan):
                self.sent.append(command)
            if not isinstance(command, StartBranch | SwitchBranch | DropBranch):
                self.lab.submit(command)

    def happen(self, *events: Event) -> None:
        for event in events:
            self.state = update(self.state, event)

    def asked(self) -> StartBranch:
        command = self.sent[-1]
        assert isinstance(command, StartBranch)
        return command

    def confirm(self, command: StartBranch, reused: int = 5) -> None:
        run = self.state.run
        assert run is not None
        kept = command.position - run.prompt_tokens
        started = run.started
        self.happen(
            BranchStarted(
                run.run_id, command.branch_id, command.parent, 0, command.position, kept, (), started, 0, reused, 1
            )
        )

    def end(self, branch_id: int, text: str = "x") -> None:
        run = self.state.run
        assert run is not None
        done = RunFinished(run.run_id, "length", ("length",), (text,), ((),), (3,), 8, 1.0, 1.0, branch_id=branch_id)
        self.happen(done)


def in_use(machine: Machine) -> int:
    assert machine.state.run is not None
    return machine.state.run.branch_id


def test_a_branch_begins_with_the_steps_it_keeps() -> None:
    machine = Machine()
    before = machine.state.run
    assert before is not None
    machine.do(i.SelectStep(5))
    machine.do(b.ForceToken(7))
    command = machine.asked()
    assert (command.position, command.token_ids, command.max_steps) == (before.prompt_tokens + 5, (7,), None)
    assert machine.state.run is before
    machine.confirm(command)
    run = machine.state.run
    assert run is not None
    assert run.steps() == before.steps()[:5]
    assert run.key != before.key
    assert machine.state.selected is None
    assert machine.state.branches.reuse == (5, 1)
    assert before.count == 8  # its columns are its own


def test_what_was_changed_since_the_run_ended_is_told() -> None:
    machine = Machine()
    machine.do(i.SetParameter("temperature", 0.3))
    machine.do(b.Rewind(2))
    assert dict(machine.asked().params) == {"temperature": 0.3}
    assert machine.asked().max_steps == 0


def test_controls_are_what_a_branch_goes_on_with_when_it_is_taken_up_again() -> None:
    machine = Machine()
    machine.do(b.Rewind(2))
    machine.confirm(machine.asked())
    machine.do(b.Fork(1))
    machine.confirm(machine.asked())
    machine.do(i.SetParameter("temperature", 0.3))
    assert isinstance(machine.sent[-1], SetParams)
    machine.sent.clear()
    machine.do(b.ShowBranch(1))
    switch, told = machine.sent
    assert switch == SwitchBranch(1, 1)
    assert isinstance(told, SetParams)
    assert dict(told.changes) == {"temperature": 0.3}
    assert dict(machine.state.pending) == {"temperature": told.epoch}
    machine.sent.clear()
    machine.do(b.ShowBranch(0))  # it has ended: nothing is left to be told
    assert machine.sent == [SwitchBranch(1, 0)]


def test_a_branch_that_begins_after_the_user_has_gone_elsewhere_does_not_stay_in_front() -> None:
    machine = Machine()
    machine.do(b.Rewind(2))
    machine.confirm(machine.asked())
    machine.do(b.AnotherTry(1))
    late = machine.asked()
    machine.do(b.ShowBranch(0))
    machine.confirm(late)
    assert in_use(machine) == late.branch_id
    machine.happen(BranchSwitched(1, 0, 9, 0))
    assert in_use(machine) == 0


def test_what_a_branch_said_after_it_was_left_is_kept_for_it() -> None:
    machine = Machine()
    machine.do(b.Rewind(2))
    machine.confirm(machine.asked())
    machine.do(b.ShowBranch(0))
    machine.end(1)
    assert in_use(machine) == 0
    other = branches.view(machine.state, (1, 1))
    assert other is not None
    assert other.finish is not None
    assert not select.is_active(machine.state)


def test_a_refused_branch_leaves_no_trace() -> None:
    machine = Machine()
    past = machine.state.history.past
    machine.do(b.PutTokens(3, (10**6,)))
    machine.happen(CommandRefused("StartBranch", ErrorReport("parameter", "No such token.")))
    assert machine.state.branches.requested is None
    assert machine.state.history.past == past
    assert machine.state.notices[-1].text == "No such token."


def test_draws_are_numbered_over_all_branches_of_a_run() -> None:
    machine = Machine()
    machine.do(b.AnotherTry(1))
    assert machine.asked().reroll == 1


def test_deleting_keeps_those_that_part_from_it_and_undo_brings_it_back() -> None:
    machine = Machine()
    for index in (5, 3):
        machine.do(b.Rewind(index))
        machine.confirm(machine.asked())
    assert branches.lanes(machine.state) == [((1, 0), 0), ((1, 1), 1), ((1, 2), 2)]
    machine.sent.clear()
    machine.do(b.DeleteBranch(1))
    assert machine.sent == [DropBranch(1, 1)]
    assert branches.lanes(machine.state) == [((1, 0), 0), ((1, 2), 1)]
    machine.sent.clear()
    machine.do(b.DeleteBranch())
    assert machine.sent == [SwitchBranch(1, 0), DropBranch(1, 2)]
    machine.do(b.DeleteBranch())
    assert "last branch" in machine.state.notices[-1].text
    machine.do(i.Undo())
    assert in_use(machine) == 2
    machine.do(i.Undo())
    assert len(branches.lanes(machine.state)) == 3
    machine.do(i.Redo())
    assert len(branches.lanes(machine.state)) == 2


def test_nothing_begins_where_there_is_no_token() -> None:
    machine = Machine()
    for intent in (b.Rewind(99), b.ForceToken(3, -1), b.Fork(8), b.EditFrom(-1, "x"), b.PutTokens(500, (1,))):
        machine.do(intent)
        assert machine.sent == []
        assert machine.state.branches.requested is None


def test_memory_is_kept_by_branch() -> None:
    machine = Machine()
    machine.happen(BranchesHeld(1, (BranchMemory(0, 9, 100, 50, True), BranchMemory(1, 9, 0, 50, False))))
    assert machine.state.branches.memory[1, 1].cached is False
