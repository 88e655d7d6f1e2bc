"""Kinds compared: one text on every kind of cache, against the growing one, which keeps everything exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import torch

from core.cache_lab.board import Bench, Report
from core.contract.cache import CACHE_KINDS, WINDOWED, CacheKind, CacheSpec
from core.contract.cache_lab import Experiment
from core.contract.errors import ParameterError

COLUMNS = (
    "kind", "tokens/s", "first token, ms", "used, B", "allocated, B", "most allocated, B", "first divergence",
    "mean KL, bits", "most KL, bits", "choosing, ms a token",
)  # fmt: skip
LN2 = 0.6931471805599453


@dataclass
class _Row:
    """One kind's figures. kl: bits a step, of the growing cache's distribution against this one's."""

    spec: CacheSpec
    first_ms: float = 0.0
    step_ms: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    diverged: int | None = None
    used: int = 0
    allocated: int = 0
    most_allocated: int = 0
    score_ms: float = 0.0


def measure(bench: Bench) -> Iterator[Report]:
    """The growing cache says a greedy text; the others are fed that text, so that every step has the same past."""
    new = bench.experiment.new_tokens
    prompt = bench.prompt(new - 1)
    specs, left_out = _specs(bench, len(prompt) + new)
    yield bench.warm_up()
    kl, ms = bench.lane("What each kind changes", "bits", "step"), bench.lane("Time of a token", "ms", "step", log=True)
    told: list[torch.Tensor] = []  # (V,) log-probabilities of the growing cache
    said: list[int] = []
    rows: list[_Row] = []
    for number, spec in enumerate(specs):
        row = _Row(spec)
        rows.append(row)
        feeder = bench.feeder(spec, len(prompt) + new)
        for step in range(new):
            if step == 0:
                logits, row.first_ms = feeder.prefill(prompt)
            else:
                logits, spent_ms = feeder.feed(said[step - 1 : step])
                row.step_ms.append(spent_ms)
                bench.point(ms, spec.words(), step, spent_ms)
            _note(row, step, torch.log_softmax(logits.double(), -1), told, said)
            report = feeder.cache.report()
            row.used, row.allocated = report.used_bytes, report.allocated_bytes
            row.most_allocated = max(row.most_allocated, report.allocated_bytes)
            row.score_ms += report.score_ms
            if number:
                bench.point(kl, spec.words(), step, row.kl[-1])
            yield Report(f"{spec.words()}: {step + 1} of {new}", (number * new + step + 1) / (len(specs) * new))
        bench.table("Kinds", COLUMNS, [_cells(r) for r in rows])
    _conclude(bench, rows, left_out)
    yield Report("done", 1.0)


def _specs(bench: Bench, length: int) -> tuple[list[CacheSpec], list[str]]:
    """The growing cache first, then every kind asked for that the model can use; why the others are left out."""
    asked = bench.experiment.kinds or tuple(_usual(bench.experiment, kind, length) for kind in CACHE_KINDS)
    found, left_out = [CacheSpec()], []
    for spec in dict.fromkeys(asked):
        if spec.kind == "growing":
            continue
        try:
            bench.feeder(spec, length)
        except ParameterError as problem:
            left_out.append(problem.message)
        else:
            found.append(spec)
    return found, left_out


def _usual(asked: Experiment, kind: CacheKind, length: int) -> CacheSpec:
    """With the sizes asked for, else such that half the text is dropped; heavy hitters share it with their window."""
    if kind not in WINDOWED:
        return CacheSpec(kind)
    half = max(2, length // 2)
    share = max(1, half // 2)
    usual = share if kind == "heavy_hitters" else half
    return CacheSpec(
        kind,
        window=usual if asked.window is None else asked.window,
        sinks=asked.sinks,
        heavy=share if asked.heavy is None else asked.heavy,
    )


def _note(row: _Row, step: int, logprobs: torch.Tensor, told: list[torch.Tensor], said: list[int]) -> None:
    if len(told) == step:  # the growing cache itself
        told.append(logprobs)
        said.append(int(logprobs.argmax()))
    reference = told[step]
    row.kl.append(max(0.0, float((reference.exp() * (reference - logprobs)).nansum()) / LN2))
    if row.diverged is None and int(logprobs.argmax()) != said[step]:
        row.diverged = step


def _cells(row: _Row) -> tuple[str | int | float | None, ...]:
    steps = len(row.kl)
    return (
        row.spec.words(),
        1e3 / median(row.step_ms) if row.step_ms else None,
        row.first_ms,
        row.used,
        row.allocated,
        row.most_allocated,
        row.diverged,
        sum(row.kl) / steps,
        max(row.kl),
        row.score_ms / steps if row.score_ms else None,
    )


def _conclude(bench: Bench, rows: list[_Row], left_out: list[str]) -> None:
    exact = [row for row in rows[1:] if row.spec.kind in ("off", "dynamic", "static", "hybrid")]
    for row in exact:
        same = row.diverged is None
        rounds = bench.loaded.info.dtype != "fp32"
        if same:
            bench.find(f"{row.spec.words()} says the same text; it differs by {max(row.kl):.2g} bits at most.", True)
        else:
            why = f", as {bench.loaded.info.dtype} rounds otherwise" if rounds else ""
            bench.find(
                f"{row.spec.words()} chooses another token at step {row.diverged}{why}.", None if rounds else False
            )
    for row in rows[1:]:
        if row not in exact:
            where = "never" if row.diverged is None else f"first at step {row.diverged}"
            share, bits = row.used / max(1, rows[0].used), sum(row.kl) / len(row.kl)
            bench.find(
                f"{row.spec.words()} keeps {share:.0%} of the bytes and chooses another token {where}; {bits:.2g} bits "
                "a step."
            )
    for reason in left_out:
        bench.find(f"Left out. {reason}")
