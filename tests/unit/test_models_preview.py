"""What a model would take is known before it is loaded, and is what it takes then."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from core import Lab
from core.contract import DtypeEstimate, ModelLoadError, ModelPreview, ModelPreviewed, ModelSpec, PreviewModel
from core.models import preview as preview_module
from core.models.conversion import converted_folder, ensure_converted
from core.models.gguf_header import read_gguf_header
from core.models.loader import load
from core.models.preview import preview
from core.models.sources import list_models
from tests.gguf_file import build_gguf
from tests.models import build_gpt2, build_llama, build_qwen2

SAME = ("title", "family", "parameters", "layers", "heads", "kv_heads", "head_dim", "hidden_size", "vocab_size",
        "max_positions", "device", "dtype", "notices")  # fmt: skip


class Control:
    def progress(self, stage: str, fraction: float | None) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def _preview(name: Path | str, dtype: str = "fp32") -> ModelPreview:
    return preview(ModelSpec(str(name), "cpu", dtype), Control())


def _builders() -> dict[str, object]:
    return {
        "gpt2": build_gpt2,
        "gpt2 not tied": lambda path: build_gpt2(path, tie_word_embeddings=False),
        "llama": build_llama,
        "llama tied": lambda path: build_llama(path, tie_word_embeddings=True),
        "qwen2 sliding": lambda path: build_qwen2(path, sliding_window=8),
    }


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [*_builders(), "tiny-gpt2", "new:gpt2?n_layer=2", "new:llama", "new:imagegpt"])
def test_a_preview_says_what_the_loaded_model_says(tmp_path: Path, name: str, dtype: str) -> None:
    build = _builders().get(name)
    place = name if build is None else build(tmp_path)  # type: ignore[operator]
    seen, info = _preview(place, dtype), load(ModelSpec(str(place), "cpu", dtype), 1, Control()).info
    for fact in SAME:
        assert getattr(seen, fact) == getattr(info, fact), fact
    assert seen.exact
    assert seen.download_bytes == 0
    assert seen.estimate() == DtypeEstimate(dtype, info.weight_bytes, info.kv_bytes_per_token)
    assert {estimate.dtype for estimate in seen.estimates} == {"fp32", "bf16"}
    assert seen.available_bytes > 0


def test_nothing_of_the_weights_is_read(tmp_path: Path) -> None:
    folder = build_llama(tmp_path)
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
        file.seek(header)
        file.write(b"\xff" * (path.stat().st_size - header))  # NaN, all of them
    assert _preview(folder).parameters == 68_976
    with pytest.raises(ModelLoadError, match="not numbers"):
        load(ModelSpec(str(folder), "cpu", "fp32"), 1, Control())


def test_whether_it_fits_is_said_in_bytes() -> None:
    seen = _preview("new:gpt2")
    estimate = seen.estimate("bf16")
    assert estimate.needed_bytes(10) == estimate.weight_bytes + 10 * estimate.kv_bytes_per_token
    whole = estimate.needed_bytes(seen.max_positions)

    def with_free(free: int) -> ModelPreview:
        values = {name: getattr(seen, name) for name in ModelPreview.__slots__}
        return ModelPreview(**values | {"available_bytes": free, "dtype": "bf16"})

    assert with_free(whole).missing_bytes() == 0
    assert with_free(whole - 7).missing_bytes() == 7
    assert with_free(whole - 7).missing_bytes(positions=0) == 0
    assert with_free(whole).missing_bytes("fp32") == whole
    assert with_free(whole).fitting_positions() == seen.max_positions
    assert with_free(whole - 1).fitting_positions() == seen.max_positions - 1
    assert with_free(estimate.weight_bytes - 1).fitting_positions() == 0


def test_a_gguf_file_is_counted_in_its_header_until_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))
    _, path = build_gguf(tmp_path, quantised=True)
    before = _preview(path)
    assert not before.exact
    ensure_converted(path, Control())
    after = _preview(path)
    assert after.exact
    for fact in ("parameters", "layers", "heads", "kv_heads", "head_dim", "hidden_size", "vocab_size", "max_positions"):
        assert getattr(before, fact) == getattr(after, fact), fact
    assert before.estimates == after.estimates


@pytest.mark.skipif(not list_models()[0].available, reason="smollm2 is not installed")
def test_smollm2_is_known_before_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path))
    seen = _preview("smollm2", "bf16")
    assert (seen.parameters, seen.layers, seen.heads, seen.kv_heads, seen.head_dim) == (134_515_008, 30, 9, 3, 64)
    assert (seen.vocab_size, seen.max_positions, seen.exact) == (49_152, 8192, False)
    assert seen.estimate() == DtypeEstimate("bf16", 269_030_016, 23_040)


def test_a_converted_copy_is_found_again_without_reading_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))
    _, path = build_gguf(tmp_path)
    folder = converted_folder(path, Control())
    monkeypatch.setattr("hashlib.file_digest", None)
    monkeypatch.setattr("core.models.conversion._digest", None)
    assert converted_folder(path, Control()) == folder
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(TypeError):
        converted_folder(path, Control())


def test_a_refused_folder_is_refused_in_the_same_words(tmp_path: Path) -> None:
    folder = build_gpt2(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for changes, says in (
        ({"n_layer": 10**9}, "n_layer = 1000000000"),
        ({"n_layer": 400}, "do not belong together"),
        ({"model_type": "vit"}, "vit model, which does not generate text"),
        ({"n_head": 7}, "does not describe a gpt2 model"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ModelLoadError, match=says):
            _preview(folder)


def test_whatever_is_raised_becomes_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RecursionError("a\nb")

    monkeypatch.setattr(preview_module, "resolve", fail)
    with pytest.raises(ModelLoadError, match=r"“x” cannot be looked at: RecursionError: a\.$"):
        _preview("x")


def test_a_gguf_file_that_is_no_language_model_says_so(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "clip.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("Clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf_header(path).architecture == "clip"
    with pytest.raises(ModelLoadError, match=r"clip is a GGUF file of clip, which does not say how large"):
        _preview(path)


def _answer(lab: Lab, generation: int) -> ModelPreviewed:
    found: list[ModelPreviewed] = []
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        found = [e for e in lab.drain() if isinstance(e, ModelPreviewed) and e.generation == generation]
        time.sleep(0.01)
    return found[0]


def test_the_worker_answers_without_loading_anything() -> None:
    lab = Lab()
    try:
        lab.submit(PreviewModel(1, ModelSpec("new:gpt2", "cpu", "fp32")))
        answer = _answer(lab, 1)
        assert answer.preview is not None
        assert answer.preview.parameters == 891_776
        lab.submit(PreviewModel(2, ModelSpec("new:gpt9", "cpu")))
        answer = _answer(lab, 2)
        assert answer.preview is None
        assert answer.error is not None
        assert "There is no new model “gpt9”" in answer.error.message
        for generation in range(3, 60):  # only the last of those that wait is worked on
            lab.submit(PreviewModel(generation, ModelSpec("new:llama", "cpu")))
        assert _answer(lab, 59).preview is not None
    finally:
        assert lab.close(30)


def test_a_preview_that_waits_for_the_hub_ends_with_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("DO_NOT_TRACK", "1")
        lab = Lab()
        lab.submit(PreviewModel(1, ModelSpec("org/name", "cpu")))
        silent.settimeout(60)
        connection, _ = silent.accept()
        begun = time.monotonic()
        assert lab.close(10)
        connection.close()
    assert time.monotonic() - begun < 5.0  # half a second on an idle machine
