"""Experiments through the worker: told as they go, stopped within a layer, never beside a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import bench_cache, cli
from core.contract import (
    EXPERIMENTS,
    CacheContentAnswer,
    CacheContentQuery,
    CacheSpec,
    Experiment,
    ExperimentFinished,
    ExperimentProgress,
    LoadModel,
    PauseRun,
    Prompt,
    RunExperiment,
    RunFinished,
    RunStarted,
    StartRun,
    StateChanged,
    StepSnapshot,
    StopExperiment,
    StopRun,
    Tokenize,
    Tokenized,
    WorkerState,
)
from core.contract.specs import RunSpec
from core.models.loaded import LoadedModel
from tests.flow.test_lab import MODEL, PROMPT, Desk
from tests.parity.reference import prompt_of
from tests.parity.reference import run as run_session

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shared() -> Iterator[Desk]:
    desk = Desk()
    desk.submit(LoadModel(MODEL, 1))
    desk.until(lambda e: isinstance(e, StateChanged) and e.state is WorkerState.READY)
    yield desk
    assert desk.lab.close(30.0)


@pytest.fixture
def desk(shared: Desk) -> Desk:
    shared.events.clear()
    return shared


def finished(desk: Desk, number: int) -> ExperimentFinished:
    event = desk.until(lambda e: isinstance(e, ExperimentFinished) and e.number == number)
    assert isinstance(event, ExperimentFinished)
    return event


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_runs_to_its_end_and_tells_how_far_it_is(desk: Desk, name: str) -> None:
    experiment = Experiment(name, PROMPT[0], new_tokens=6, positions=96)  # type: ignore[arg-type]
    desk.submit(RunExperiment(100, experiment))
    event = finished(desk, 100)
    assert event.error is None
    assert not event.stopped
    assert event.result is not None
    assert event.result.complete
    assert event.result.tables
    assert all(finding.holds is not False for finding in event.result.findings)
    told = [e for e in desk.events if isinstance(e, ExperimentProgress)]
    assert all(0 <= e.fraction <= 1 for e in told)
    assert [e.fraction for e in told] == sorted(e.fraction for e in told)


def test_a_stopped_experiment_keeps_what_it_found(desk: Desk) -> None:
    desk.submit(RunExperiment(1, Experiment("growth", PROMPT[0])))
    desk.until(lambda e: isinstance(e, ExperimentProgress) and e.so_far is not None and bool(e.so_far.series))
    desk.submit(StopExperiment())
    event = finished(desk, 1)
    assert event.stopped
    assert event.result is not None
    assert event.result.series
    assert not event.result.complete
    desk.submit(StopExperiment())  # nothing is there to be stopped
    desk.submit(RunExperiment(2, Experiment("prefix", PROMPT[0], new_tokens=2)))
    assert finished(desk, 2).result is not None


def test_an_experiment_is_refused_beside_a_run_and_gives_way_to_one(desk: Desk) -> None:
    run_id = desk.start(max_new_tokens=400)
    desk.until(lambda e: isinstance(e, StepSnapshot) and e.id.run_id == run_id)
    desk.submit(PauseRun())
    desk.submit(RunExperiment(3, Experiment("why", PROMPT[0])))
    refused = finished(desk, 3)
    assert refused.error is not None
    assert "A run is in progress" in refused.error.message
    assert refused.result is None
    desk.submit(StopRun())
    desk.until(lambda e: isinstance(e, RunFinished) and e.run_id == run_id)
    desk.submit(RunExperiment(4, Experiment("growth", PROMPT[0])))
    desk.until(lambda e: isinstance(e, ExperimentProgress) and e.number == 4)
    after = desk.start(max_new_tokens=3)
    assert finished(desk, 4).stopped
    desk.until(lambda e: isinstance(e, RunFinished) and e.run_id == after)


def test_commands_are_taken_between_two_passes(desk: Desk) -> None:
    desk.submit(RunExperiment(5, Experiment("growth", PROMPT[0])))
    desk.until(lambda e: isinstance(e, ExperimentProgress) and e.number == 5)
    desk.submit(Tokenize(77, Prompt(text="Once")))
    desk.until(lambda e: isinstance(e, Tokenized) and e.generation == 77)
    assert not any(isinstance(e, ExperimentFinished) for e in desk.events)
    desk.submit(StopExperiment())
    assert finished(desk, 5).stopped


def test_what_cannot_begin_says_why(desk: Desk) -> None:
    desk.submit(RunExperiment(6, Experiment("why", PROMPT[0], new_tokens=5000)))
    refused = finished(desk, 6)
    assert refused.error is not None
    assert "512 positions" in refused.error.message


def test_a_run_on_another_kind_reports_it(desk: Desk) -> None:
    spec = RunSpec(PROMPT, {"max_new_tokens": 12, "eos_token_id": ()}, cache=CacheSpec("sink", window=4, sinks=2))
    desk.submit(StartRun(900, spec))
    started = desk.until(lambda e: isinstance(e, RunStarted) and e.run_id == 900)
    assert isinstance(started, RunStarted)
    assert started.plan.cache.kind == "sink 2 + 4"
    assert started.plan.cache.budget == 6
    desk.until(lambda e: isinstance(e, RunFinished) and e.run_id == 900)
    assert desk.steps(900)[-1].cache.held == 6


def test_the_content_of_a_cache_is_what_it_holds(tiny_gpt2: LoadedModel) -> None:
    for spec in (CacheSpec(), CacheSpec("sink", window=5, sinks=2), CacheSpec("heavy_hitters", window=3, heavy=4)):
        rows = [prompt_of(tiny_gpt2, length) for length in (14, 6)]
        session = run_session(tiny_gpt2, rows, {"max_new_tokens": 5}, cache=spec).session
        for row, padding in ((0, 0), (1, 8)):
            answer = session.answer(CacheContentQuery(1, 2, head=3, row=row))
            assert isinstance(answer, CacheContentAnswer)
            layer = session.cache.layers[2]
            slots = layer.slots()
            for head in range(tiny_gpt2.info.kv_heads):
                own = range(18) if slots is None else (slots if slots.ndim == 1 else slots[row, head]).tolist()
                keys, values = layer.held_keys()[row, head], layer.held_values()[row, head]
                found = {
                    slot - padding: (float(keys[n].norm()), float(values[n].norm()))
                    for n, slot in enumerate(own)
                    if slot >= padding
                }
                for position in range(18 - padding):
                    told = (answer.key_norms[head, position], answer.value_norms[head, position])
                    if position in found:
                        assert told == pytest.approx(found[position], rel=1e-5)
                    else:
                        assert all(number != number for number in told)  # NaN: gone
            assert answer.similarity is not None
            there = [n for n in range(18 - padding) if answer.key_norms[3, n] == answer.key_norms[3, n]]
            assert [float(answer.similarity[n, n]) for n in there] == pytest.approx([1.0] * len(there))
            assert answer.similarity.shape == (18 - padding, 18 - padding)
            pooled = session.answer(CacheContentQuery(1, 2, head=3, row=row, pool=4))
            assert isinstance(pooled, CacheContentAnswer)
            assert pooled.similarity is not None
            assert len(pooled.similarity) <= 4


def cache(*arguments: str, capsys: Capture) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["cache", *arguments])
    return (status, *capsys.readouterr())


HERE = ("--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32")


def test_the_command_line_runs_them_too(capsys: Capture, tmp_path: Path) -> None:
    status, out, err = cache("why", *HERE, "--new-tokens", "4", "--csv", str(tmp_path / "why.csv"), capsys=capsys)
    assert (status, err) == (0, "")
    assert "All 4 tokens are the same with a cache and without a cache." in out
    assert len((tmp_path / "why.csv").read_text().splitlines()) == 5
    status, out, _ = cache(
        "kinds", *HERE, "--new-tokens", "5", "--kind", "sink,window=4", "--kind", "int8", "--json", capsys=capsys
    )
    found = json.loads(out)
    assert status == 0
    assert found["complete"]
    assert [row[0] for row in found["tables"][0]["rows"]] == ["growing", "sink 4 + 4", "int8"]
    status, out, _ = cache("growth", *HERE, "--positions", "40", "--prompt-ids", "1,2,3", capsys=capsys)
    assert status == 0
    status, out, _ = cache("predict", "--model", "Llama 3 8B", "--positions", "8192", "--json", capsys=capsys)
    assert json.loads(out)["used_bytes"] == 2 * 8192 * 32 * 8 * 128 * 2
    status, out, _ = cache("predict", "--model", "gpt2", "--cache", "int8", "--positions", "10", capsys=capsys)
    assert "with d_model 768" in out
    assert f"int8: {2 * 10 * 12 * 12 * (64 + 4):,} B" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("kinds", *HERE, "--kind", "quanto"), "no cache of the kind"),
        (("kinds", *HERE, "--kind", "sink,window=x"), "no setting of a cache"),
        (("why", *HERE, "--prompt-ids", "1,a"), "not a list of token ids"),
        (("why", *HERE, "--new-tokens", "0"), "too few"),
        (("why", *HERE, "--new-tokens", "2", "--csv", "/proc/none/x.csv"), "cannot be written"),
        (("predict", "--model", "gpt2", "--batch", "0"), "from 1 on"),
        (("predict", "--model", "nothing-of-this-name"), "Unknown model"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: tuple[str, ...], words: str, capsys: Capture) -> None:
    status, out, err = cache(*arguments, capsys=capsys)
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


def test_generate_takes_a_kind(capsys: Capture) -> None:
    common = ["generate", *HERE, "--prompt", "Once upon a time", "--set", "max_new_tokens=6", "--json"]
    assert cli.main([*common, "--cache", "sliding_window,window=3"]) == 0
    used = [json.loads(line).get("kv_used_bytes") for line in capsys.readouterr().out.splitlines()[:-1]]
    assert used[-1] == [3 * 2 * 256 * 4] * 6
    assert cli.main([*common, "--cache", "sliding_window,window=9999"]) == 2
    assert "larger than the 512" in capsys.readouterr().err


def test_layers_of_every_kind_are_measured() -> None:
    costs = list(bench_cache.layer_costs((300,), 2))
    assert [cost["kind"] for cost in costs] == list(bench_cache.KINDS)
    bytes_held = 2 * 12 * 64 * 4
    for cost in costs:
        assert all(value is None or value > 0 for key, value in cost.items() if key != "kind")
        assert cost["peak_mb"] >= (0.25 if cost["kind"] in ("fp8", "int8") else 1) * 300 * bytes_held / 1e6
        assert cost["crop_us"] is not None
    lines = bench_cache.as_lines(costs, {"tiny-gpt2": [{"position": 16.0, "step_ms": 2.0}]})
    assert len(lines) == 2 + len(costs) + 1


def test_the_program_knows_the_command(capsys: Capture) -> None:
    from app.__main__ import main

    assert main(["cache", "predict", "--model", "Qwen2 7B", "--positions", "1000"]) == 0
    assert "= 57,344,000 B" in capsys.readouterr().out
