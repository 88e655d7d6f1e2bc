"""Experiments on a model in 16 bits: what should be the same is compared in float32, and a small error is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.api import load_model
from core.cache_lab import prefix, run
from core.cache_lab.board import Feeder
from core.contract import CacheSpec, Experiment, ExperimentName, LabResult, OutOfMemoryError, Prompt
from core.models.loaded import LoadedModel

PROMPT = Prompt(text="Once upon a time")


@pytest.fixture(scope="module")
def coarse() -> LoadedModel:
    return load_model("tiny-gpt2", "cpu", "bf16")


def lab(loaded: LoadedModel, name: ExperimentName, **more: Any) -> LabResult:
    return run(loaded, Experiment(name, PROMPT, **{"new_tokens": 4, **more}))


def checks(result: LabResult) -> list[bool]:
    return [finding.holds for finding in result.findings if finding.holds is not None]


def test_the_prefix_is_compared_in_float32(coarse: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    result = lab(coarse, "prefix")
    assert result.dtype == "fp32"
    assert "float32 copy" in result.findings[0].text
    assert checks(result) == [True, True, True]
    assert str(coarse.module.dtype) == "torch.bfloat16"  # the model in use is as it was
    copies, found = prefix._copies, []

    def bent(cache, count):  # type: ignore[no-untyped-def]
        found.append(copies(cache, count))
        return [(k + 1e-2 * (len(found) > 1), v) for k, v in found[-1]]

    monkeypatch.setattr(prefix, "_copies", bent)
    assert not any(finding.holds for finding in lab(coarse, "prefix").findings)  # a hundredth is noticed
    monkeypatch.setattr("core.cache_lab.board.available_bytes", lambda device: 10)
    with pytest.raises(OutOfMemoryError, match="float32 copy"):
        lab(coarse, "prefix")


def _bend(monkeypatch: pytest.MonkeyPatch, chosen: Any) -> None:
    feed = Feeder.feed

    def bent(self: Feeder, ids: Any) -> tuple[torch.Tensor, float]:
        logits, spent_ms = feed(self, ids)
        return logits + 1e-2 * chosen(self, ids), spent_ms

    monkeypatch.setattr(Feeder, "feed", bent)


def test_tokens_with_and_without_a_cache_are_compared_in_float32(
    coarse: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = lab(coarse, "why", new_tokens=24)
    assert result.dtype == "fp32"
    assert checks(result) == [True, True, True]  # the logits, uncached, generate()
    assert "in float32" in next(f.text for f in result.findings if "logits" in f.text)
    _bend(monkeypatch, lambda feeder, ids: feeder.cache.feeds_all)
    assert checks(lab(coarse, "why")) == [False, True, True]  # a hundredth changes no token, and is noticed


def test_chunks_are_timed_as_loaded_and_compared_in_float32(
    coarse: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[tuple[str, int]] = []
    _bend(monkeypatch, lambda feeder, ids: fed.append((str(feeder.cache.layers[0].keys.dtype), len(ids))) or 0.0)
    result = lab(coarse, "chunks", positions=20, chunk_sizes=(5, 7))
    assert result.dtype == "bf16"  # that of the times
    assert checks(result) == [True]
    rows = [("torch.bfloat16", n) for n in (20, 20, 7, 7, 6, 5, 5, 5, 5)]  # the first of all warms up
    assert fed == rows + [("torch.float32", n) for _, n in rows[1:]]
    assert [row[0] for row in result.tables[0].rows] == [5, 7, 20]
    assert [float(row[4] or 0) for row in result.tables[0].rows][2] == 0.0
    assert 0 < max(float(row[4] or 0) for row in result.tables[0].rows) < 1e-3
    with monkeypatch.context() as scarce:  # no memory for the copy: the times hold all the same
        scarce.setattr("core.cache_lab.board.available_bytes", lambda device: 10)
        timed = lab(coarse, "chunks", positions=20, chunk_sizes=(5, 7))
    assert checks(timed) == []
    assert "float32 copy" in timed.findings[-1].text
    assert [row[4] for row in timed.tables[0].rows] == [None, None, None]
    assert len(timed.series) == 3
    _bend(monkeypatch, lambda feeder, ids: len(ids) == 5)
    assert checks(lab(coarse, "chunks", positions=20, chunk_sizes=(5, 7))) == [False]


def test_kinds_are_compared_with_the_sizes_that_were_asked_for(coarse: LoadedModel) -> None:
    found = lab(coarse, "kinds", window=3, sinks=2, heavy=5).tables[0]
    kept = {CacheSpec("sliding_window", 3).words(), CacheSpec("sink", 3, 2).words()}
    assert {*kept, CacheSpec("heavy_hitters", 3, heavy=5).words()} < {row[0] for row in found.rows}
    result = lab(coarse, "kinds", window=100_000)
    assert sum("Left out. The window of 100,000" in finding.text for finding in result.findings) == 3
