"""GGUF files by their path: read by Python alone first, converted in a child with limits."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
import torch

from core.contract import ModelLoadError, ModelSpec
from core.domains.sandbox import Limits
from core.models import conversion
from core.models.gguf_header import read_gguf_header
from core.models.loader import load
from tests.gguf_file import HEADS, KV_HEADS, WIDTH, build_gguf


class Control:
    def progress(self, stage: str, fraction: float | None) -> None:
        pass

    def cancelled(self) -> bool:
        return False


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _load(path: Path) -> object:
    return load(ModelSpec(str(path), "cpu", "fp32"), 1, Control())


def test_a_file_is_a_model_by_its_path(tiny: tuple[Path, Path]) -> None:
    source, path = tiny
    model, reference = (load(ModelSpec(str(p), "cpu", "fp32"), 1, Control()) for p in (path, source))
    assert model.info.title == "tiny"
    with torch.inference_mode():
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(model.module(ids).logits, reference.module(ids).logits)
    assert model.info.has_chat_template


def test_its_header_says_what_is_in_it(tiny: tuple[Path, Path]) -> None:
    header = read_gguf_header(tiny[1])
    assert (header.architecture, header.tokens) == ("llama", 300)
    assert header.number("block_count") == 2
    assert (header.number("attention.head_count"), header.number("attention.head_count_kv")) == (HEADS, KV_HEADS)
    assert header.number("embedding_length") == WIDTH
    assert header.number("no_such_thing") is None


HEADERS = {
    "empty": (b"", "does not begin with GGUF"),
    "another file": (b"PK\x03\x04" * 100, "does not begin with GGUF"),
    "cut": (b"GGUF\x03\x00", "ends inside its header; download it again"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1, not 2 or 3"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims to hold 1,152,921,504,606,846,976 tensors"),
    "many values": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "and 1,099,511,627,776 values"),
    "long name": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "a text claims to have"),
    "unknown type": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99), "unknown type 99"),
    "long list": (
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 40),
        "a list claims to have",
    ),
    "lists of lists": (
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50,
        "unknown type 9",
    ),
    "dimensions": (
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"a" + struct.pack("<I", 1000),
        "a tensor has 1,000 dimensions",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_bad_header_is_one_sentence_before_anything_else_reads_it(tmp_path: Path, case: str) -> None:
    data, says = HEADERS[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=says) as raised:
        _load(path)
    assert raised.value.message.isprintable()
    assert not (tmp_path / "cache").exists()


def test_damaged_headers_never_hang_or_fill_memory(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    chance, good = random.Random(1), tiny[1].read_bytes()[: 1 << 15]
    path = tmp_path / "x.gguf"
    for _ in range(500):
        data = bytearray(good[: chance.choice([len(good), chance.randrange(len(good))])])
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            assert read_gguf_header(path).parameters >= 0
        except ModelLoadError as error:
            assert error.message.endswith(".")  # noqa: PT017  either way is right


def test_a_file_that_needs_too_much_room_is_refused(tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(ModelLoadError, match="takes 275 kB of disk when it is converted and 0 B are free"):
        _load(tiny[1])
    monkeypatch.setattr(conversion, "_FP32_BYTES", 1 << 40)
    with pytest.raises(ModelLoadError, match="TB of memory when it is converted"):
        _load(tiny[1])


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(wall_s=0.01, may_write=True), "could not be converted: It took longer than 0.01 s"),
        (Limits(wall_s=60, memory_bytes=8 << 20, may_write=True), "could not be converted: "),
    ],
)
def test_a_conversion_has_limits(
    tiny: tuple[Path, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, says: str
) -> None:
    monkeypatch.setattr(conversion, "conversion_limits", lambda *_: limits)
    with pytest.raises(ModelLoadError, match=says):
        _load(tiny[1])
    assert list((own_cache / "converted").iterdir()) == []


def test_real_files_stay_within_the_limits() -> None:
    """SmolLM2: 98 MB, 135 M parameters, 9 s and 1.2 GB."""
    limits = conversion.conversion_limits(98_362_432, 134_515_008)
    assert limits.wall_s > 300
    assert (limits.memory_bytes or 0) > 6e9


def test_a_header_of_endless_lists_is_given_up_soon(tmp_path: Path) -> None:
    """Of 256 MB of empty texts each would be a step of Python: half a minute in which the worker does nothing else."""
    texts = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 20) + struct.pack("<Q", 0) * (1 << 20)
    path = tmp_path / "endless.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 8) + texts * 8)
    with pytest.raises(ModelLoadError, match="does not end"):
        read_gguf_header(path)
