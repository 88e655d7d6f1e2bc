"""Beams through the worker and on the command line."""

from __future__ import annotations

import json

import pytest

from core import cli
from core.contract import (
    Ask,
    AttentionQuery,
    BeamDetail,
    CommandRefused,
    HypothesisEnded,
    ParamsApplied,
    ResumeRun,
    RunFinished,
    SetParams,
    StateChanged,
    StepSnapshot,
    StopRun,
    WorkerState,
)
from core.contract.events import Answered
from core.models.loaded import LoadedModel
from tests.flow.test_lab import Desk, desk, shared  # noqa: F401  fixtures
from tests.parity.reference import generate

BEAMS = {"num_beams": 3, "do_sample": False}


def paused(event: object) -> bool:
    return isinstance(event, StateChanged) and event.state is WorkerState.PAUSED


def test_a_step_is_one_token_of_every_beam(desk: Desk) -> None:  # noqa: F811
    run_id = desk.start(max_steps=1, max_new_tokens=4, **BEAMS)
    for count in (1, 2):
        desk.until(paused)
        assert [(s.id.beam, s.id.index) for s in desk.steps(run_id)][-3:] == [(b, count - 1) for b in range(3)]
        desk.submit(ResumeRun(max_steps=1))
    desk.until(paused)
    desk.submit(ResumeRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.new_tokens == 4
    assert len(finished.scores or ()) == 1
    ended = [e for e in desk.events if isinstance(e, HypothesisEnded)]
    assert [e.hypothesis.beam for e in ended] == [0, 1, 2]
    assert {e.index for e in ended} == {3}


def test_stop_keeps_the_best_beam_so_far_and_its_views(desk: Desk) -> None:  # noqa: F811
    run_id = desk.start(max_steps=5, max_new_tokens=100, **BEAMS)
    desk.until(paused)
    desk.submit(StopRun())
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.finish_reason == "cancelled"
    ((row, beam, index),) = finished.places
    assert index == 4
    desk.submit(Ask("map", 1, AttentionQuery(run_id, 2, row=row, beam=beam, index=index)))
    answered = desk.until_type(Answered)
    assert isinstance(answered, Answered)
    assert answered.answer is not None
    assert answered.answer.weights.shape[1] == len(finished.sequences[0]) - 1


def test_penalties_change_on_the_way_and_the_number_of_beams_waits(desk: Desk) -> None:  # noqa: F811
    desk.start(max_steps=2, max_new_tokens=6, **BEAMS)
    desk.until(paused)
    desk.submit(SetParams({"num_beams": 5}, 1))
    refused = desk.until_type(CommandRefused)
    assert isinstance(refused, CommandRefused)
    assert "acts at the next run" in refused.error.message
    desk.submit(SetParams({"length_penalty": 0.0, "repetition_penalty": 1.3}, 2), ResumeRun())
    applied = desk.until_type(ParamsApplied)
    assert isinstance(applied, ParamsApplied)
    assert set(applied.changed) == {"length_penalty", "repetition_penalty"}
    finished = desk.until_type(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.finish_reason == "length"


def generated(capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    capsys.readouterr()
    arguments = ["generate", "--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--prompt", "The dog"]
    given = ["do_sample=false", "eos_token_id=[]", "max_new_tokens=6", *settings]
    assert cli.main([*arguments, "--set", *given]) == 0
    return capsys.readouterr().out


def test_the_command_line_prints_the_best_sequences(tiny_gpt2: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [tiny_gpt2.text.encode("The dog")]
    expected = generate(tiny_gpt2, rows, num_beams=4, num_return_sequences=2, max_new_tokens=6).sequences
    texts = [tiny_gpt2.text.decode(ids[len(rows[0]) :], skip_special_tokens=True) for ids in expected.tolist()]
    assert generated(capsys, "num_beams=4") == texts[0] + "\n"
    assert generated(capsys, "num_beams=4", "num_return_sequences=2") == "\n\n".join(texts) + "\n"


def test_json_has_an_object_a_beam_and_step(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    status = cli.main(
        ["generate", "--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--prompt", "The dog", "--json",
         "--set", "num_beams=3", "do_sample=false", "eos_token_id=[]", "max_new_tokens=4"]
    )  # fmt: skip
    assert status == 0
    *steps, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(s["index"], s["beam"]) for s in steps] == [(index, beam) for index in range(4) for beam in range(3)]
    details = [s["detail"] for s in steps]
    assert {d["kind"] for d in details} == {"beam"}
    assert all(d["parent"] in range(3) and d["score"] < 0 for d in details)
    assert last["sequences_scores"] == [pytest.approx(max(d["score"] for d in details[-3:]) / 4)]


def test_snapshots_say_what_the_beams_did(desk: Desk) -> None:  # noqa: F811
    run_id = desk.start(max_new_tokens=5, num_beams=4, num_beam_groups=2, diversity_penalty=1.0, do_sample=False)
    desk.until_type(RunFinished)
    details = [step.detail for step in desk.steps(run_id) if isinstance(step, StepSnapshot)]
    assert len(details) == 20
    assert all(isinstance(detail, BeamDetail) for detail in details)
    assert [detail.group for detail in details[:4] if isinstance(detail, BeamDetail)] == [0, 0, 1, 1]
