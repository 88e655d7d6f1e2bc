"""Folders that are broken or hostile end in one sentence, before transformers sees them."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.contract import ModelLoadError
from core.models import config_bounds
from core.models.preflight import SIZE_CAPS_BYTES, check_folder
from tests.models import build_gpt2

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpt2(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def _config(**changes: Any) -> Change:
    return _edit("config.json", **changes)


def _edit(file: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))

    return change


def _write(file: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def _cut(to: int | float) -> Change:
    """Keep so many bytes of the weights, or that share."""

    def change(folder: Path) -> None:
        path = folder / WEIGHTS
        os.truncate(path, int(to * path.stat().st_size) if isinstance(to, float) else to)

    return change


def _index(weight_map: object) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return change


def _only(name: str) -> Change:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def _replaced(file: str, make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        make(folder)

    return change


def _header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


REFUSED: dict[str, tuple[Change, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "“model” is not a model folder: it has no config.json"),
    "empty config": (_write("config.json", ""), "config.json in “model” is not valid JSON"),
    "cut config": (_write("config.json", '{"model_type": "gp'), "is not valid JSON"),
    "config in latin-1": (_write("config.json", '{"é": 1}'.encode("latin-1")), "is not valid JSON"),
    "config is a list": (_write("config.json", "[]"), "is not a JSON object"),
    "config is null": (_write("config.json", "null"), "is not a JSON object"),
    "config nested": (_write("config.json", '{"a":' + "[" * 100 + "]" * 100 + "}"), "nested too deeply"),
    "config bomb": (_write("config.json", '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"), "nested too deeply"),
    "config too large": (_write("config.json", " " * (1 << 20) + "{}"), "more than the 1 MiB"),
    "key twice": (_write("config.json", '{"model_type": "gpt2", "model_type": "t5"}'), "“model_type” twice"),
    "config is a folder": (_replaced("config.json", lambda f: (f / "config.json").mkdir()), "not a regular file"),
    "config is a pipe": (_replaced("config.json", lambda f: os.mkfifo(f / "config.json")), "not a regular file"),
    "config is a device": (
        _replaced("config.json", lambda f: (f / "config.json").symlink_to("/dev/zero")),
        "not a regular file",
    ),
    "config links to itself": (
        _replaced("config.json", lambda f: (f / "config.json").symlink_to(f / "config.json")),
        "cannot be read",
    ),
    "config links nowhere": (
        _replaced("config.json", lambda f: (f / "config.json").symlink_to(f / "gone")),
        "cannot be read",
    ),
    "tokenizer is a pipe": (
        _replaced("tokenizer.json", lambda f: os.mkfifo(f / "tokenizer.json")),
        "tokenizer.json in “model” is not a regular file",
    ),
    "generation_config broken": (
        _write("generation_config.json", "{"),
        "generation_config.json in “model” is not valid",
    ),
    "no model_type": (_config(model_type=None), "does not say what kind of model"),
    "code in config": (_config(auto_map={"AutoModel": "x.Y"}), "run its own code .auto_map in config.json."),
    "code in tokenizer": (
        _edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}),
        "run its own code",
    ),
    "encoder-decoder": (_config(is_encoder_decoder=True), "encoder-decoder model .gpt2."),
    "masked": (_config(architectures=["BertForMaskedLM"]), "predicts masked tokens"),
    "classifier": (_config(architectures=["GPT2ForSequenceClassification"]), "classifies texts"),
    "a million layers": (_config(n_layer=1_000_000), "n_layer = 1000000; it must be a whole number from 1 to 512"),
    "no heads": (_config(n_head=0), "n_head = 0"),
    "negative width": (_config(n_embd=-48), "n_embd = -48"),
    "width as text": (_config(n_embd="48"), "n_embd = 48"),
    "layers true": (_config(n_layer=True), "n_layer = True"),
    "vocabulary null": (_config(vocab_size=None), "vocab_size = None"),
    "huge positions": (_config(n_positions=10_000_000_000), "n_positions"),
    "nested config": (_config(text_config={"num_hidden_layers": 9999}), "num_hidden_layers = 9999"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "“model” has no weights: model.safetensors is missing"),
    "pickle": (_only("pytorch_model.bin"), "pytorch_model.bin, a pickle, .* save_pretrained"),
    "checkpoint": (_only("model.ckpt"), "model.ckpt, a pickle"),
    "torch file": (_only("weights.pt"), "weights.pt, a pickle"),
    "tensorflow": (_only("tf_model.h5"), "tf_model.h5 .TensorFlow."),
    "gguf": (_only("model.gguf"), "model.gguf .GGUF."),
    "other name": (_only("weights.safetensors"), "weights.safetensors, but no model.safetensors"),
    "weights are a folder": (_replaced(WEIGHTS, lambda f: (f / WEIGHTS).mkdir()), "not a regular file"),
    "weights are a pipe": (_replaced(WEIGHTS, lambda f: os.mkfifo(f / WEIGHTS)), "not a regular file"),
    "weights link nowhere": (_replaced(WEIGHTS, lambda f: (f / WEIGHTS).symlink_to("gone")), "cannot be read"),
    "weights empty": (_cut(0), "is not a safetensors file"),
    "weights cut in the header": (_cut(100), "ends inside its header"),
    "weights cut in the middle": (_cut(0.5), r"is incomplete: [\d,]+ of [\d,]+ bytes are there; download it again"),
    "weights cut by one byte": (lambda f: _cut((f / WEIGHTS).stat().st_size - 1)(f), "is incomplete"),
    "weights too long": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"),
        "longer than its header says",
    ),
    "weights no safetensors": (_write(WEIGHTS, b"PK\x03\x04" + b"\xff" * 60), "is not a safetensors file"),
    "git lfs pointer": (_write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "header no JSON": (_write(WEIGHTS, _header(b"{nonsense")), "damaged header"),
    "header a list": (_write(WEIGHTS, _header(b"[1]")), "damaged header"),
    "header without offsets": (_write(WEIGHTS, _header(b'{"a": {"dtype": "F32"}}')), "damaged header"),
    "header nested": (_write(WEIGHTS, _header(b"[" * 200_000)), "damaged header"),
    "index outside": (_index({"a": "../../secret.safetensors"}), "which is not a safetensors file of that folder"),
    "index absolute": (_index({"a": "/etc/passwd"}), "which is not a safetensors file of that folder"),
    "index windows path": (_index({"a": "C:\\x.safetensors"}), "which is not a safetensors file of that folder"),
    "index pickle": (_index({"a": "x.bin"}), "which is not a safetensors file of that folder"),
    "index of a missing file": (_index({"a": "model-2.safetensors"}), "model-2.safetensors is missing"),
    "index empty": (_index({}), "names no weight files"),
    "index is text": (_index("x"), "names no weight files"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_is_refused_in_one_sentence(folder: Path, case: str) -> None:
    change, sentence = REFUSED[case]
    change(folder)
    with pytest.raises(ModelLoadError, match=sentence) as raised:
        check_folder(folder)
    assert "\n" not in raised.value.message
    assert raised.value.message.endswith(".")


def test_a_good_folder_passes(good: Path) -> None:
    checked = check_folder(good)
    assert checked.config["model_type"] == "gpt2"
    assert checked.weight_files == (good / WEIGHTS,)
    assert checked.has_tokenizer


def test_an_index_with_its_files_passes(folder: Path) -> None:
    _index({"a": "model-00001-of-00001.safetensors"})(folder)
    assert [path.name for path in check_folder(folder).weight_files] == ["model-00001-of-00001.safetensors"]


def test_links_pass_inside_the_folder_and_as_the_hugging_face_cache_makes_them(good: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    snapshot = Path(shutil.copytree(good, repository / "snapshots" / "c0ffee"))
    (snapshot / "config.json").rename(snapshot / "other.json")
    (snapshot / "config.json").symlink_to("other.json")
    for name, place in (("tokenizer.json", repository / "blobs"), (WEIGHTS, tmp_path / "blobs")):
        (snapshot / name).rename(place / name)
        (snapshot / name).symlink_to(os.path.relpath(place / name, snapshot))
    assert check_folder(snapshot).weight_files == (snapshot / WEIGHTS,)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(ModelLoadError, match=r"config\.json in “org/name” is a link to a file outside"):
        check_folder(snapshot)


def test_a_tokenizer_is_not_required(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert not check_folder(folder).has_tokenizer


@pytest.mark.parametrize("file", SIZE_CAPS_BYTES)
def test_every_file_has_a_cap(folder: Path, file: str) -> None:
    with (folder / file).open("wb") as stream:
        stream.truncate(SIZE_CAPS_BYTES[file] + 1)
    with pytest.raises(ModelLoadError, match="such a file may have"):
        check_folder(folder)


@pytest.mark.parametrize("bound", config_bounds.BOUNDS, ids=lambda bound: bound.names[0])
def test_every_bound_holds_at_both_ends(bound: config_bounds.Bound) -> None:
    for name in bound.names:
        for value in (bound.low, bound.high, [bound.low, bound.high]):
            config_bounds.check_config("m", {"model_type": "x", name: value})
        for value in (bound.low - 1, bound.high + 1, 1.5, [], [bound.high + 1]):
            with pytest.raises(ModelLoadError, match=name):
                config_bounds.check_config("m", {"model_type": "x", name: value})
