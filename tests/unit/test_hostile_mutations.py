"""Random damage to the three files that parsers read: every mutation is refused in one sentence, or harmless."""

from __future__ import annotations

import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from core.contract import ModelLoadError, ModelSpec
from core.domains.sandbox import Limits, Sandbox, SandboxError
from core.models.loader import load
from tests.hostile import build_base

SHORT, LONG = 100, 2000
MOST_S = 10.0  # for one, on the clock of a machine that does other things
AMOUNTS = [
    pytest.param(SHORT, id="short"),
    pytest.param(LONG, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
]
INTERESTING = [
    b"0",
    b"-1",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"1e999",
    b"9" * 20,
    b"\x00",
    b"\xff",
    b'"',
    b",",
    b"}",
]
Mutate = Callable[[random.Random, bytes], bytes]


class Control:
    def progress(self, stage: str, fraction: float | None) -> None:
        pass

    def cancelled(self) -> bool:
        return False


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("mutations") / "base")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def mutate(chance: random.Random, data: bytes) -> bytes:
    """A few of: flipped bits, cut, doubled, removed or replaced parts, swapped numbers."""
    for _ in range(chance.randint(1, 3)):
        if not data:
            return data
        at = chance.randrange(len(data))
        span = at + chance.randint(1, 1 + len(data) // 20)
        data = chance.choice([
            data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :],
            data[:at],
            data[:span] + data[at:],
            data[:at] + data[span:],
            data[:at] + chance.choice(INTERESTING) + data[at + 1 :],
            _swap_number(chance, data),
        ])  # fmt: skip
    return data


def _swap_number(chance: random.Random, data: bytes) -> bytes:
    """One number of a JSON text becomes another value."""
    starts = [n for n, byte in enumerate(data) if 48 <= byte <= 57 and (n == 0 or not 48 <= data[n - 1] <= 57)]
    if not starts:
        return data
    start = end = chance.choice(starts)
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    return data[:start] + chance.choice(INTERESTING[:9]) + data[end:]


def _header_only(chance: random.Random, data: bytes) -> bytes:
    """The header of a safetensors file, its length sometimes wrong, the tensors as they are."""
    length = struct.unpack("<Q", data[:8])[0]
    header = mutate(chance, data[8 : 8 + length])
    claimed = len(header) if chance.random() < 0.8 else chance.choice([0, 1, length, 1 << 20, (1 << 64) - 1])
    return struct.pack("<Q", claimed) + header + data[8 + length :]


def _is_one_sentence(message: str) -> bool:
    return message.isprintable() and message.endswith(".") and len(message) < 500


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(
    ("file", "change"), [("config.json", mutate), ("model.safetensors", _header_only)], ids=["config", "weights"]
)
def test_damaged_files_are_refused_or_harmless(folder: Path, file: str, change: Mutate, amount: int) -> None:
    chance = random.Random(f"{file} {amount}")
    good = (folder / file).read_bytes()
    loaded = 0
    for n in range(amount):
        damaged = change(chance, good)
        (folder / file).write_bytes(damaged)
        started, refusal = time.monotonic(), None
        try:
            module = load(ModelSpec(str(folder), "cpu", "fp32"), 1, Control()).module
            with torch.inference_mode():
                module(torch.tensor([[1, 2, 3]]))
            loaded += 1
        except ModelLoadError as error:
            refusal = error.message
        assert refusal is None or _is_one_sentence(refusal), n
        assert time.monotonic() - started < MOST_S, n
        assert torch.get_default_dtype() == torch.float32
    assert loaded < amount  # of headers, hardly one in a thousand survives


@pytest.fixture
def trials() -> Iterator[Callable[[Path], bool]]:
    """Whether a folder's tokenizer passes, asked of one child as long as it lives."""
    alive: list[Sandbox] = []

    def passes(folder: Path) -> bool:
        if not alive or not alive[-1].alive:
            alive[:] = [Sandbox("core.models.try_tokenizer")]
        try:
            alive[-1].ask({"folder": str(folder)}, Limits(wall_s=5, cpu_s=4, memory_bytes=1 << 30))
        except SandboxError:
            return False
        return True

    yield passes
    for sandbox in alive:
        sandbox.close()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_damaged_tokenizer_that_passes_its_trial_works_here(
    folder: Path, trials: Callable[[Path], bool], amount: int
) -> None:
    chance = random.Random(amount)
    good = (folder / "tokenizer.json").read_bytes()
    passed = 0
    for _ in range(amount):
        (folder / "tokenizer.json").write_bytes(mutate(chance, good))
        if trials(folder):
            passed += 1
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer.decode(tokenizer.encode("Once upon a time, 123 é 👍"))
    assert 0 < passed < amount
