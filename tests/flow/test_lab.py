"""The worker through its lab, on tiny-gpt2: commands in, events out, in every order a user can think of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.contract import (
    Answered,
    Ask,
    AttentionQuery,
    CancelLoad,
    Command,
    CommandRefused,
    Event,
    LoadFailed,
    LoadModel,
    ModelReady,
    ModelSpec,
    ParamsApplied,
    PauseRun,
    PrefillProgress,
    Prompt,
    ResumeRun,
    RunFinished,
    RunSpec,
    RunStarted,
    SetParams,
    StartRun,
    StateChanged,
    StepSnapshot,
    StopRun,
    ThumbnailQuery,
    Tokenize,
    Tokenized,
    WorkerState,
)
from core.lab import Lab

PATIENCE_S = 60.0
MODEL = ModelSpec("tiny-gpt2", device="cpu", dtype="fp32")
PROMPT = (Prompt(text="Once upon a time there was a little"),)


class Desk:
    """A lab and everything it has said."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.events: list[Event] = []
        self._runs = itertools.count(1)

    def submit(self, *commands: Command) -> None:
        for command in commands:
            self.lab.submit(command)

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Drain until an event not seen before is the wanted one; later events stay unread in `events`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            batch = self.lab.drain()
            self.events += batch
            for event in batch:
                if wanted(event):
                    return event
            time.sleep(0.002)
        raise AssertionError(f"waited {PATIENCE_S} s; last events: {self.events[-5:]}")

    def until_type(self, kind: type) -> Event:
        return self.until(lambda event: isinstance(event, kind))

    def start(self, max_steps: int | None = None, prompts: tuple[Prompt, ...] = PROMPT, **params: object) -> int:
        run_id = next(self._runs)
        spec = RunSpec(prompts=prompts, params={"eos_token_id": (), **params}, max_steps=max_steps, prefill_chunk=64)
        self.submit(StartRun(run_id, spec))
        return run_id

    def steps(self, run_id: int) -> list[StepSnapshot]:
        return [e for e in self.events if isinstance(e, StepSnapshot) and e.id.run_id == run_id]


@pytest.fixture(scope="module")
def shared() -> Iterator[Desk]:
    desk = Desk()
    desk.submit(LoadModel(MODEL, 1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    desk.events.clear()
    yield desk
    assert desk.lab.close(10)


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    yield shared
    shared.submit(StopRun(), Tokenize(10_000, Prompt(text="the end")))
    shared.until(lambda e: isinstance(e, Tokenized) and e.generation == 10_000)
    shared.events.clear()


def test_a_run_streams_from_start_to_finish(desk: Desk) -> None:
    run_id = desk.start(max_new_tokens=12)
    finished = desk.until_type(RunFinished)
    steps = desk.steps(run_id)
    assert isinstance(finished, RunFinished)
    assert [s.id.index for s in steps] == list(range(12))
    assert "".join(s.text for s in steps) == finished.texts[0]
    assert finished.finish_reason == "length"
    assert steps[-1].finish_reason == "length"
    kinds = [type(e) for e in desk.events]
    assert kinds.index(RunStarted) < kinds.index(PrefillProgress) < kinds.index(StepSnapshot)


def test_states_are_told_in_order(desk: Desk) -> None:
    desk.start(max_new_tokens=3)
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    states = [e.state for e in desk.events if isinstance(e, StateChanged)]
    assert states == [WorkerState.PREFILL, WorkerState.DECODING, WorkerState.READY]


def test_pause_step_and_resume(desk: Desk) -> None:
    run_id = desk.start(max_new_tokens=30)
    desk.until_type(StepSnapshot)
    desk.submit(PauseRun())
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    paused_at = len(desk.steps(run_id))
    assert paused_at < 30
    desk.submit(ResumeRun(max_steps=1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    assert len(desk.steps(run_id)) == paused_at + 1
    desk.submit(ResumeRun())
    desk.until_type(RunFinished)
    assert len(desk.steps(run_id)) == 30


def test_starting_with_a_step_limit_pauses_by_itself(desk: Desk) -> None:
    run_id = desk.start(max_steps=2, max_new_tokens=30)
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    assert len(desk.steps(run_id)) == 2


def test_stop_keeps_what_was_generated(desk: Desk) -> None:
    run_id = desk.start(max_new_tokens=400)
    desk.until_type(StepSnapshot)
    desk.submit(StopRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.finish_reason == "cancelled"
    assert finished.new_tokens == len(desk.steps(run_id)) < 400
    assert finished.texts[0] == "".join(s.text for s in desk.steps(run_id)) or finished.texts[0].endswith("�")


def test_stop_breaks_off_a_prefill_and_the_next_run_is_unharmed(desk: Desk) -> None:
    long = (Prompt(ids=tuple(range(1, 500))),)
    desk.start(prompts=long)
    desk.until_type(PrefillProgress)
    desk.submit(StopRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.finish_reason == "cancelled"
    run_id = desk.start(max_new_tokens=2)
    desk.until_type(RunFinished)
    assert len(desk.steps(run_id)) == 2


def test_a_new_run_replaces_the_one_in_progress(desk: Desk) -> None:
    first = desk.start(max_new_tokens=400)
    desk.until_type(StepSnapshot)
    second = desk.start(max_new_tokens=3)
    desk.until(lambda e: isinstance(e, RunFinished) and e.run_id == second)
    ended = {e.run_id: e.finish_reason for e in desk.events if isinstance(e, RunFinished)}
    assert ended == {first: "cancelled", second: "length"}


def test_parameters_change_at_the_next_token_under_their_epoch(desk: Desk) -> None:
    run_id = desk.start(max_steps=3, do_sample=True, temperature=1.0, max_new_tokens=10)
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    desk.submit(SetParams({"temperature": 0.25}, 9), ResumeRun())
    desk.until_type(RunFinished)
    applied = next(e for e in desk.events if isinstance(e, ParamsApplied))
    assert (applied.index, applied.changed, applied.params.temperature) == (3, ("temperature",), 0.25)
    assert [s.id.epoch for s in desk.steps(run_id)] == [0] * 3 + [9] * 7


def test_a_refused_parameter_leaves_the_run_going(desk: Desk) -> None:
    desk.start(max_steps=1, max_new_tokens=3)
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    desk.submit(SetParams({"temperature": -1.0}, 4), ResumeRun())
    desk.until_type(RunFinished)
    refused = next(e for e in desk.events if isinstance(e, CommandRefused))
    assert refused.epoch == 4
    assert "temperature cannot be -1" in refused.error.message


def test_views_are_answered_while_decoding_and_afterwards(desk: Desk) -> None:
    run_id = desk.start(max_new_tokens=40)
    desk.until_type(StepSnapshot)
    desk.submit(Ask("focus", 1, AttentionQuery(run_id, layer=0)), Ask("thumbs", 1, ThumbnailQuery(run_id, (0, 1))))
    desk.until_type(RunFinished)
    desk.submit(Ask("focus", 2, AttentionQuery(run_id, layer=0, reduce="mean")))
    answer = desk.until(lambda e: isinstance(e, Answered) and e.slot == "focus" and e.generation == 2)
    assert isinstance(answer, Answered)
    fed = len(desk.events) and answer.answer.rows[1]
    assert answer.answer.weights.shape == (1, fed, fed)


def test_a_view_of_a_forgotten_run_says_so(desk: Desk) -> None:
    desk.submit(Ask("focus", 1, AttentionQuery(run_id=99_999, layer=0)))
    answer = desk.until_type(Answered)
    assert isinstance(answer, Answered)
    assert answer.answer is None
    assert "no longer held" in answer.error.message


def test_only_the_newest_draft_is_tokenised(desk: Desk) -> None:
    desk.submit(*(Tokenize(n, Prompt(text="a " * n)) for n in range(1, 40)))
    newest = desk.until(lambda e: isinstance(e, Tokenized) and e.generation == 39)
    assert isinstance(newest, Tokenized)
    assert newest.row.rendered == "a " * 39


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(desk: Desk) -> None:
    desk.start(prompts=(Prompt(ids=(5,) * 513),))
    refused = desk.until_type(CommandRefused)
    assert isinstance(refused, CommandRefused)
    assert "513" in refused.error.message
    assert "512" in refused.error.message


def test_a_failed_load_keeps_the_model_in_use(desk: Desk, tmp_path: Path) -> None:
    desk.submit(LoadModel(ModelSpec(str(tmp_path)), 7))
    failed = desk.until_type(LoadFailed)
    assert isinstance(failed, LoadFailed)
    assert failed.kept
    run_id = desk.start(max_new_tokens=2)
    desk.until_type(RunFinished)
    assert len(desk.steps(run_id)) == 2


def test_a_cancelled_load_keeps_the_model_in_use(desk: Desk) -> None:
    desk.submit(LoadModel(MODEL, 8), CancelLoad())
    failed = desk.until(lambda e: isinstance(e, LoadFailed | ModelReady))
    assert isinstance(failed, LoadFailed)
    assert failed.error.code == "load_cancelled"


def test_closing_ends_the_thread_in_every_state() -> None:
    lab = Lab()
    assert lab.close(30)  # while torch may still be imported
    lab = Lab()
    lab.submit(LoadModel(MODEL, 1))
    lab.submit(StartRun(1, RunSpec(prompts=(Prompt(ids=tuple(range(1, 500))),))))
    assert lab.close(30)
    lab.submit(StopRun())
    assert lab.drain() is not None


def test_pauses_do_not_count_against_the_speed(desk: Desk) -> None:
    """Neither one between tokens nor one that ends with a stop."""
    desk.start(max_steps=3, max_new_tokens=50)
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    time.sleep(0.3)  # the pause under test
    desk.submit(ResumeRun(max_steps=1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)
    time.sleep(0.3)
    desk.submit(ResumeRun(max_steps=0), StopRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.tokens_per_s is not None
    steps = [e for e in desk.events if isinstance(e, StepSnapshot)]
    worked_s = sum(step.timing.step_ms for step in steps[1:]) / 1e3
    assert (len(steps) - 1) / finished.tokens_per_s < worked_s + 0.15


def test_steps_that_are_asked_for_while_one_is_taken_are_taken_too(desk: Desk) -> None:
    run_id = desk.start(max_steps=1, max_new_tokens=20)
    desk.submit(ResumeRun(max_steps=1), ResumeRun(max_steps=1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED and len(desk.steps(run_id)) >= 3)
    desk.submit(ResumeRun(max_steps=1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED and len(desk.steps(run_id)) >= 4)
    desk.submit(StopRun())
    desk.until_type(RunFinished)
    assert len(desk.steps(run_id)) == 4
