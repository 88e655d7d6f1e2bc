"""Why cache: the same greedy run with and without keys and values kept, and `generate()` beside them."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from core.cache_lab.board import Apart, Bench, Report, brief
from core.cache_lab.flops import pass_cost
from core.contract.cache import CacheSpec
from core.decode.forward import Forward, ForwardCancelled

CACHED, UNCACHED, GENERATE = "cached", "uncached", "generate()"


def measure(bench: Bench) -> Iterator[Report]:
    """Token by token in turn, then `generate()` in one go; in float32, where rounding changes no token."""
    bench.make_exact()
    new = bench.experiment.new_tokens
    prompt, cost = bench.prompt(new - 1), pass_cost(bench.loaded)
    limit = len(prompt) + new
    yield bench.warm_up()
    ms = bench.lane("Time of a token", "ms", "position")
    work = None if cost is None else bench.lane("Work of a token", "GFLOPs", "position")
    feeders = {CACHED: bench.feeder(CacheSpec(), limit), UNCACHED: bench.feeder(CacheSpec("off"), limit)}
    said: dict[str, list[int]] = {name: [] for name in feeders}
    found: dict[str, torch.Tensor] = {}
    apart = Apart()
    rows: list[list[Any]] = []
    for step in range(new):
        position, row = len(prompt) + step, [float(len(prompt) + step)]
        for name, feeder in feeders.items():
            fresh = prompt if step == 0 else said[name][-1:]
            logits, spent_ms = feeder.feed(fresh)
            said[name].append(int(logits.argmax()))
            found[name] = logits
            bench.point(ms, name, position, spent_ms)
            row.append(spent_ms)
            if work is not None and cost is not None:
                fed = position if name == UNCACHED else len(fresh)
                flops = cost.of(fed, position)
                bench.point(work, name, position, flops / 1e9)
                row.append(flops / 1e9)
            yield Report(f"token {step + 1} of {new}, {name}", (step + 0.5) / (new + 1))
        if said[CACHED][:-1] == said[UNCACHED][:-1]:  # else they go on from other texts
            apart.note(found[CACHED], found[UNCACHED])
        rows.append(row)
        _table(bench, rows, cost is not None)
    yield Report("generate()", new / (new + 1))
    said[GENERATE], times_ms = _generate(bench, prompt, new)
    for step, spent_ms in enumerate(times_ms):
        bench.point(ms, GENERATE, len(prompt) + step, spent_ms)
    bench.find(f"The logits with and without a cache differ by {apart.most:.2g} at most, in float32.", apart.close)
    _conclude(bench, said, ms)
    yield Report("done", 1.0)


def _table(bench: Bench, rows: list[list[Any]], counted: bool) -> None:
    columns = ["position", "cached, ms", "cached, GFLOPs", "uncached, ms", "uncached, GFLOPs"]
    plain = ["position", "cached, ms", "uncached, ms"]
    bench.table("Tokens", columns if counted else plain, rows)


def _conclude(bench: Bench, said: dict[str, list[int]], ms: int) -> None:
    for name, how in ((UNCACHED, "without a cache"), (GENERATE, "by generate()")):
        same, count = _same(said[CACHED], said[name]), len(said[CACHED])
        many = f"All {count}" if same == count else f"The first {same} of {count}"
        text = f"{many} tokens are" if count > 1 else "The token is" if same else "The token is not"
        bench.find(f"{text} the same with a cache and {how}.", same == count)
    cached, uncached = bench.line(ms, CACHED), bench.line(ms, UNCACHED)
    if len(cached) > 1:
        ratio = sum(uncached[1:]) / max(1e-9, sum(cached[1:]))
        bench.find(f"Without a cache the tokens after the first took {brief(ratio)} times as long.")


def _same(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each token is there."""

    def __init__(self) -> None:
        self.at = [perf_counter()]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.at.append(perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(bench: Bench, prompt: list[int], new: int) -> tuple[list[int], list[float]]:
    """The tokens of `generate()` with nothing set, and the milliseconds of each; looks at Stop before each layer."""
    model, clock = bench.loaded.module, _Clock()
    ids = torch.tensor([prompt], device=bench.loaded.device)
    before = model.generation_config
    model.generation_config = GenerationConfig()
    config = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0)
    stopper = Forward(bench.loaded, [0], bench.cancelled)
    try:
        with torch.inference_mode(), stopper.attached():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
    finally:
        model.generation_config = before
    if bench.cancelled():
        raise ForwardCancelled
    times = [1e3 * (b - a) for a, b in zip(clock.at, clock.at[1:], strict=False)]
    return found[0, len(prompt) :].tolist(), times
