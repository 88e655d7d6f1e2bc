"""Branches through the lab: what is told, what is held, what is given up, what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from core.contract import (
    Answered,
    Ask,
    AttentionAnswer,
    AttentionQuery,
    BranchesHeld,
    BranchMemory,
    BranchStarted,
    BranchSwitched,
    CommandRefused,
    DropBranch,
    LoadModel,
    PauseRun,
    PrefillProgress,
    Prompt,
    ResumeRun,
    RunFinished,
    RunSpec,
    RunStarted,
    StartBranch,
    StartRun,
    StateChanged,
    StepSnapshot,
    StopRun,
    SwitchBranch,
    Tokenize,
    Tokenized,
    ViewQuery,
    WalkQuery,
    WorkerState,
)
from core.contract.events import Event
from tests.flow.test_lab import MODEL, PATIENCE_S, PROMPT, Desk

PARAMS = {"eos_token_id": (), "do_sample": True, "max_new_tokens": 24}


class Forest(Desk):
    """Speaks of branches; no event is overlooked."""

    at = 0
    asked = 100

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            while self.at < len(self.events):
                self.at += 1
                if wanted(self.events[self.at - 1]):
                    return self.events[self.at - 1]
            self.events += self.lab.drain()
            time.sleep(0.002)
        raise AssertionError(f"waited {PATIENCE_S} s; last events: {[type(e) for e in self.events[-5:]]}")

    def forget(self) -> None:
        self.events.clear()
        self.at = 0

    def run(self, run_id: int = 1, **spec: object) -> list[StepSnapshot]:
        self.submit(StartRun(run_id, RunSpec(PROMPT, PARAMS, prefill_chunk=64, **spec)))  # type: ignore[arg-type]
        self.until(lambda e: isinstance(e, RunFinished) and e.run_id == run_id)
        return self.steps(run_id, 0)

    def steps(self, run_id: int, branch_id: int) -> list[StepSnapshot]:
        found = [e for e in self.events if isinstance(e, StepSnapshot)]
        return [s for s in found if (s.id.run_id, s.id.branch_id) == (run_id, branch_id)]

    def branch(self, branch_id: int, position: int, **how: object) -> tuple[BranchStarted, list[StepSnapshot]]:
        self.submit(StartBranch(1, branch_id, position, **how))  # type: ignore[arg-type]
        started = self.until(lambda e: isinstance(e, BranchStarted) and e.branch_id == branch_id)
        self.until_ended(branch_id)
        assert isinstance(started, BranchStarted)
        return started, self.steps(1, branch_id)

    def until_ended(self, branch_id: int) -> RunFinished:
        def ended(e: object) -> bool:
            return isinstance(e, RunFinished) and e.branch_id == branch_id

        found = next((e for e in self.events[: self.at] if ended(e)), None) or self.until(ended)
        assert isinstance(found, RunFinished)
        return found

    def refused(self) -> str:
        event = self.until_type(CommandRefused)
        assert isinstance(event, CommandRefused)
        return event.error.message

    def held(self, wanted: object = lambda held: True) -> dict[int, BranchMemory]:
        event = self.until(lambda e: isinstance(e, BranchesHeld) and wanted(e))  # type: ignore[operator]
        assert isinstance(event, BranchesHeld)
        return {one.branch_id: one for one in event.branches}

    def view(self, query: ViewQuery) -> Answered:
        self.asked += 1
        self.submit(Ask("view", self.asked, query))
        answer = self.until(lambda e: isinstance(e, Answered) and e.generation == self.asked)
        assert isinstance(answer, Answered)
        return answer

    def length(self) -> int:
        """Tokens of the prompt."""
        return next(len(e.rows[0].token_ids) for e in self.events if isinstance(e, RunStarted))


@pytest.fixture(scope="module")
def shared() -> Iterator[Forest]:
    forest = Forest()
    forest.submit(LoadModel(MODEL, 1))
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    yield forest
    assert forest.lab.close(10)


@pytest.fixture
def forest(shared: Forest) -> Iterator[Forest]:
    shared.forget()
    yield shared
    shared.submit(StopRun(), Tokenize(10_000, Prompt(text="the end")))
    shared.until(lambda e: isinstance(e, Tokenized) and e.generation == 10_000)


def test_a_branch_says_what_was_reused_and_goes_on_by_itself(forest: Forest) -> None:
    steps = forest.run()
    at = forest.length()
    other = int(steps[7].top.token_ids[3])
    started, own = forest.branch(1, at + 7, token_ids=(other,))
    assert (started.parent, started.position, started.kept_tokens, started.put) == (0, at + 7, 7, (other,))
    assert (started.reused_positions, started.recomputed_positions) == (at + 6, 1)
    assert own[0].put
    assert own[0].token_id == other
    assert [s.id.index for s in own] == list(range(7, 24))
    place = steps[7].top.token_ids.tolist().index(other)
    assert own[0].logprob == pytest.approx(float(steps[7].top.logprob[place]), abs=1e-4)
    finished = forest.until_ended(1)
    assert finished.sequences[0][at : at + 8] == (*(s.token_id for s in steps[:7]), other)
    assert finished.new_tokens == 24


def test_views_of_both_sides_can_be_asked_for(forest: Forest) -> None:
    forest.run()
    forest.branch(1, forest.length() + 4, token_ids=(40,))
    for number, branch_id in enumerate((0, 1), start=1):
        forest.submit(Ask("view", number, AttentionQuery(1, 2, branch_id=branch_id)))
        answer = forest.until_type(Answered)
        assert isinstance(answer, Answered)
        assert answer.error is None
        assert answer.answer is not None
    forest.submit(Ask("view", 3, AttentionQuery(1, 2, branch_id=7)))
    answer = forest.until_type(Answered)
    assert isinstance(answer, Answered)
    assert answer.error is not None


def test_a_branch_that_runs_is_left_paused_and_taken_up_again(forest: Forest) -> None:
    forest.submit(StartRun(1, RunSpec(PROMPT, {**PARAMS, "max_new_tokens": 300}, prefill_chunk=64)))
    forest.until_type(StepSnapshot)
    at = forest.length()
    forest.branch(1, at + 1, params={"max_new_tokens": 10})
    before = len(forest.steps(1, 0))
    assert before < 300
    forest.submit(SwitchBranch(1, 0))
    switched = forest.until_type(BranchSwitched)
    assert isinstance(switched, BranchSwitched)
    assert switched.recomputed_positions == 0
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    forest.submit(ResumeRun(max_steps=2))
    forest.until(lambda e: isinstance(e, StepSnapshot) and e.id.index == before + 1)
    forest.submit(StopRun())
    assert forest.until_ended(0).finish_reason == "cancelled"
    indices = [s.id.index for s in forest.steps(1, 0)]
    assert indices == list(range(len(indices)))


def test_a_rewind_waits_and_what_is_put_there_comes_before_the_pause(forest: Forest) -> None:
    forest.run()
    at = forest.length()
    forest.submit(StartBranch(1, 1, at + 5, max_steps=0))
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    assert forest.steps(1, 1) == []
    forest.submit(StartBranch(1, 2, at + 5, parent=1, text=" the king and the queen", max_steps=0))
    forest.until(lambda e: isinstance(e, BranchStarted) and e.branch_id == 2)
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    own = forest.steps(1, 2)
    assert len(own) > 3
    assert all(step.put for step in own)
    assert "".join(step.text for step in own) == " the king and the queen"
    forest.submit(ResumeRun())
    assert forest.until_ended(2).new_tokens == 24


def test_the_branch_used_longest_ago_gives_its_cache_up_and_is_fed_again_on_return(forest: Forest) -> None:
    forest.run(branch_budget_bytes=700_000)
    at = forest.length()
    forest.branch(1, at + 2, token_ids=(40,))
    forest.branch(2, at + 3, token_ids=(41,))
    held = forest.held(lambda e: len(e.branches) == 3)
    assert not held[0].cached
    assert held[2].cached
    assert held[0].cache_bytes == 0
    forest.submit(SwitchBranch(1, 0))
    switched = forest.until_type(BranchSwitched)
    assert isinstance(switched, BranchSwitched)
    assert switched.recomputed_positions > 0
    assert switched.reused_positions + switched.recomputed_positions == at + 23
    progress = forest.until(lambda e: isinstance(e, PrefillProgress) and e.done == e.total)
    assert isinstance(progress, PrefillProgress)
    assert progress.branch_id == 0
    forest.submit(Ask("view", 1, AttentionQuery(1, 1)))
    answer = forest.until_type(Answered)
    assert isinstance(answer, Answered)
    assert answer.error is None


def test_a_dropped_branch_holds_nothing_and_can_be_gone_back_to(forest: Forest) -> None:
    forest.run()
    at = forest.length()
    forest.branch(1, at + 9)
    forest.branch(2, at + 12, parent=1, token_ids=(50,))
    forest.submit(DropBranch(1, 1))
    held = forest.held(lambda e: not e.branches[1].cached)
    assert held[1].cache_bytes == 0
    assert held[1].record_bytes < held[2].record_bytes  # the last part of them; its child needs the rest
    forest.submit(DropBranch(1, 2))
    assert "in use" in forest.refused()
    forest.submit(SwitchBranch(1, 1))
    forest.until(lambda e: isinstance(e, PrefillProgress) and e.done == e.total)
    forest.submit(Ask("view", 1, AttentionQuery(1, 1, branch_id=1, rows=(at + 15, at + 20))))
    answer = forest.until_type(Answered)
    assert isinstance(answer, Answered)
    assert answer.error is None


def test_a_run_before_the_newest_one_can_be_gone_back_to_as_tokens(forest: Forest) -> None:
    first = forest.run(1)
    forest.branch(7, forest.length() + 12, token_ids=(40,))
    forest.submit(StartRun(2, RunSpec((Prompt(text="The queen"),), PARAMS)))
    forest.until(lambda e: isinstance(e, RunFinished) and e.run_id == 2)
    forest.submit(SwitchBranch(1, 7))
    forest.until(lambda e: isinstance(e, PrefillProgress) and e.done == e.total and e.branch_id == 7)
    forest.submit(Ask("view", 1, AttentionQuery(1, 1, branch_id=7)))  # all of it, also what it had shared
    answer = forest.until_type(Answered)
    assert isinstance(answer, Answered)
    assert answer.error is None
    forest.submit(SwitchBranch(1, 0))
    switched = forest.until_type(BranchSwitched)
    assert isinstance(switched, BranchSwitched)
    assert switched.reused_positions == 0  # its records were given up, too
    assert switched.recomputed_positions == forest.length() + 23
    forest.until(lambda e: isinstance(e, PrefillProgress) and e.done == e.total)
    _, again = forest.branch(1, forest.length() + 10)
    assert [s.token_id for s in again] == [s.token_id for s in first[10:]]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (StartBranch(1, 0, 5), "a branch 0 already"),
        (StartBranch(1, 1, 5, parent=4), "no branch 4"),
        (StartBranch(9, 1, 5), "no branch 0 of this run"),
        (StartBranch(1, 1, 10_000), "no position 10,000"),
        (StartBranch(1, 1, 9, token_ids=(4096,)), "4096 does not exist"),
        (StartBranch(1, 1, 9, params={"temperature": "hot"}), "temperature"),
        (SwitchBranch(1, 3), "no branch 3"),
        (DropBranch(1, 3), "no branch 3"),
    ],
)
def test_what_cannot_be_is_refused_and_the_run_goes_on(forest: Forest, command: object, says: str) -> None:
    forest.submit(StartRun(1, RunSpec(PROMPT, PARAMS, prefill_chunk=64, max_steps=3)))
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    forest.submit(command)  # type: ignore[arg-type]
    assert says in forest.refused()
    forest.submit(ResumeRun())
    assert forest.until_ended(0).new_tokens == 24


def test_a_pause_between_branches_does_not_count_as_time(forest: Forest) -> None:
    forest.submit(StartRun(1, RunSpec(PROMPT, PARAMS | {"max_time": 30.0}, prefill_chunk=64, max_steps=4)))
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    forest.submit(PauseRun())
    forest.branch(1, forest.length() + 2)
    forest.submit(SwitchBranch(1, 0), ResumeRun())
    assert forest.until_ended(0).finish_reason == "length"


def test_a_batch_that_was_left_running_is_ended_by_the_next_run(forest: Forest) -> None:
    prompts = (Prompt(text="Once upon a time"), Prompt(text="The queen"))
    forest.submit(StartRun(1, RunSpec(prompts, {**PARAMS, "max_new_tokens": 300}, prefill_chunk=64, max_steps=6)))
    forest.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    started, own = forest.branch(1, 2 + 4, row=1, params={"max_new_tokens": 12})
    assert started.padding == 2
    assert started.row == 1
    assert [s.id.index for s in own] == list(range(4, 12))
    forest.run(2)
    left = forest.until_ended(0)
    assert (left.run_id, left.finish_reason) == (1, "cancelled")
    assert forest.events.index(left) < next(
        n for n, e in enumerate(forest.events) if isinstance(e, RunStarted) and e.run_id == 2
    )


def test_a_batch_that_was_given_up_says_so_and_its_rows_can_be_computed_again(forest: Forest) -> None:
    prompts = (Prompt(text="Once upon a time"), Prompt(text="The queen"))
    forest.submit(StartRun(1, RunSpec(prompts, PARAMS, prefill_chunk=64)))
    forest.until_ended(0)
    query = AttentionQuery(1, 1, row=1, rows=(8, 12))
    before = forest.view(query)
    assert before.answer is not None
    forest.run(2)
    forest.submit(SwitchBranch(1, 0))
    switched = forest.until_type(BranchSwitched)
    assert isinstance(switched, BranchSwitched)
    assert (switched.given_up, switched.recomputed_positions) == (True, 0)
    declined = forest.view(query)
    assert declined.error is not None
    assert "given up" in declined.error.message
    assert declined.can_recompute
    again = forest.view(replace(query, recompute=True))
    assert isinstance(again.answer, AttentionAnswer)
    assert isinstance(before.answer, AttentionAnswer)
    assert abs(again.answer.weights - before.answer.weights).max() < 1e-4
    assert forest.view(WalkQuery(1, (9, 10), row=1)).error is None
    forest.submit(StartBranch(1, 1, forest.length() + 4, row=0, params={"max_new_tokens": 8}))
    forest.until_ended(1)
    held = forest.held(lambda e: e.run_id == 1 and len(e.branches) == 2)
    assert (held[0].cached, held[1].cached) == (False, True)
    assert forest.view(AttentionQuery(1, 1, branch_id=1)).error is None
