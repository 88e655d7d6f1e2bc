"""The prefix does not change: K and V of a prompt are the same whatever follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from core.cache_lab.board import Bench, Feeder, Report
from core.contract.cache import CacheSpec
from core.decode.kv import RunCache, fork_cache

ATOL, RTOL = 1e-4, 1e-4  # of `allclose` in fp32; a pass of other size adds in another order
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def measure(bench: Bench) -> Iterator[Report]:
    """After further steps, in one pass over the whole text, and in a fork that goes another way."""
    bench.make_exact()  # rounding to 16 bits would hide a prefix that did change
    new = bench.experiment.new_tokens
    prompt = bench.prompt(new)
    stages, done = 2 * new + 2, 0
    run = bench.feeder(CacheSpec(), len(prompt) + new)
    logits, _ = run.prefill(prompt)
    first = _copies(run.cache, len(prompt))
    branch = _branch(bench, run, len(prompt) + new)
    said = [int(logits.argmax())]
    other = [int(logits.topk(2).indices[1])]  # the fork begins with the second choice
    for feeder, tokens, name in ((run, said, "steps"), (branch, other, "steps of a fork")):
        for step in range(new):
            logits, _ = feeder.feed(tokens[-1:])
            tokens.append(int(logits.argmax()))
            done += 1
            yield Report(f"{name}: {step + 1} of {new}", done / stages)
    whole = bench.feeder(CacheSpec(), len(prompt) + new)
    whole.feed([*prompt, *said[:-1]])
    yield Report("one pass over the whole text", (done + 1) / stages)
    found = {
        "after the steps": _compare(bench, first, run.cache, len(prompt)),
        "in one pass of the whole text": _compare(bench, first, whole.cache, len(prompt)),
        "in the fork": _compare(bench, first, branch.cache, len(prompt)),
    }
    _put_up(bench, found, len(prompt), new)
    bench.find(
        f"The fork said {_differ(said, other)} of {new + 1} tokens otherwise, so the two did go different ways.", None
    )
    yield Report("done", 1.0)


def _branch(bench: Bench, run: Feeder, limit: int) -> Feeder:
    twin = bench.feeder(CacheSpec(), limit)
    twin.cache = fork_cache(run.cache, limit=limit)
    return twin


def _copies(cache: RunCache, count: int) -> Pairs:
    return [
        (layer.held_keys()[:, :, :count].clone(), layer.held_values()[:, :, :count].clone())
        for layer in cache.kind_layers()
    ]


def _compare(bench: Bench, first: Pairs, cache: RunCache, count: int) -> list[tuple[float, float, bool]]:
    """Of each layer the largest difference of K and of V, and whether all are close."""
    found = []
    for before, after in zip(first, _copies(cache, count), strict=True):
        largest = [float((a.float() - b.float()).abs().max()) for a, b in zip(before, after, strict=True)]
        close = all(
            torch.allclose(a.float(), b.float(), atol=ATOL, rtol=RTOL) for a, b in zip(before, after, strict=True)
        )
        found.append((largest[0], largest[1], close))
    return found


def _put_up(bench: Bench, found: dict[str, list[tuple[float, float, bool]]], count: int, new: int) -> None:
    lane = bench.lane("Largest difference of K and V", "", "layer")
    columns = ["layer"]
    for name, layers in found.items():
        columns += [f"K {name}", f"V {name}", f"allclose {name}"]
        for index, (key, value, _) in enumerate(layers):
            bench.point(lane, name, index, max(key, value))
        largest = max(max(key, value) for key, value, _ in layers)
        holds = all(close for _, _, close in layers)
        what = "are the same to the last bit" if largest == 0 else f"differ by {largest:.2g} at most"
        bench.find(f"K and V of the first {count} positions {what} {name} ({new} more positions).", holds)
    rows = [
        [index, *(cell for layers in found.values() for cell in (*layers[index][:2], _yes(layers[index][2])))]
        for index in range(bench.loaded.info.layers)
    ]
    bench.table("Layers", columns, rows)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _differ(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
