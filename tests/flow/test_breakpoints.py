"""Breakpoints: every kind holds where its condition says, the run waits there, goes on, and a bad one harms nobody."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

import core
from core.contract import (
    AttentionAbove,
    AttentionQuery,
    Breakpoint,
    BreakpointHit,
    BreakpointProblem,
    CacheAbove,
    CommandRefused,
    EntropyAbove,
    EveryTokens,
    InterventionsApplied,
    LoadModel,
    ParameterError,
    ProbabilityBelow,
    RankAbove,
    ResumeRun,
    RunFinished,
    RunSpec,
    RunStarted,
    ScaleHeads,
    SetBreakpoints,
    SetInterventions,
    StartRun,
    StateChanged,
    StepSnapshot,
    TextMatches,
    TokenIn,
    WorkerState,
    break_notation,
    check_breakpoint,
    hit_words,
    parse_breakpoint,
)
from core.models.loaded import LoadedModel
from core.patterns import compile_pattern, match_ending_after
from tests.flow.test_lab import MODEL, PROMPT, Desk
from tests.parity.reference import open_session, prompt_of

KINDS: tuple[Breakpoint, ...] = (
    EntropyAbove(1.5),
    ProbabilityBelow(0.25),
    RankAbove(0),
    TextMatches(r"[.!?]"),
    TokenIn((13, 198)),
    AttentionAbove(1, 2, 0, 0.5),
    CacheAbove(40_000),
    EveryTokens(7),
)


def walk(run: Any, breakpoints: tuple[Breakpoint, ...]) -> tuple[list[StepSnapshot], list[BreakpointHit], list[Any]]:
    run.set_breakpoints(breakpoints)
    events: list[Any] = []
    with run.attached():
        while not run.finished:
            events += run.advance()
    kinds = (StepSnapshot, BreakpointHit, BreakpointProblem)
    steps, hits, problems = ([e for e in events if isinstance(e, kind)] for kind in kinds)
    return steps, hits, problems


@pytest.fixture(scope="module")
def story(tiny_gpt2: LoadedModel) -> tuple[Any, list[StepSnapshot], list[BreakpointHit]]:
    ids = list(tiny_gpt2.text.encode("Once upon a time there was a little dog"))
    run = open_session(tiny_gpt2, [ids], {"max_new_tokens": 60, "do_sample": True, "temperature": 1.2})
    words = (*KINDS[:4], TokenIn((run.loaded.text.encode(".")[0],)), *KINDS[5:])
    steps, hits, problems = walk(run, words)
    assert problems == []
    return run, steps, hits


def of_kind(hits: list[BreakpointHit], kind: type) -> dict[int, Any]:
    return {hit.index: hit.value for hit in hits if isinstance(hit.breakpoint, kind)}


def test_each_kind_holds_exactly_where_its_condition_says(story: Any) -> None:
    run, steps, hits = story
    assert of_kind(hits, EntropyAbove) == {s.id.index: s.entropy_bits for s in steps if s.entropy_bits > 1.5}
    assert of_kind(hits, ProbabilityBelow) == {
        s.id.index: math.exp(s.logprob) for s in steps if math.exp(s.logprob) < 0.25
    }
    assert of_kind(hits, RankAbove) == {s.id.index: s.rank for s in steps if s.rank > 0}
    assert of_kind(hits, EveryTokens) == {i: i + 1 for i in range(6, 60, 7)}
    stops = {s.id.index: s.piece for s in steps if s.piece == "."}
    assert of_kind(hits, TokenIn) == stops
    assert set(of_kind(hits, TextMatches)) == {s.id.index for s in steps if set(s.text) & set(".!?")} >= set(stops)
    first = next(s.id.index for s in steps if s.cache.used_bytes > 40_000)
    assert of_kind(hits, CacheAbove) == {first: steps[first].cache.used_bytes}
    prompt = len(run.prompts[0].token_ids)
    for kind in (EntropyAbove, ProbabilityBelow, RankAbove, TextMatches, TokenIn):
        assert 0 < len(of_kind(hits, kind)) < 60
    weights = run.answer(AttentionQuery(1, 1, (2,))).weights[0]
    expected = {i: w for i in range(60) if (w := weights[prompt - 1 + i, 0]) > 0.5}
    assert of_kind(hits, AttentionAbove) == pytest.approx(expected, abs=1e-5)
    assert all(hit_words(hit.breakpoint, hit.value) for hit in hits)


def test_a_match_counts_where_it_ends_and_not_again(tiny_gpt2: LoadedModel) -> None:
    pattern = compile_pattern(r"ab|bc")
    assert match_ending_after(pattern, "xabc", 3) == "bc"  # begun inside an earlier match
    assert match_ending_after(pattern, "xabc", 4) is None
    assert match_ending_after(pattern, "a" * 5000 + "ab", 5001) == "ab"
    assert match_ending_after(compile_pattern("x*"), "aaa", 2) is None  # an empty match is none


def test_a_pattern_that_takes_forever_is_left_out_and_the_run_goes_on(tiny_gpt2: LoadedModel) -> None:
    run = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], {"max_new_tokens": 40})
    steps, hits, problems = walk(run, (TextMatches(r"(.|..)+[^\x00-\U0010ffff]"), EveryTokens(20)))
    assert len(steps) == 40
    assert [hit.index for hit in hits] == [19, 39]
    assert len(problems) == 1
    assert "took longer than 0.1 s" in problems[0].reason


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (TextMatches("(a"), "cannot be used"),
        (TextMatches(""), "empty"),
        (TextMatches("a" * 1001), "longer than"),
        (AttentionAbove(99, 0, 0, 0.5), "no layer 99"),
        (AttentionAbove(0, 99, 0, 0.5), "no head 99"),
        (EntropyAbove(float("nan")), "at least 0"),
        (ProbabilityBelow(0.0), "above 0"),
        (TokenIn(()), "at least one"),
        (EveryTokens(0), "at least 1"),
    ],
)
def test_a_breakpoint_that_makes_no_sense_is_told_and_the_others_hold(
    tiny_gpt2: LoadedModel, wrong: Breakpoint, words: str
) -> None:
    run = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], {"max_new_tokens": 4})
    [problem] = run.set_breakpoints((wrong, EveryTokens(2)))
    assert words in problem.reason
    with run.attached():
        events = [event for _ in range(3) for event in run.advance()]
    assert [e.index for e in events if isinstance(e, BreakpointHit)] == [1]
    with pytest.raises(ParameterError, match=words):
        core.run("tiny-gpt2", "Once", breakpoints=[wrong], device="cpu", dtype="fp32")


def test_attention_needs_a_record(tiny_gpt2: LoadedModel) -> None:
    run = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], {"max_new_tokens": 3}, trace=False)
    _, hits, [problem] = walk(run, (AttentionAbove(0, 0, 0, 0.0),))
    assert hits == []
    assert "not recorded" in problem.reason


def test_beams_stop_at_their_best_and_rows_at_any(tiny_gpt2: LoadedModel) -> None:
    run = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5)], {"max_new_tokens": 6, "num_beams": 3})
    _, hits, _ = walk(run, (EveryTokens(3), TextMatches(r"\S")))
    assert {hit.beam for hit in hits} == {0}
    assert [h.index for h in hits if isinstance(h.breakpoint, EveryTokens)] == [2, 5]
    run = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 5), prompt_of(tiny_gpt2, 3)], {"max_new_tokens": 3})
    _, hits, _ = walk(run, (EveryTokens(3),))
    assert [(hit.row, hit.index) for hit in hits] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("one", [*KINDS, TextMatches(" two  spaces "), CacheAbove(0), ProbabilityBelow(1e-9)])
def test_notation_reads_what_it_wrote(one: Breakpoint) -> None:
    assert parse_breakpoint(break_notation(one)) == one


@pytest.mark.parametrize(
    "text", ["", "entropy", "entropy>x", "rank>1.5", "every=0", "probability<2", "cache>1TB", "token="]
)
def test_other_texts_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ParameterError, match=r"\.$"):
        parse_breakpoint(text)


def test_sizes_may_have_units() -> None:
    assert parse_breakpoint("cache > 1.5 MB") == CacheAbove(1_500_000)
    check_breakpoint(CacheAbove(1))


def test_a_script_ends_at_a_breakpoint_with_everything_up_to_it(tiny_gpt2: LoadedModel) -> None:
    result = core.run(
        "tiny-gpt2", "Once upon a time", params={"max_new_tokens": 40}, breakpoints=["every=5"], device="cpu",
        dtype="fp32",
    )  # fmt: skip
    assert result.finish_reason == "breakpoint"
    assert len(result.steps) == 5
    assert [hit.breakpoint for hit in result.breakpoints] == [EveryTokens(5)]


# -- the worker


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    one = Desk()
    one.submit(LoadModel(MODEL, 1))
    one.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    yield one
    assert one.lab.close(10)


def start(desk: Desk, run_id: int, *breakpoints: Breakpoint, **params: Any) -> None:
    desk.events.clear()
    spec = RunSpec(PROMPT, {"eos_token_id": (), "max_new_tokens": 12, **params}, breakpoints=breakpoints)
    desk.submit(StartRun(run_id, spec))


def paused(desk: Desk) -> None:
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.PAUSED)


def hits_of(desk: Desk) -> list[int]:
    return [e.index for e in desk.events if isinstance(e, BreakpointHit)]


def test_the_worker_waits_at_a_breakpoint_and_goes_on_from_there(desk: Desk) -> None:
    start(desk, 1, EveryTokens(5))
    paused(desk)
    assert len(desk.steps(1)) == 5
    assert hits_of(desk) == [4]
    desk.submit(ResumeRun(max_steps=1))  # a step does not stop at the same token again
    paused(desk)
    assert len(desk.steps(1)) == 6
    desk.submit(ResumeRun())
    paused(desk)
    assert hits_of(desk) == [4, 9]
    desk.submit(ResumeRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert (finished.finish_reason, finished.new_tokens) == ("length", 12)


def test_breakpoints_and_interventions_can_change_while_the_run_waits(desk: Desk) -> None:
    start(desk, 2, EveryTokens(4))
    paused(desk)
    desk.submit(SetInterventions(2, (ScaleHeads(0, (0, 1)),), 7), SetBreakpoints(2, (TokenIn((1,)), TextMatches("("))))
    applied = desk.until_type(InterventionsApplied)
    problem = desk.until_type(BreakpointProblem) if not any(
        isinstance(e, BreakpointProblem) for e in desk.events
    ) else next(e for e in desk.events if isinstance(e, BreakpointProblem))  # fmt: skip
    assert isinstance(applied, InterventionsApplied)
    assert isinstance(problem, BreakpointProblem)
    assert (applied.epoch, applied.index) == (7, 4)
    assert applied.plan is not None
    assert applied.plan.interventions == ("heads 0.0, 0.1 muted",)
    desk.submit(ResumeRun())
    desk.until_type(RunFinished)
    assert hits_of(desk) == [3]
    assert [s.id.epoch for s in desk.steps(2)] == [0] * 4 + [7] * 8


def test_commands_for_another_run_and_impossible_ones_change_nothing(desk: Desk) -> None:
    start(desk, 3, EveryTokens(4))
    paused(desk)
    desk.submit(SetInterventions(99, (ScaleHeads(0, (0,)),), 8), SetBreakpoints(99, ()))
    desk.submit(SetInterventions(3, (ScaleHeads(77, (0,)),), 9))
    refused = desk.until_type(CommandRefused)
    assert isinstance(refused, CommandRefused)
    assert (refused.command, refused.epoch) == ("SetInterventions", 9)
    assert "no layer 77" in refused.error.message
    desk.submit(ResumeRun())
    paused(desk)
    assert hits_of(desk) == [3, 7]
    assert not any(isinstance(e, InterventionsApplied) for e in desk.events)


def test_a_run_that_cannot_begin_under_its_interventions_is_refused(desk: Desk) -> None:
    desk.events.clear()
    desk.submit(StartRun(4, RunSpec(PROMPT, interventions=(ScaleHeads(77, (0,)),))))
    refused = desk.until_type(CommandRefused)
    assert isinstance(refused, CommandRefused)
    assert refused.command == "StartRun"
    assert not any(isinstance(e, RunStarted) and e.run_id == 4 for e in desk.events)
