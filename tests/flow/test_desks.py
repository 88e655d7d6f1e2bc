"""The config desk and ONNX through the worker and the command line: late answers, jobs beside runs, errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.contract import (
    CancelOnnx,
    CheckOnnx,
    ConfigDescribed,
    DescribeConfig,
    DescribeOnnx,
    Event,
    ExportOnnx,
    LoadModel,
    ModelReady,
    ModelSaved,
    ModelSpec,
    OnnxDescribed,
    OnnxFinished,
    OnnxProgress,
    Prompt,
    RunFinished,
    RunSpec,
    SaveModel,
    StartRun,
    StateChanged,
    WorkerState,
)
from core.lab import Lab
from tests.parity.test_onnx import needs_packages

Capture = pytest.CaptureFixture[str]
WAIT_S = 120.0


class Driven:
    """A lab, and every event it has sent."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.seen: list[Event] = []

    def wait(self, kind: type, when: Callable[[Any], bool] = lambda _: True) -> Any:
        until = time.monotonic() + WAIT_S
        while True:
            for event in self.seen:
                if isinstance(event, kind) and when(event):
                    return event
            assert time.monotonic() < until, f"no {kind.__name__}"
            self.seen += self.lab.drain()
            time.sleep(0.002)


@pytest.fixture
def driven() -> Iterator[Driven]:
    one = Driven()
    one.wait(StateChanged, lambda e: e.state is WorkerState.NO_MODEL)
    yield one
    assert one.lab.close(30.0)


def test_the_last_description_asked_for_is_answered(driven: Driven) -> None:
    for generation, width in enumerate(("100", "144", "768"), start=1):
        driven.lab.submit(DescribeConfig(generation, "gpt2", {"n_embd": width}))
    answer = driven.wait(ConfigDescribed, lambda e: e.generation == 3)
    assert answer.description.new_name is not None
    driven.lab.submit(DescribeConfig(4, ""))
    assert "No model is loaded" in driven.wait(ConfigDescribed, lambda e: e.generation == 4).error.message
    driven.lab.submit(DescribeConfig(5, "no-such-thing"))
    assert driven.wait(ConfigDescribed, lambda e: e.generation == 5).error.code == "model_load"
    driven.lab.submit(DescribeOnnx(6))
    assert "No model is loaded" in driven.wait(OnnxDescribed).error.message


def test_a_model_is_saved_and_loads(driven: Driven, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    driven.lab.submit(SaveModel(1, "new:llama?num_hidden_layers=1", str(folder)))
    saved = driven.wait(ModelSaved, lambda e: e.save_id == 1)
    assert saved.error is None
    assert saved.saved.size_bytes == sum(p.stat().st_size for p in folder.iterdir())
    driven.lab.submit(SaveModel(2, "new:llama", str(folder)))
    assert "not empty" in driven.wait(ModelSaved, lambda e: e.save_id == 2).error.message
    driven.lab.submit(LoadModel(ModelSpec(str(folder), "cpu", "fp32"), 1))
    assert driven.wait(ModelReady).info.layers == 1
    driven.lab.submit(DescribeConfig(3, "", {}))
    assert driven.wait(ConfigDescribed).description.changes["num_hidden_layers"] == 1


def test_runs_go_on_beside_an_export_and_only_one_is_made_at_once(driven: Driven, tmp_path: Path) -> None:
    needs_packages()
    driven.lab.submit(LoadModel(ModelSpec("new:gpt2?n_layer=1", "cpu", "fp32"), 1))
    driven.wait(ModelReady)
    path = str(tmp_path / "model.onnx")
    driven.lab.submit(ExportOnnx(1, path, 20))
    driven.wait(OnnxProgress)
    driven.lab.submit(ExportOnnx(2, path, 20))
    assert "in progress already" in driven.wait(OnnxFinished, lambda e: e.job_id == 2).error.message
    driven.lab.submit(StartRun(1, RunSpec((Prompt(ids=(1, 2, 3)),), {"max_new_tokens": 5})))
    driven.wait(RunFinished)
    assert not any(isinstance(e, OnnxFinished) and e.job_id == 1 for e in driven.seen)
    driven.lab.submit(CancelOnnx())
    assert driven.wait(OnnxFinished, lambda e: e.job_id == 1).error.code == "load_cancelled"
    assert list(tmp_path.iterdir()) == []
    driven.lab.submit(CheckOnnx(3, path))
    assert "no file" in driven.wait(OnnxFinished, lambda e: e.job_id == 3).error.message


def test_closing_ends_an_export(tmp_path: Path) -> None:
    needs_packages()
    one = Driven()
    one.lab.submit(LoadModel(ModelSpec("new:gpt2?n_layer=1", "cpu", "fp32"), 1))
    one.wait(ModelReady)
    one.lab.submit(ExportOnnx(1, str(tmp_path / "model.onnx"), 20))
    one.wait(OnnxProgress)
    assert one.lab.close(30.0)
    assert list(tmp_path.iterdir()) == []


def _cli(*arguments: str, capsys: Capture) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(list(arguments))
    return (status, *capsys.readouterr())


def test_config_on_the_command_line(capsys: Capture, tmp_path: Path) -> None:
    small = ["--set", "hidden_size=48", "n_head=4", "n_layer=1", "vocab_size=300", "bos_token_id=1", "eos_token_id=2"]
    status, out, err = _cli("config", "show", "gpt2", *small, "--json", capsys=capsys)
    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert shown["changes"]["n_embd"] == 48
    assert sum(part["parameters"] for part in shown["estimate"]["parts"]) == shown["estimate"]["parameters"]
    status, out, err = _cli("config", "show", "gpt2", *small, capsys=capsys)
    assert (status, err) == (0, "")
    assert "n_embd = hidden_size = 48" in out
    status, out, _ = _cli("config", "diff", "gpt2", *small, "--json", capsys=capsys)
    assert json.loads(out)["n_embd"] == [768, 48]
    status, out, _ = _cli("config", "save", "gpt2", *small, "--seed", "3", "--out", str(tmp_path / "m"), capsys=capsys)
    assert status == 0
    assert (tmp_path / "m" / "model.safetensors").exists()
    for name in ("show", "diff"):
        status, out, err = _cli("config", name, "llama", "--set", "rope_theta=nan", "--json", capsys=capsys)
        assert (status, err) == (1, "")
        json.loads(out, parse_constant=pytest.fail)
    status, out, err = _cli("config", "save", "gpt2", "--set", "n_head=7", "--out", str(tmp_path / "n"), capsys=capsys)
    assert (status, out) == (2, "")
    assert err == "n_embd = 768 cannot be divided among n_head = 7 heads.\n"


def test_onnx_on_the_command_line(capsys: Capture, tmp_path: Path) -> None:
    model = "new:gpt2?n_layer=1"
    status, out, err = _cli("onnx", "describe", "--model", model, "--json", capsys=capsys)
    assert (status, err) == (0, "")
    assert [pair["past"] for pair in json.loads(out)["pairs"]] == [True, False]
    status, out, err = _cli("onnx", "describe", "--model", model, capsys=capsys)
    assert "past_key_values.{i}.key" in out
    refused = ("onnx", "export", "--model", model, "--out", str(tmp_path / "m.onnx"), "--opset", "13")
    status, out, err = _cli(*refused, capsys=capsys)
    assert (status, out) == (2, "")
    assert "Opset 13" in err


@pytest.mark.slow
def test_an_export_on_the_command_line(capsys: Capture, tmp_path: Path) -> None:
    needs_packages()
    model, path = "new:gpt2?n_layer=1", tmp_path / "m.onnx"
    status, out, err = _cli("onnx", "export", "--model", model, "--out", str(path), "--json", capsys=capsys)
    assert (status, err) == (0, "")
    assert json.loads(out)["check"]["passed"]
    status, out, err = _cli("onnx", "check", "--model", model, "--file", str(path), capsys=capsys)
    assert (status, err) == (0, "")
    assert "30 of 30 tokens" in out
