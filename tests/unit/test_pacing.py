"""The reading speed: order kept, nothing lost, the model never slowed."""

from __future__ import annotations

import pytest

from app.pacing import Pacer
from core.contract import (
    BranchesHeld,
    BranchSwitched,
    Event,
    GenerationParams,
    Hypothesis,
    HypothesisEnded,
    ParamsApplied,
    PrefillProgress,
    RunFinished,
    RunStarted,
    StateChanged,
    StepSnapshot,
    Vitals,
    WorkerState,
)
from tests.ui.fake_lab import snapshot

FINISH = RunFinished(1, "length", ("length",), ("",), ((),), (3,), 20, 1.0, 1.0)
READY = StateChanged(WorkerState.READY)


def steps(start: int, stop: int) -> list[Event]:
    return [snapshot(1, index, 3, "x") for index in range(start, stop)]


def shown(events: list[Event]) -> int:
    return sum(isinstance(e, StepSnapshot) for e in events)


@pytest.mark.parametrize("limit", [5.0, 10.0, 20.0, 40.0])
def test_tokens_come_at_the_speed_asked_for(limit: float) -> None:
    pacer = Pacer()
    count = shown(pacer.take(steps(0, 500), limit, False, 0.0))
    for frame in range(1, 61):
        count += shown(pacer.take([], limit, False, frame / 30))
    assert count == pytest.approx(2 * limit, abs=2)
    assert pacer.waiting == 500 - count


def test_the_end_never_overtakes_the_tokens_before_it_and_nothing_is_lost() -> None:
    pacer = Pacer()
    sent = [*steps(0, 20), FINISH, READY]
    got = pacer.take(sent, 10.0, False, 0.0)
    assert pacer.ended
    for frame in range(1, 200):
        got += pacer.take([], 10.0, False, frame / 30)
    assert got == sent
    assert not pacer.ended


def test_other_events_pass_at_once() -> None:
    pacer = Pacer()
    pacer.take(steps(0, 20), 5.0, False, 0.0)
    others = [Vitals(1, 0.1, 10), StateChanged(WorkerState.PAUSED)]
    assert pacer.take(others, 5.0, False, 0.01) == others


def test_another_branch_shows_what_was_held_back_of_the_one_before() -> None:
    pacer = Pacer()
    pacer.take(steps(0, 20), 5.0, False, 0.0)
    switched = BranchSwitched(1, 1, 9, 0)
    got = pacer.take([switched, *steps(3, 8)], 5.0, False, 0.01)
    assert shown(got[: got.index(switched)]) == 19
    assert shown(got[got.index(switched) :]) < 5  # its own come at the speed asked for again


def test_without_a_limit_everything_is_shown() -> None:
    pacer = Pacer()
    pacer.take(steps(0, 20), 5.0, False, 0.0)
    assert shown(pacer.take(steps(20, 30), None, False, 0.0)) == 29
    assert pacer.waiting == 0


def test_hurry_shows_the_rest_until_the_next_run_starts() -> None:
    pacer = Pacer()
    pacer.take(steps(0, 20), 5.0, False, 0.0)
    pacer.hurry = True
    assert shown(pacer.take([FINISH, READY], 5.0, False, 0.0)) == 19
    started = RunStarted.__new__(RunStarted)
    got = pacer.take([started, *steps(0, 10)], 5.0, False, 10.0)
    assert got[0] is started
    assert shown(got) <= 1


def test_paused_shows_only_what_is_stepped() -> None:
    pacer = Pacer()
    pacer.take(steps(0, 20), 5.0, True, 0.0)
    assert pacer.take([], 5.0, True, 60.0) == []
    pacer.extra += 1
    assert shown(pacer.take([], 5.0, True, 61.0)) == 1
    assert pacer.take([], 5.0, True, 62.0) == []
    assert pacer.waiting == 19


def test_time_without_tokens_is_not_saved_up() -> None:
    pacer = Pacer()
    pacer.take([], 5.0, False, 0.0)
    assert shown(pacer.take(steps(0, 50), 5.0, False, 100.0)) == 1


def test_nothing_of_a_run_overtakes_the_tokens_held_back() -> None:
    ended = HypothesisEnded(1, 4, Hypothesis(0, 1, 4, -1.0, (1, 2), "xx", True))
    changed = ParamsApplied(1, 1, 5, GenerationParams(), ("top_k",))
    marks: list[Event] = [ended, changed, PrefillProgress(1, 1, 2, 1.0), FINISH]
    sent = [event for n, mark in enumerate(marks) for event in (*steps(5 * n, 5 * n + 5), mark)]
    pacer = Pacer()
    got = pacer.take(sent, 10.0, False, 0.0)
    assert pacer.take([BranchesHeld(1, ())], 10.0, False, 0.0) == [BranchesHeld(1, ())]
    for frame in range(1, 200):
        got += pacer.take([], 10.0, False, frame / 30)
    assert [id(event) for event in got] == [id(event) for event in sent]
