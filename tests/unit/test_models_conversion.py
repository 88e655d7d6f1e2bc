"""GGUF files become safetensors folders in a child process: exact, atomic, cancellable, once."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest
import torch
from safetensors.torch import load_file

from core.contract import LoadCancelledError, ModelLoadError, ModelSpec
from core.models import conversion, sources
from core.models.conversion import cache_root, converted_folder, ensure_converted
from core.models.convert_gguf import _publish, partial_folder
from core.models.loader import load
from core.models.sources import SMOLLM2_FILE, SMOLLM2_PACKAGE, list_models
from tests.gguf_file import build_gguf


@dataclass
class Control:
    """Remembers what it is told; `at` is called with each stage and may ask for a cancel."""

    at: Callable[[str], bool] = lambda stage: False
    told: list[tuple[str, float | None]] = field(default_factory=list)
    stop: bool = False

    def progress(self, stage: str, fraction: float | None) -> None:
        self.told.append((stage, fraction))
        self.stop = self.stop or self.at(stage)

    def cancelled(self) -> bool:
        return self.stop


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path | None:
    if "smollm2" in request.node.name:
        return None  # the real model is converted once, into the cache of the session
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_gguf(tmp_path_factory.mktemp("gguf"), end_of_turn=5)


def _children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "core.models.convert_gguf" in p.cmdline()]


def _left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "converted").iterdir()]


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    assert cache_root() == own_cache
    monkeypatch.delenv("TOKENGLASS_CACHE")
    assert cache_root().name == "tokenglass"
    assert cache_root().is_relative_to(Path.home())


def test_a_converted_model_is_the_one_in_the_file(
    tiny: tuple[Path, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same tensors to the bit, same tokens, end tokens and chat template; the second load converts nothing."""
    source, path = tiny
    (own_cache / "package").mkdir(parents=True)
    (own_cache / "package" / SMOLLM2_FILE).write_bytes(path.read_bytes())
    monkeypatch.setattr(sources, "_smollm2_file", lambda: own_cache / "package" / SMOLLM2_FILE)
    control = Control()
    model = load(ModelSpec("smollm2", "cpu", "fp32"), 1, control)

    stages = list(dict.fromkeys(stage for stage, _ in control.told))
    assert stages[:3] == ["Converting", "Reading the GGUF file", "De-quantising weights"]
    assert ("Saving the converted model", 1.0) in control.told
    assert stages[-1] == "Moving to cpu"
    original = load_file(source / "model.safetensors")
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[name], weights) for name, weights in original.items())
    reference = load(ModelSpec(str(source), "cpu", "fp32"), 1, Control())
    assert model.text.encode("the dog, 12") == reference.text.encode("the dog, 12")
    assert model.text.tokenizer.chat_template == reference.text.tokenizer.chat_template
    assert model.info.eos_token_ids == (0, 5)
    assert model.info.bos_token_id == 0

    again = Control()
    load(ModelSpec("smollm2", "cpu", "bf16"), 1, again)
    assert again.told[0][0] == "Loading the tokenizer"
    assert len(_left(own_cache)) == 1


def test_quantised_weights_are_what_the_file_says_in_fp32(tmp_path: Path) -> None:
    _, path = build_gguf(tmp_path, quantised=True)
    folder = converted_folder(path, Control())
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")  # a damaged copy is made again
    assert ensure_converted(path, Control()) == folder
    weights = load_file(folder / "model.safetensors")
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_up.weight")
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1
    expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], expected)
    assert not torch.equal(expected, expected.bfloat16().float())  # bf16 would not have kept them
    assert "quantization_config" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("stage", ["Converting", "Reading the GGUF file"])
def test_a_cancelled_conversion_leaves_nothing(tiny: tuple[Path, Path], own_cache: Path, stage: str) -> None:
    control = Control(at=lambda told: told == stage)
    with pytest.raises(LoadCancelledError):
        ensure_converted(tiny[1], control)
    assert _children() == []
    assert _left(own_cache) == []


def test_a_failing_listener_ends_the_child(tiny: tuple[Path, Path], own_cache: Path) -> None:
    def fail(stage: str) -> bool:
        if stage == "Reading the GGUF file":
            raise RuntimeError("the window is gone")
        return False

    with pytest.raises(RuntimeError, match="the window is gone"):
        ensure_converted(tiny[1], Control(at=fail))
    assert _children() == []
    assert _left(own_cache) == []


def test_a_file_that_is_no_gguf_is_one_sentence(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))  # a header of nothing
    with pytest.raises(ModelLoadError, match=r"^x\.gguf could not be converted: ") as raised:
        ensure_converted(path, Control())
    assert "\n" not in raised.value.message
    assert "Traceback" in raised.value.detail
    assert _left(own_cache) == []


def test_copies_of_dead_converters_are_removed_and_those_of_others_are_not(
    tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    dest = converted_folder(tiny[1], Control())
    abandoned, alive = partial_folder(dest, dead.pid), partial_folder(dest, os.getpid())
    for folder in (abandoned, alive):
        folder.mkdir(parents=True)
    monkeypatch.setattr(conversion, "_convert", lambda *_: None)
    ensure_converted(tiny[1], Control())
    assert not abandoned.exists()
    assert alive.exists()


def test_the_second_of_two_converters_keeps_the_copy_of_the_first(tmp_path: Path) -> None:
    first, second, dest = (tmp_path / name for name in ("first", "second", "dest"))
    for folder in (first, second):
        folder.mkdir()
        (folder / "made_by").write_text(folder.name)
        _publish(folder, dest)
    assert (dest / "made_by").read_text() == "first"


def test_what_cannot_be_published_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    with pytest.raises(OSError, match="No such file"):
        _publish(tmp_path / "partial", tmp_path / "gone" / "dest")


@pytest.mark.slow
def test_two_conversions_at_once_are_safe(tiny: tuple[Path, Path], own_cache: Path) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_converted(tiny[1], Control()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert _left(own_cache) == [found[0].name]


def test_a_cache_that_cannot_be_written_says_which(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="TOKENGLASS_CACHE can name another folder"):
        ensure_converted(tiny[1], Control())


@pytest.mark.slow
@pytest.mark.skipif(
    not any(source.name == "smollm2" and source.available for source in list_models()),
    reason=f"{SMOLLM2_PACKAGE} is not installed",
)
def test_smollm2_answers_in_every_precision() -> None:
    for dtype in ("fp32", "bf16"):
        model = load(ModelSpec("smollm2", "cpu", dtype), 1, Control())
        assert (model.info.parameters, model.info.max_positions) == (134_515_008, 8192)
        assert (model.info.kv_heads, model.info.heads, model.info.eos_token_ids) == (3, 9, (2,))
        prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        ids = model.text.encode(prompt, add_special_tokens=False)
        with torch.inference_mode():
            out = model.module.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=16, do_sample=False
            )
        assert model.text.decode(out[0, len(ids) :].tolist()) == "The capital of France is Paris.<|im_end|>"
