"""Tokenizers that nobody vouches for encode in a child: as they would here, and for a bounded time."""

from __future__ import annotations

import gc
import json
import queue
import threading
import time
from pathlib import Path

import psutil
import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from core.contract import (
    CommandRefused,
    LoadFailed,
    ModelLoadError,
    ModelReady,
    ModelSpec,
    Planned,
    PreviewModel,
    PreviewPlan,
    Prompt,
    PromptCancelledError,
    PromptError,
    RunFinished,
    RunSpec,
    StepSnapshot,
    Tokenize,
    Tokenized,
)
from core.domains import encoding
from core.domains.encoding import SandboxedEncoder, encode_limits
from core.domains.sandbox import Limits
from core.domains.sandboxed import Refusal
from core.errands import Errands
from core.models import preview as preview_module
from core.models.try_tokenizer import _check_file
from tests.campaign.driver import Driver, errors
from tests.models import build_gpt2, build_sentencepiece_tokenizer, build_tokenizer

HANGING = "q" * 2_000  # quadratic in a run of q, from each of its letters; no probe has one
TEXTS = ("", " ", "Once upon a time, é 👍 <|endoftext|> 12", "a\n\n\tb\u202e", "\x00", "you " * 30_000)


def never() -> bool:
    return False


def build_hostile(folder: Path) -> Path:
    """A model whose tokenizer passes its trial and never comes back from a run of q."""
    build_gpt2(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "q+q+(?<=x)"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENGLASS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("build", [build_tokenizer, build_sentencepiece_tokenizer])
def test_ids_are_those_of_the_tokenizer_itself(tmp_path: Path, build: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build(tmp_path / "tokenizer"))  # type: ignore[operator]
    encoder = SandboxedEncoder(tokenizer, tmp_path / "tokenizer")
    for text in TEXTS:
        for special in (True, False):
            assert encoder.encode(text, special, never) == tokenizer.encode(text, add_special_tokens=special)


def test_a_tokenizer_written_in_python_encodes_in_the_child_too(tmp_path: Path) -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    encoder = SandboxedEncoder(tokenizer, tmp_path / "t5")
    assert encoder.encode("é 1", True, never) == tokenizer.encode("é 1")


def test_a_text_without_end_costs_its_process_and_one_sentence(tmp_path: Path) -> None:
    folder = build_hostile(tmp_path / "model")
    encoder = SandboxedEncoder(AutoTokenizer.from_pretrained(folder), folder)
    good = encoder.encode("quick", True, never)
    begun = time.monotonic()
    with pytest.raises(PromptError, match=r"took longer than it may") as raised:
        encoder.encode(HANGING, True, never)
    assert time.monotonic() - begun < 10
    assert raised.value.message.isprintable()
    assert encoder.encode("quick ", True, never)[: len(good)] == good


def test_waiting_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    folder = build_hostile(tmp_path / "model")
    encoder = SandboxedEncoder(AutoTokenizer.from_pretrained(folder), folder)
    encoder.encode("quick", True, never)
    stop = threading.Event()
    refused: list[PromptError] = []

    def wait() -> None:
        try:
            encoder.encode(HANGING, True, stop.is_set)
        except PromptError as error:
            refused.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(2)]  # the second one waits for the first one's child
    for thread in waiting:
        thread.start()
    begun = time.monotonic()
    stop.set()
    for thread in waiting:
        thread.join(10)
    assert time.monotonic() - begun < 10
    assert [type(error) for error in refused] == [PromptCancelledError] * 2


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_tokenizer(tmp_path / "tokenizer")
    monkeypatch.setattr(encoding, "_MEMORY_BYTES", 8 << 20)
    monkeypatch.setattr(encoding, "encode_limits", lambda _n: Limits(30, cpu_s=30, memory_bytes=8 << 20))
    encoder = SandboxedEncoder(AutoTokenizer.from_pretrained(folder), folder)
    with pytest.raises(PromptError, match="needed more than the 8 MB"):
        encoder.encode("The dog was happy. " * 100_000, True, never)


def test_the_child_ends_with_the_encoder(tmp_path: Path) -> None:
    folder = build_tokenizer(tmp_path / "tokenizer")
    before = {child.pid for child in psutil.Process().children()}
    encoder = SandboxedEncoder(AutoTokenizer.from_pretrained(folder), folder)
    encoder.encode("a", True, never)
    (child,) = {child.pid for child in psutil.Process().children()} - before
    del encoder
    gc.collect(0)
    assert not psutil.pid_exists(child)


def test_long_texts_have_time() -> None:
    assert encode_limits(1 << 20).wall_s > 5
    assert encode_limits(10).wall_s >= 2


@pytest.mark.parametrize("regex", ["(a+)+$", "q*", "x{9}"])
def test_a_decoder_that_repeats_a_pattern_is_refused(tmp_path: Path, regex: str) -> None:
    step = {"type": "Replace", "pattern": {"Regex": regex}, "content": ""}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, step]}}))
    with pytest.raises(Refusal, match="its decoder searches for the repeating pattern"):
        _check_file(file)
    step["pattern"] = {"Regex": "▁|_"}
    file.write_text(json.dumps({"decoder": step}))
    _check_file(file)


def test_the_worker_runs_on_while_a_draft_hangs(tmp_path: Path) -> None:
    folder = build_hostile(tmp_path / "model")
    driver = Driver(None)
    try:
        driver.load(ModelSpec(str(folder), "cpu", "fp32"))
        driver.until(lambda: any(isinstance(e, ModelReady | LoadFailed) for e in driver.events))
        assert not errors(driver.events)
        driver.submit(Tokenize(1, Prompt(text="quick")))
        driver.until_event(Tokenized, since=0)
        driver.submit(Tokenize(2, Prompt(text=HANGING)))
        done = driver.run((Prompt(ids=(1, 2, 3)),), max_new_tokens=20)
        assert done.new_tokens == 20
        assert not [e for e in driver.events if isinstance(e, Tokenized) and e.generation == 2]
        driver.submit(PreviewPlan(1, RunSpec((Prompt(text=HANGING),))))
        begun = time.monotonic()
        assert driver.run((Prompt(ids=(1, 2, 3)),)).new_tokens == 6
        assert time.monotonic() - begun < 10
        planned = driver.until_event(Planned, since=0)
        assert planned.plan is None
        assert "took longer than" in planned.error.message
        driver.submit(PreviewPlan(2, RunSpec((Prompt(text="quick"),))))
        driver.until(lambda: any(isinstance(e, Planned) and e.plan is not None for e in driver.events))
        driver.submit(Tokenize(3, Prompt(text=HANGING + "r")), Tokenize(4, Prompt(text="quick brown")))
        driver.until(lambda: any(isinstance(e, Tokenized) and e.generation == 4 for e in driver.events))
        told = [e for e in driver.events if isinstance(e, Tokenized)]
        assert [e.generation for e in told if e.row is not None] == [1, 4]
        assert driver.alive
    finally:
        driver.close()


def test_a_run_on_a_hanging_prompt_is_stopped_at_once_or_refused_in_time(tmp_path: Path) -> None:
    folder = build_hostile(tmp_path / "model")
    driver = Driver(None)
    try:
        driver.load(ModelSpec(str(folder), "cpu", "fp32"))
        driver.until_event(ModelReady, since=0)
        driver.run((Prompt(text="quick"),))
        driver.forget()
        driver.start((Prompt(text=HANGING),))
        refused = driver.until_event(CommandRefused, since=0)
        assert "took longer than" in refused.error.message
        driver.forget()
        driver.run((Prompt(text="quick"),))
        driver.start((Prompt(text=HANGING),))
        begun = time.monotonic()
        driver.settle()
        assert time.monotonic() - begun < 10
        assert [e.error.code for e in driver.events if isinstance(e, CommandRefused)] == ["prompt_cancelled"]
        assert driver.run((Prompt(text="quick"),)).new_tokens == 6
    finally:
        driver.close()


def test_a_preview_that_waits_for_the_network_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen = threading.Event(), threading.Event()

    def silent(_hub: object, control: object) -> None:
        asked.set()
        while not control.cancelled():  # type: ignore[attr-defined]
            time.sleep(0.01)
        seen.set()
        raise ModelLoadError("The hub was not asked to the end.")

    monkeypatch.setattr(preview_module, "survey", silent)
    driver = Driver()
    try:
        run_id = driver.start(max_new_tokens=400)
        driver.until(lambda: len(driver.steps(run_id)) > 2)
        driver.submit(PreviewModel(1, ModelSpec("nobody/nothing-of-the-kind")))
        assert asked.wait(10)
        count = len(driver.steps(run_id))
        driver.until(lambda: len(driver.steps(run_id)) > count + 20)
        driver.submit(PreviewModel(2, ModelSpec("tiny-gpt2")))  # a later one ends it
        assert seen.wait(10)
        driver.until(lambda: any(getattr(e, "preview", None) is not None for e in driver.events))
        assert not [e for e in driver.events if getattr(e, "generation", 0) == 1]
        driver.until(lambda: driver.finished(run_id) is not None)
        assert isinstance(driver.finished(run_id), RunFinished)
        assert any(isinstance(e, StepSnapshot) for e in driver.events)
        asked.clear()
        driver.submit(PreviewModel(3, ModelSpec("nobody/nothing-of-the-kind")))
        assert asked.wait(10)
    finally:
        begun = time.monotonic()
        driver.close()
        assert time.monotonic() - begun < 10


def test_of_the_errands_that_wait_the_latest_wins() -> None:
    errands, done, begun, go = Errands(pytest.fail), [], threading.Event(), threading.Event()

    def first(cancelled: object) -> None:
        begun.set()
        go.wait(10)
        done.append(1)

    errands.send("a", first)
    assert begun.wait(10)
    errands.send("a", lambda _cancelled: done.append(2))
    errands.send("a", lambda _cancelled: done.append(3))
    errands.send("b", lambda _cancelled: go.set())
    deadline = time.monotonic() + 10
    while len(done) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    errands.close()
    assert done == [1, 3]


def test_an_errand_that_fails_does_not_keep_the_next_one_from_going() -> None:
    told, done = queue.SimpleQueue[BaseException](), threading.Event()
    errands, problem = Errands(told.put), MemoryError()

    def fails(_cancelled: object) -> None:
        raise problem

    errands.send("a", fails)
    assert told.get(timeout=10) is problem
    errands.send("a", lambda _cancelled: done.set())
    assert done.wait(10)
    errands.close()
