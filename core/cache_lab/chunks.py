"""Chunk size: a prompt in pieces, against the time to the first token and the time until Stop is heard."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from core.cache_lab.board import Apart, Bench, Feeder, Report, brief
from core.contract.cache import CacheSpec
from core.contract.errors import OutOfMemoryError

USUAL_POSITIONS = 512
SMALLEST = 8
COLUMNS = ("chunk", "first token, ms", "longest pass, ms", "longest between two looks at Stop, ms", "logit difference")


@dataclass(frozen=True)
class _Fed:
    """A prompt fed in pieces: logits (V,) after it, each pass, and the longest time between two looks at Stop."""

    logits: torch.Tensor
    passes_ms: list[float]
    gap_ms: float

    @property
    def first_ms(self) -> float:
        return sum(self.passes_ms)


def measure(bench: Bench) -> Iterator[Report]:
    """Every size is timed as the model is loaded, the largest first; what they say is compared in float32."""
    length = bench.experiment.positions or min(USUAL_POSITIONS, bench.most)
    ids, sizes = bench.repeated(length), _sizes(bench.experiment.chunk_sizes, length)
    first = bench.lane("Time to the first token", "ms", "chunk")
    stop = bench.lane("Until a command is taken, and until Stop is heard", "ms", "chunk")
    stages = len(sizes) * (1 if bench.loaded.info.dtype == "fp32" else 2)
    bench.feeder(CacheSpec(), length).prefill(ids, sizes[-1])  # the first pass of all touches fresh memory
    timed: dict[int, _Fed] = {}
    for number, size in enumerate(reversed(sizes)):
        timed[size] = yield from _feed(bench, ids, size, number / stages, 1 / stages)
        _put_up(bench, timed, {})
    for size in sizes:
        bench.point(first, "first token", size, timed[size].first_ms)
        bench.point(stop, "longest pass", size, max(timed[size].passes_ms))
        bench.point(stop, "Stop is heard", size, timed[size].gap_ms)
    _say_times(bench, timed)
    exact = {size: fed.logits for size, fed in timed.items()}
    if stages > len(sizes):
        try:
            with bench.exactly():
                for number, size in enumerate(reversed(sizes), len(sizes)):
                    fed = yield from _feed(bench, ids, size, number / stages, 1 / stages)
                    exact[size] = fed.logits
        except OutOfMemoryError as problem:
            bench.find(problem.message)  # the times hold all the same
            exact = {}
    if exact:
        _put_up(bench, timed, exact)
        _compare(bench, exact)
    yield Report("done", 1.0)


def _feed(bench: Bench, ids: list[int], size: int, begun: float, share: float) -> Generator[Report, None, _Fed]:
    feeder, passes_ms = bench.feeder(CacheSpec(), len(ids)), []
    with _watched(feeder) as gaps:
        for at in range(0, len(ids), size):
            upto = min(at + size, len(ids))
            gaps.begin()
            logits, spent_ms = feeder.feed(ids[at:upto])
            gaps.end()
            passes_ms.append(spent_ms)
            where = f"chunks of {size:,}, {bench.loaded.info.dtype}: position {upto:,} of {len(ids):,}"
            yield Report(where, begun + share * upto / len(ids))
    return _Fed(logits, passes_ms, gaps.longest_ms)


def _sizes(asked: tuple[int, ...], length: int) -> list[int]:
    """Those asked for, else powers of two; and the whole prompt."""
    if asked:
        return sorted({min(size, length) for size in asked} | {length})
    sizes = []
    size = SMALLEST
    while size < length:
        sizes.append(size)
        size *= 2
    return [*sizes, length]


def _put_up(bench: Bench, timed: dict[int, _Fed], exact: dict[int, torch.Tensor]) -> None:
    rows = [
        [size, fed.first_ms, max(fed.passes_ms), fed.gap_ms, _apart(exact, size)] for size, fed in sorted(timed.items())
    ]
    bench.table("Chunks", COLUMNS, rows)


def _apart(exact: dict[int, torch.Tensor], size: int) -> float | None:
    """The largest difference from the logits of the prompt in one piece."""
    return float((exact[size] - exact[max(exact)]).abs().max()) if exact else None


class _Gaps:
    """The longest time between two looks at the stop flag, which stand before every layer and around a pass."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._last = 0.0

    def begin(self) -> None:
        """A pass begins."""
        self._last = perf_counter()

    def look(self, *_: Any) -> None:
        """A layer begins."""
        now = perf_counter()
        self.longest_ms = max(self.longest_ms, 1e3 * (now - self._last))
        self._last = now

    end = look


@contextmanager
def _watched(feeder: Feeder) -> Iterator[_Gaps]:
    gaps = _Gaps()
    with ExitStack() as stack:
        for layer in feeder.forward.anatomy.layers:
            stack.callback(layer.register_forward_pre_hook(gaps.look).remove)
        yield gaps


def _say_times(bench: Bench, timed: dict[int, _Fed]) -> None:
    smallest, largest = min(timed), max(timed)
    quickest = min(timed, key=lambda size: timed[size].first_ms)
    bench.find(f"Chunks of {quickest:,} were the quickest: {brief(timed[quickest].first_ms)} ms to the first token.")
    whole, small = timed[largest], timed[smallest]
    bench.find(
        f"In one piece a command waits {brief(max(whole.passes_ms))} ms and Stop {brief(whole.gap_ms)} ms; in "
        f"chunks of {smallest:,} they wait {brief(max(small.passes_ms))} and {brief(small.gap_ms)} ms."
    )


def _compare(bench: Bench, exact: dict[int, torch.Tensor]) -> None:
    apart = Apart()
    for found in exact.values():
        apart.note(found, exact[max(exact)])
    bench.find(
        f"The logits of the first token differ by {apart.most:.2g} at most between the sizes, in float32.", apart.close
    )
