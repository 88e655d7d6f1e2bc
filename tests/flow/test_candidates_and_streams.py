"""Contrastive search, DoLa and guidance from the worker, from Python and from the command line."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import core
from core import cli
from core.contract import (
    Answered,
    Ask,
    AttentionQuery,
    ContrastiveDetail,
    DistributionQuery,
    DolaDetail,
    LoadModel,
    ParameterError,
    PauseRun,
    Prompt,
    ResumeRun,
    RunFinished,
    RunSpec,
    SetParams,
    StartRun,
    StateChanged,
    StopRun,
    WorkerState,
)
from core.models.loaded import LoadedModel
from tests.flow.test_lab import MODEL, PATIENCE_S, PROMPT, Desk

MODES: dict[str, dict[str, Any]] = {
    "contrastive": {"penalty_alpha": 0.6, "top_k": 3, "do_sample": False},
    "dola": {"dola_layers": "high", "do_sample": False},
    "guidance": {"guidance_scale": 1.7, "do_sample": False},
    "guided draws": {"guidance_scale": 1.7, "do_sample": True},
}
CHANGES: dict[str, dict[str, Any]] = {
    "contrastive": {"penalty_alpha": 0.3},
    "dola": {"dola_layers": (1, 3)},
    "guidance": {"guidance_scale": 0.5},
    "guided draws": {"temperature": 0.5},
}
NEGATIVE = "The cat was very sad."
TEXT = "Once upon a time there was a little"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.submit(LoadModel(MODEL, 1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    yield desk
    assert desk.lab.close(10)


_ids = itertools.count(1)


def start(desk: Desk, mode: str, max_steps: int | None = None) -> int:
    run_id = next(_ids)
    negative = Prompt(text=NEGATIVE) if "guid" in mode else None
    params = {"eos_token_id": (), "max_new_tokens": 20, **MODES[mode]}
    desk.submit(StartRun(run_id, RunSpec(PROMPT, params, seed=3, max_steps=max_steps, negative_prompt=negative)))
    return run_id


def paused(desk: Desk, run_id: int, steps: int) -> None:
    """Wait for so many steps of the run, after which it pauses by itself."""
    wait(desk, lambda: len(desk.steps(run_id)) == steps)
    wait(desk, lambda: [e.state for e in desk.events if isinstance(e, StateChanged)][-1] is WorkerState.PAUSED)


def finished(desk: Desk, run_id: int) -> RunFinished:
    wait(desk, lambda: any(isinstance(e, RunFinished) and e.run_id == run_id for e in desk.events))
    return next(e for e in desk.events if isinstance(e, RunFinished) and e.run_id == run_id)


def wait(desk: Desk, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, desk.events[-5:]
        desk.events += desk.lab.drain()
        time.sleep(0.002)


@pytest.mark.parametrize("mode", MODES)
def test_stepping_pausing_and_resuming_change_no_token(desk: Desk, mode: str) -> None:
    whole = finished(desk, start(desk, mode))
    run_id = start(desk, mode, max_steps=1)
    paused(desk, run_id, 1)
    for count in range(2, 5):
        desk.submit(ResumeRun(max_steps=1))
        paused(desk, run_id, count)
    desk.submit(ResumeRun())
    wait(desk, lambda: len(desk.steps(run_id)) >= 9)
    desk.submit(PauseRun(), ResumeRun())
    again = finished(desk, run_id)
    assert again.sequences == whole.sequences
    assert again.finish_reason == "length"


@pytest.mark.parametrize("mode", MODES)
def test_parameters_change_and_views_answer_while_a_run_is_paused(desk: Desk, mode: str) -> None:
    run_id = start(desk, mode, max_steps=3)
    paused(desk, run_id, 3)
    before = len(desk.events)
    position = desk.steps(run_id)[0].id.position
    desk.submit(
        Ask("map", 1, AttentionQuery(run_id, 2)), Ask("next", 1, DistributionQuery(run_id, position, final=True))
    )
    wait(desk, lambda: sum(isinstance(e, Answered) for e in desk.events[before:]) == 2)
    assert all(e.error is None for e in desk.events[before:] if isinstance(e, Answered))
    desk.submit(SetParams(CHANGES[mode], 1), ResumeRun(max_steps=2))
    paused(desk, run_id, 5)
    assert [step.id.epoch for step in desk.steps(run_id)] == [0, 0, 0, 1, 1]
    desk.submit(StopRun())
    stopped = finished(desk, run_id)
    assert (stopped.finish_reason, stopped.error, stopped.new_tokens) == ("cancelled", None, 5)


def test_python_reaches_them(tiny_gpt2: LoadedModel) -> None:
    here = {"device": "cpu", "dtype": "fp32"}
    params = {"max_new_tokens": 4, "eos_token_id": []}
    tried = core.run("tiny-gpt2", TEXT, params={**params, **MODES["contrastive"]}, mode="contrastive_search", **here)
    assert all(isinstance(step.detail, ContrastiveDetail) for step in tried.steps)
    contrasted = core.run("tiny-gpt2", TEXT, params={**params, **MODES["dola"]}, mode="dola_generation", **here)
    assert all(isinstance(step.detail, DolaDetail) for step in contrasted.steps)
    guided = {**params, **MODES["guidance"]}
    by_text = core.run("tiny-gpt2", TEXT, params=guided, negative_prompt=NEGATIVE, **here)
    by_ids = core.run("tiny-gpt2", TEXT, params=guided, negative_prompt=tiny_gpt2.text.encode(NEGATIVE), **here)
    assert by_text.sequences == by_ids.sequences
    assert [s.token_id for s in core.stream("tiny-gpt2", TEXT, params=guided, negative_prompt=NEGATIVE, **here)] == [
        step.token_id for step in by_text.steps
    ]
    with pytest.raises(ParameterError, match="no effect while guidance_scale is 1"):
        core.run("tiny-gpt2", TEXT, params=params, negative_prompt=NEGATIVE, **here)


@pytest.mark.parametrize("mode", ["contrastive", "dola", "guidance"])
def test_the_command_line_tells_what_they_looked_at(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"{name}={json.dumps(value)}" for name, value in MODES[mode].items()]
    negative = ["--negative-prompt", NEGATIVE] if mode == "guidance" else []
    command = ["generate", "--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--json", "--prompt", TEXT]
    capsys.readouterr()
    assert cli.main([*command, *negative, "--set", "max_new_tokens=3", "eos_token_id=[]", *settings]) == 0
    out, err = capsys.readouterr()
    *tokens, last = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert (err, len(tokens), last["finish_reason"]) == ("", 3, "length")
    for token in tokens:
        if mode == "guidance":
            assert token["guidance"]["token_ids"][0] == token["token_id"]
            assert len(token["second_kv_used_bytes"]) == len(token["second_kv_allocated_bytes"]) == 6
        else:
            assert token["detail"]["kind"] == mode
            assert ("score" in token["detail"]) == (mode == "contrastive")


def test_an_empty_negative_prompt_is_none_for_the_command_line_and_for_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["generate", "--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--json", "--prompt", TEXT]
    command += ["--set", "guidance_scale=2.5", "max_new_tokens=6", "do_sample=false"]
    said = []
    for negative in ([], ["--negative-prompt", ""], ["--negative-prompt", NEGATIVE]):
        capsys.readouterr()
        assert cli.main([*command, *negative]) == 0
        *tokens, _ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        said.append([token["token_id"] for token in tokens])
    assert said[0] == said[1] != said[2]
    params = {"guidance_scale": 2.5, "max_new_tokens": 6, "do_sample": False}
    for empty in (None, ""):
        result = core.run("tiny-gpt2", TEXT, params=params, negative_prompt=empty, device="cpu", dtype="fp32")
        assert [step.token_id for step in result.steps] == said[0]


def test_a_negative_prompt_without_a_scale_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--model", "tiny-gpt2", "--prompt", TEXT, "--negative-prompt", NEGATIVE]
    capsys.readouterr()
    assert cli.main(command) == cli.EXIT_ERROR
    assert "set it, to 1.5 for example" in capsys.readouterr().err
