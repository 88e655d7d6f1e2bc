"""Exported graphs in onnxruntime against the models they come from, and what cannot be exported."""

from __future__ import annotations

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

from core.contract import ExportError, LoadCancelledError, ModelSpec, OnnxOutcome
from core.models.load_control import Unwatched
from core.models.loaded import LoadedModel
from core.models.loader import load
from core.onnx_desk import extra, job
from core.onnx_desk.describe import describe
from core.onnx_desk.graph import check_exportable
from core.onnx_desk.images import dummy_images

TINY = 5_000_000
SHARP = "initializer_range=0.3"
MODELS = {
    "gpt2": f"new:gpt2?n_layer=2&{SHARP}",
    "qwen2": f"new:qwen2?num_hidden_layers=2&{SHARP}",
    "sliding": f"new:qwen2?num_hidden_layers=2&use_sliding_window=true&sliding_window=4&max_window_layers=1&{SHARP}",
    "imagegpt": f"new:imagegpt?n_layer=2&vocab_size=17&n_positions=64&{SHARP}",
    "llama": f"new:llama?num_hidden_layers=2&{SHARP}",
}


def needs_packages() -> None:
    """Skip where the extra is not installed; importing onnxruntime here would open its files in this process."""
    if extra.missing_packages():
        pytest.skip("the extra onnx is not installed")


def _model(name: str) -> LoadedModel:
    return load(ModelSpec(name, "cpu", "fp32"), 1, Unwatched())


def _run(request: job.Request, told: list[str] | None = None) -> OnnxOutcome:
    needs_packages()
    return job.run(request, lambda: False, lambda stage, _fraction: None if told is None else told.append(stage))


def _assert_same(outcome: OnnxOutcome, tokens: int = 30) -> None:
    check = outcome.check
    assert check is not None
    assert {case.name: case.max_difference for case in check.cases if not case.max_difference <= 1e-4} == {}
    assert check.engine_ids == check.onnx_ids
    assert len(check.engine_ids) == tokens
    assert check.passed


def test_tiny_gpt2_says_the_same_in_onnxruntime(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "graphs" / "model.onnx"
    outcome = _run(job.Request("tiny-gpt2", path, 25_000_000, opset=20), told)
    _assert_same(outcome)
    assert outcome.export is not None
    assert outcome.check is not None
    assert [case.name for case in outcome.check.cases] == ["prefill", "decode steps", "chunk", "left-padded batch"]
    assert len(set(outcome.check.engine_ids)) > 5  # no model that repeats one token
    current = describe(_model("tiny-gpt2")).pairs[0].current
    assert (outcome.export.inputs, outcome.export.outputs) == (current.inputs, current.outputs)
    assert outcome.export.opset == 20
    assert outcome.export.size_bytes == path.stat().st_size
    assert [s for s in told if s in ("Tracing", "Translating", "Writing")] == ["Tracing", "Translating", "Writing"]
    assert list(path.parent.iterdir()) == [path]
    assert not list(Path.home().rglob("*onnxruntime*"))  # nothing is collected about whoever exports
    with pytest.raises(ExportError, match="was not exported from this model"):
        _run(job.Request("new:gpt2?n_layer=1", path, TINY, export=False))


@pytest.mark.slow
@pytest.mark.parametrize("past", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_every_family_says_the_same(name: str, past: bool, tmp_path: Path) -> None:
    outcome = _run(job.Request(MODELS[name], tmp_path / "model.onnx", TINY, opset=20, past=past))
    _assert_same(outcome)
    assert outcome.export is not None
    current = describe(_model(MODELS[name])).pairs[0 if past else 1].current
    assert (outcome.export.inputs, outcome.export.outputs) == (current.inputs, current.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [extra.OPSETS[0], extra.OPSETS[-1]])
def test_every_opset_offered_can_be_written(opset: int, tmp_path: Path) -> None:
    outcome = _run(job.Request(MODELS["gpt2"], tmp_path / "model.onnx", TINY, opset=opset))
    _assert_same(outcome)
    assert outcome.export is not None
    assert outcome.export.opset == opset


@pytest.mark.slow
def test_an_export_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    needs_packages()
    stages: list[str] = []
    request = job.Request(MODELS["gpt2"], tmp_path / "model.onnx", TINY, opset=20)
    with pytest.raises(LoadCancelledError, match="cancelled"):
        job.run(request, lambda: "Tracing" in stages, lambda stage, _: stages.append(stage))
    assert list(tmp_path.iterdir()) == []


_LARGE = """
import os, sys
from pathlib import Path
from core.onnx_desk.extra import silence_onnxruntime
silence_onnxruntime()
import onnx
from core.api import load_model
from core.onnx_desk import export as desk
loaded = load_model("new:gpt2?n_layer=1", device="cpu", dtype="fp32")
desk.MOST_IN_ONE_FILE_BYTES = int(sys.argv[2])
done = desk.export(loaded, Path(sys.argv[1]), 20, True, lambda *told: None)
graph = onnx.load(sys.argv[1], load_external_data=False)
places = {e.value for t in graph.graph.initializer for e in t.external_data if e.key == "location"}
print(done.size_bytes, sorted(places))
"""


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_it_under_their_name(tmp_path: Path) -> None:
    needs_packages()
    path = tmp_path / "big.onnx"
    orphan = tmp_path / f".big.onnx.{2**22 + 1}.partial"  # of a process that is no more
    orphan.mkdir()

    def export(most: int) -> str:
        command = [sys.executable, "-c", _LARGE, str(path), str(most)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]

    for _ in range(2):  # the second one over the first
        told = export(1000)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
        assert told == f"{sum(p.stat().st_size for p in tmp_path.iterdir())} ['big.onnx.data']"
    assert export(1 << 40) == f"{path.stat().st_size} []"
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]


def test_transformers_4_is_remembered_rightly(tiny_gpt2: LoadedModel) -> None:
    with_past, without = (pair.legacy for pair in describe(tiny_gpt2).pairs)
    both = "past_sequence + sequence"
    assert [(t.name, dict(t.axes), t.count) for t in with_past.inputs] == [
        ("input_ids", {0: "batch", 1: "sequence"}, 1),
        ("past_key_values.{i}.key", {0: "batch", 2: both}, 6),
        ("past_key_values.{i}.value", {0: "batch", 2: both}, 6),
        ("attention_mask", {0: "batch", 1: both}, 1),
    ]
    assert [(t.name, dict(t.axes)) for t in without.inputs] == [
        ("input_ids", {0: "batch", 1: "sequence"}),
        ("attention_mask", {0: "batch", 1: "sequence"}),
    ]
    assert [(d.name, d.shape) for d in with_past.dummies] == [
        ("input_ids", (2, 8)),
        ("past_key_values.{i}.key", (2, 8, 10, 32)),
        ("past_key_values.{i}.value", (2, 8, 10, 32)),
        ("attention_mask", (2, 18)),
    ]
    assert with_past.opset == 13
    facts = dict(with_past.facts)
    assert (facts["num_layers"], facts["num_attention_heads"]) == ("6", "8")
    assert facts["pad_token_id"].startswith("0, the model has none")


def test_what_is_exported_now_takes_positions_and_gives_the_present() -> None:
    pair = describe(_model(MODELS["qwen2"])).pairs[0]
    names = {t.name: t for t in (*pair.current.inputs, *pair.current.outputs)}
    assert dict(names["past_key_values.{i}.key"].axes) == {0: "batch", 2: "past_sequence"}
    assert names["past_key_values.{i}.key"].shape == ("batch", "2", "past_sequence", "32")  # key/value heads
    assert "position_ids" in names
    assert names["present.{i}.value"].count == 2
    assert pair.legacy.facts[0][1].endswith("this family had no class of its own")


def test_imagegpt_had_no_past_and_its_pixels_are_clusters() -> None:
    model = _model(MODELS["imagegpt"])
    pairs = describe(model).pairs
    for pair in pairs:
        assert [t.name for t in pair.legacy.inputs] == ["input_ids"]
        assert pair.legacy.dummies[0].shape == (1, 1024)
    ids = dummy_images(model, 2, 50)
    assert ids.shape == (2, 50)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 16
    assert torch.equal(ids, dummy_images(model, 2, 50))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"opset": 13}, "Opset 13 cannot be written; choose 18 to 23"),
        ({"path": Path("model.bin")}, "end it with .onnx"),
        ({"path": Path("/proc/nowhere/model.onnx")}, "cannot be made"),
        ({"weight_bytes": 1 << 60}, "of memory"),
        ({"export": False, "path": Path("none.onnx")}, "export the model first"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    request = job.Request("tiny-gpt2", tmp_path / "model.onnx", TINY, opset=20)
    with pytest.raises(ExportError, match=sentence):
        job.check_request(replace(request, **changes))


def test_rotary_embeddings_that_look_at_the_text_are_refused() -> None:
    rope = '{"rope_type":"dynamic","factor":2.0,"rope_theta":10000}'
    with pytest.raises(ExportError, match=r"rope_type dynamic.*choose a model with another rope_type"):
        check_exportable(
            _model(f"new:llama?num_hidden_layers=2&max_position_embeddings=32&rope_parameters={quote(rope)}")
        )
    check_exportable(_model(MODELS["llama"]))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(job.os, "access", lambda path, _mode: path != folder)  # root may write everywhere
    with pytest.raises(ExportError, match="cannot be written to; choose another folder"):
        job.check_request(job.Request("tiny-gpt2", folder / "model.onnx", TINY, opset=20))


def test_missing_packages_are_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extra, "PACKAGES", ("onnx", "no_such_package_a", "no_such_package_b"))
    sentence = extra.missing_packages()
    assert sentence.count(".") == 1
    assert "pip install no_such_package_a no_such_package_b" in sentence
    with pytest.raises(ExportError, match="not installed"):
        job.check_request(job.Request("tiny-gpt2", tmp_path / "model.onnx", TINY, opset=20))
    assert describe(_model("new:gpt2?n_layer=1")).missing == sentence


@pytest.mark.slow
def test_a_file_that_is_no_graph_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"onnxruntime cannot read “model\.onnx”"):
        _run(job.Request("new:gpt2?n_layer=1", path, TINY, export=False))
