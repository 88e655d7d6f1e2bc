"""Chunk size: a prompt in pieces, against the time to the first token and the time until Stop is heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import torch

from core.cache_lab.board import Bench, Feeder, Report
from core.contract.cache import CacheSpec

USUAL_POSITIONS = 512
SMALLEST = 8
COLUMNS = ("chunk", "first token, ms", "longest pass, ms", "longest between two looks at Stop, ms", "logit difference")


def measure(bench: Bench) -> Iterator[Report]:
    """Every size once to warm up, then once to count."""
    length = bench.experiment.positions or min(USUAL_POSITIONS, bench.most)
    ids = bench.repeated(length)
    sizes = _sizes(length)
    first = bench.lane("Time to the first token", "ms", "chunk")
    stop = bench.lane("Until a command is taken, and until Stop is heard", "ms", "chunk")
    rows: list[list[float]] = []
    whole: torch.Tensor | None = None
    bench.feeder(CacheSpec(), length).prefill(ids, sizes[-1])  # the first pass of all touches fresh memory
    for number, size in enumerate(reversed(sizes)):
        feeder = bench.feeder(CacheSpec(), length)
        with _watched(feeder) as gaps:
            passes = []
            for at in range(0, length, size):
                gaps.begin()
                logits, spent_ms = feeder.feed(ids[at : at + size])
                gaps.end()
                passes.append(spent_ms)
                done = (number + min(1.0, (at + size) / length)) / len(sizes)
                yield Report(f"chunks of {size:,}: position {min(at + size, length):,} of {length:,}", done)
        whole = logits if whole is None else whole
        difference = float((logits - whole).abs().max())
        rows.insert(0, [size, sum(passes), max(passes), gaps.longest_ms, difference])
        bench.table("Chunks", COLUMNS, rows)
    for chunk, total_ms, longest_ms, gap_ms, _ in rows:
        bench.point(first, "first token", chunk, total_ms)
        bench.point(stop, "longest pass", chunk, longest_ms)
        bench.point(stop, "Stop is heard", chunk, gap_ms)
    _conclude(bench, rows)
    yield Report("done", 1.0)


def _sizes(length: int) -> list[int]:
    """Powers of two, and the whole prompt."""
    sizes = []
    size = SMALLEST
    while size < length:
        sizes.append(size)
        size *= 2
    return [*sizes, length]


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


def _conclude(bench: Bench, rows: list[list[float]]) -> None:
    quickest = min(rows, key=lambda row: row[1])
    largest, smallest = rows[-1], rows[0]
    bench.find(f"Chunks of {quickest[0]:,.0f} were the quickest: {quickest[1]:.3g} ms to the first token.")
    bench.find(
        f"In one piece a command waits {largest[2]:.3g} ms and Stop {largest[3]:.3g} ms; in chunks of "
        f"{smallest[0]:,.0f} they wait {smallest[2]:.3g} and {smallest[3]:.3g} ms."
    )
    worst = max(row[4] for row in rows)
    close = worst <= (1e-3 if bench.loaded.info.dtype == "fp32" else 1.0)
    bench.find(f"The logits of the first token differ by {worst:.2g} at most between the sizes.", close)
