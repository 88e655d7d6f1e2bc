"""Twins through the worker, on tiny models: two branches in lockstep, each what a run of its own would be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contract import (
    Answered,
    Ask,
    BranchesGone,
    BranchesHeld,
    BranchStarted,
    CommandRefused,
    CompareAnswer,
    CompareQuery,
    DropBranch,
    EndTwin,
    LoadModel,
    ModelSpec,
    ParamsApplied,
    PauseRun,
    ResumeRun,
    RunFinished,
    RunSpec,
    RunStarted,
    SetParams,
    StartBranch,
    StartRun,
    StartTwin,
    StateChanged,
    StepSnapshot,
    StopRun,
    SwitchBranch,
    WorkerState,
)
from tests.flow.test_lab import MODEL, PROMPT, Desk
from tests.models import build_gpt2

HOT, COOL = 1.4, 0.7
PARAMS: dict[str, Any] = {"eos_token_id": (), "max_new_tokens": 24, "do_sample": True, "temperature": COOL}

_ids = itertools.count(1)


class Pair(Desk):
    """A desk that knows which branch said what."""

    def start_run(self, max_steps: int | None = None, **params: object) -> int:
        run_id = next(_ids)
        self.submit(StartRun(run_id, RunSpec(PROMPT, {**PARAMS, **params}, seed=5, max_steps=max_steps)))
        return run_id

    def of(self, run_id: int, branch_id: int) -> list[StepSnapshot]:
        return [step for step in self.steps(run_id) if step.id.branch_id == branch_id]

    def tokens(self, run_id: int, branch_id: int) -> list[int]:
        return [step.token_id for step in self.of(run_id, branch_id)]

    def found(self, kind: type, run_id: int) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and e.run_id == run_id]

    def state(self) -> WorkerState:
        return next(e.state for e in reversed(self.events) if isinstance(e, StateChanged))

    def wait(self, condition: Callable[[], bool]) -> None:
        if not condition():
            self.until(lambda _event: condition())

    def paused(self) -> None:
        self.wait(lambda: self.state() is WorkerState.PAUSED)

    def both_end(self, run_id: int) -> dict[int, RunFinished]:
        self.wait(lambda: len(self.found(RunFinished, run_id)) == 2)
        return {e.branch_id: e for e in self.found(RunFinished, run_id)}

    def refused(self) -> CommandRefused:
        event = self.until(lambda e: isinstance(e, CommandRefused))
        assert isinstance(event, CommandRefused)
        return event


@pytest.fixture(scope="module")
def desk() -> Iterator[Pair]:
    desk = Pair()
    desk.submit(LoadModel(MODEL, 1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    yield desk
    assert desk.lab.close(10)


@pytest.fixture(scope="module")
def alone(desk: Pair) -> Callable[..., list[int]]:
    """The tokens of a run that never had a twin."""

    def tokens(**params: object) -> list[int]:
        run_id = desk.start_run(**params)
        desk.wait(lambda: bool(desk.found(RunFinished, run_id)))
        return desk.tokens(run_id, 0)

    return tokens


def test_both_sides_say_what_runs_of_their_own_would(desk: Pair, alone: Callable[..., list[int]]) -> None:
    run_id = desk.start_run()
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    ends = desk.both_end(run_id)
    cool, hot = desk.tokens(run_id, 0), desk.tokens(run_id, 1)
    assert (cool, hot) == (alone(), alone(temperature=HOT))
    assert cool != hot
    assert [s.u for s in desk.of(run_id, 0)] == [s.u for s in desk.of(run_id, 1)]
    assert {end.finish_reason for end in ends.values()} == {"length"}
    assert all(end.tokens_per_s for end in ends.values())


def test_they_go_on_in_lockstep(desk: Pair) -> None:
    run_id = desk.start_run()
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    desk.both_end(run_id)
    order = [step.id.branch_id for step in desk.steps(run_id)]
    # What the run had said before the twin began is caught up with; then one step each.
    ahead = order.index(1)
    assert order[-2 * (24 - ahead) :] == [0, 1] * (24 - ahead)
    started = desk.found(BranchStarted, run_id)[0]
    assert (started.beside, started.kept_tokens, started.model) == (0, 0, None)
    assert started.recomputed_positions == 1  # the rest of the prompt is shared


def test_a_twin_catches_up_with_a_run_that_is_ahead(desk: Pair) -> None:
    run_id = desk.start_run(max_steps=6)
    desk.paused()
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}, max_steps=6))
    desk.wait(lambda: len(desk.of(run_id, 1)) == 6)
    desk.paused()
    assert len(desk.of(run_id, 0)) == 6
    desk.submit(ResumeRun(max_steps=2))
    desk.wait(lambda: len(desk.of(run_id, 1)) == 8)
    desk.paused()
    assert [s.id.branch_id for s in desk.steps(run_id)][-4:] == [0, 1, 0, 1]
    desk.submit(StopRun())
    ends = desk.both_end(run_id)
    assert {end.finish_reason for end in ends.values()} == {"cancelled"}


def test_a_branch_that_was_just_rewound_has_its_twin_at_once(desk: Pair, alone: Callable[..., list[int]]) -> None:
    run_id = desk.start_run()
    desk.wait(lambda: bool(desk.found(RunFinished, run_id)))
    prompt = len(desk.found(RunStarted, run_id)[0].rows[0].token_ids)
    desk.submit(StartBranch(run_id, 1, position=prompt + 5, max_steps=0))
    desk.paused()  # its last token is still to be fed
    desk.submit(StartTwin(run_id, 2, beside=1, position=prompt + 3, params={"temperature": HOT}, max_steps=2))
    desk.wait(lambda: len(desk.of(run_id, 2)) == 2)
    desk.paused()
    assert desk.of(run_id, 1) == []
    desk.submit(ResumeRun(max_steps=1))
    desk.wait(lambda: len(desk.of(run_id, 2)) == 3)
    desk.paused()
    assert desk.tokens(run_id, 1) == [alone()[5]]
    desk.submit(StopRun())
    desk.wait(lambda: len(desk.found(RunFinished, run_id)) == 3)


def test_a_pause_leaves_both_at_the_same_step(desk: Pair) -> None:
    run_id = desk.start_run(max_new_tokens=400)
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    desk.wait(lambda: len(desk.of(run_id, 1)) > 20)
    for _ in range(4):
        desk.submit(PauseRun())
        desk.paused()
        assert len(desk.of(run_id, 0)) == len(desk.of(run_id, 1))
        seen = len(desk.of(run_id, 1))
        desk.submit(ResumeRun())
        desk.wait(lambda seen=seen: len(desk.of(run_id, 1)) > seen)
    desk.submit(StopRun())
    desk.both_end(run_id)


def test_one_that_ends_earlier_lets_the_other_go_on(desk: Pair, alone: Callable[..., list[int]]) -> None:
    ending = alone()[4]
    run_id = desk.start_run()
    desk.submit(StartTwin(run_id, 1, params={"eos_token_id": (ending,)}))
    ends = desk.both_end(run_id)
    assert (ends[1].finish_reason, ends[0].finish_reason) == ("stop", "length")
    assert [len(desk.tokens(run_id, b)) for b in (1, 0)] == [alone().index(ending) + 1, 24]
    desk.wait(lambda: desk.state() is WorkerState.READY)


def test_changes_are_for_both_and_what_differs_for_the_side_in_use(desk: Pair) -> None:
    run_id = desk.start_run(max_steps=3)
    desk.paused()
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}, max_steps=3))
    desk.wait(lambda: len(desk.of(run_id, 1)) == 3)
    desk.paused()
    desk.submit(SetParams({"top_k": 7, "temperature": 0.3}, 1))
    desk.wait(lambda: len(desk.found(ParamsApplied, run_id)) == 2)
    ours, theirs = (next(e for e in desk.found(ParamsApplied, run_id) if e.branch_id == b) for b in (0, 1))
    assert (ours.params.top_k, ours.params.temperature) == (7, 0.3)
    assert (theirs.params.top_k, theirs.params.temperature) == (7, HOT)
    desk.submit(SwitchBranch(run_id, 1), SetParams({"temperature": 2.0}, 2))
    desk.wait(lambda: len(desk.found(ParamsApplied, run_id)) == 3)
    assert desk.found(ParamsApplied, run_id)[-1].branch_id == 1
    desk.submit(StopRun())
    desk.both_end(run_id)


def test_switching_sides_stops_nothing_and_another_branch_pauses_both(desk: Pair) -> None:
    run_id = desk.start_run(max_new_tokens=300)
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    desk.wait(lambda: len(desk.of(run_id, 1)) > 5)
    desk.submit(SwitchBranch(run_id, 1))
    seen = len(desk.of(run_id, 0))
    desk.wait(lambda: len(desk.of(run_id, 0)) > seen + 5)
    desk.submit(StartBranch(run_id, 2, position=len(PROMPT[0].text or "") // 4, parent=0, max_steps=0))
    desk.paused()
    counts = [len(desk.of(run_id, b)) for b in (0, 1)]
    desk.submit(SwitchBranch(run_id, 0), ResumeRun(max_steps=3))
    desk.wait(lambda: len(desk.of(run_id, 1)) >= counts[1] + 3)
    desk.paused()
    assert len(desk.of(run_id, 0)) == len(desk.of(run_id, 1))
    desk.submit(StopRun())
    desk.both_end(run_id)


def test_one_side_can_be_dropped_or_let_go(desk: Pair) -> None:
    run_id = desk.start_run(max_new_tokens=200)
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    desk.wait(lambda: len(desk.of(run_id, 1)) > 3)
    desk.submit(EndTwin(run_id))
    desk.wait(lambda: bool(desk.found(RunFinished, run_id)))
    assert [e.branch_id for e in desk.found(RunFinished, run_id)] == [0]
    assert len(desk.of(run_id, 1)) < 200
    desk.submit(StartTwin(run_id, 2, params={"temperature": HOT}))
    desk.wait(lambda: len(desk.of(run_id, 2)) > 3)
    desk.submit(DropBranch(run_id, 2))
    desk.wait(lambda: desk.state() is WorkerState.READY)
    assert len(desk.of(run_id, 2)) < 200


def test_another_precision_and_another_model_feed_the_prompt_themselves(desk: Pair, tmp_path: Path) -> None:
    run_id = desk.start_run(max_steps=4)
    desk.paused()
    spec = ModelSpec("tiny-gpt2", device="cpu", dtype="bf16")
    desk.submit(StartTwin(run_id, 1, model=spec, max_steps=4))
    desk.wait(lambda: len(desk.of(run_id, 1)) == 4)
    started = desk.found(BranchStarted, run_id)[0]
    assert (getattr(started.model, "dtype", None), started.reused_positions) == ("bf16", 0)
    desk.submit(Ask("compare", 1, CompareQuery(run_id, 1, final=False)))
    answered = desk.until_type(Answered)
    assert isinstance(answered, Answered)
    assert isinstance(answered.answer, CompareAnswer)
    assert 0 < float(answered.answer.kl_bits[0]) < 0.1  # rounding, nothing else
    desk.submit(StopRun())
    desk.both_end(run_id)
    desk.wait(lambda: all(one.cache_bytes > 0 for one in desk.found(BranchesHeld, run_id)[-1].branches))
    assert len(desk.found(BranchesHeld, run_id)[-1].branches) == 2  # of their own, both counted
    foreign = ModelSpec(str(build_gpt2(tmp_path / "foreign")), device="cpu", dtype="fp32")
    desk.submit(StartTwin(run_id, 2, model=foreign))
    assert "their vocabularies differ" in desk.refused().error.message
    assert desk.found(BranchesGone, run_id) == []  # the first one is still beside the branch in use


def test_a_further_model_takes_the_place_of_the_other_one_and_its_branches_are_gone(desk: Pair) -> None:
    run_id = desk.start_run()
    desk.submit(StartTwin(run_id, 1, model=ModelSpec("tiny-gpt2", device="cpu", dtype="bf16")))
    desk.both_end(run_id)
    desk.submit(StartBranch(run_id, 2, position=12, parent=0, reroll=3))
    desk.wait(lambda: len(desk.found(RunFinished, run_id)) == 3)
    desk.submit(StartTwin(run_id, 3, beside=2, model=ModelSpec("tiny-gpt2", device="cpu", dtype="auto")))
    desk.wait(lambda: len(desk.found(RunFinished, run_id)) == 4)
    assert [gone.branch_ids for gone in desk.found(BranchesGone, run_id)] == [(1,)]
    desk.submit(SwitchBranch(run_id, 1))
    assert "no branch 1" in desk.refused().error.message


def test_beams_and_the_inside_of_the_prompt_are_refused_with_the_reason(desk: Pair) -> None:
    run_id = desk.start_run(num_beams=3, do_sample=False, temperature=1.0)
    desk.wait(lambda: bool(desk.found(RunFinished, run_id)))
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}))
    assert "Beams are chosen together" in desk.refused().error.message
    run_id = desk.start_run(max_steps=2)
    desk.paused()
    desk.submit(StartTwin(run_id, 1, position=1, params={"temperature": HOT}))
    assert "has all of the prompt" in desk.refused().error.message
    desk.submit(StartTwin(run_id, 1, params={"num_beams": 2}))
    assert "Beams are chosen together" in desk.refused().error.message
    desk.submit(StopRun())
    desk.wait(lambda: bool(desk.found(RunFinished, run_id)))


def test_a_run_that_ends_before_its_twin_begins_says_so(desk: Pair) -> None:
    run_id = desk.start_run(max_new_tokens=300)
    desk.submit(StartTwin(run_id, 1, params={"temperature": HOT}), StopRun())
    refused = desk.refused()
    assert refused.command == "StartTwin"
    desk.wait(lambda: desk.state() is WorkerState.READY)
    assert np.isfinite(len(desk.of(run_id, 0)))
