"""Growth: time and bytes of one step, from the first position to the last one of the model."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from core.cache_lab.board import CHUNK, Bench, Report, brief
from core.contract.cache import CacheSpec

MOST_POINTS = 64
REPEATS = 3  # steps measured at each point; the middle one counts


def measure(bench: Bench) -> Iterator[Report]:
    """The prompt over and over: what is fed does not change how long it takes.

    Between the positions where steps are measured, the text is fed in chunks.
    """
    limit = bench.experiment.positions or bench.most
    ids = bench.repeated(limit)
    yield bench.warm_up()
    feeder = bench.feeder(CacheSpec(), limit)
    first = min(len(bench.ids), limit - 1)
    ms, size = bench.lane("Time of a step", "ms", "position"), bench.lane("Bytes of the cache", "MB", "position")
    rows: list[list[float | None]] = []
    _, prefill_ms = feeder.prefill(ids[:first])
    rows.append([first, None, *_bytes(feeder.cache)])  # the whole prompt, which is no step
    yield Report("the prompt", first / limit)
    for point in _points(first, limit):
        while feeder.cache.length < point:
            at = feeder.cache.length
            feeder.feed(ids[at : min(at + CHUNK, point)])
            yield Report(f"position {feeder.cache.length:,} of {limit:,}", feeder.cache.length / limit)
        steps = []
        for at in range(point, min(point + REPEATS, limit)):
            steps.append(feeder.feed(ids[at : at + 1])[1])
            yield Report(f"position {at + 1:,} of {limit:,}", (at + 1) / limit)
        used, allocated = _bytes(feeder.cache)
        bench.point(ms, "step", feeder.cache.length, median(steps))
        bench.point(size, "used", feeder.cache.length, used / 1e6)
        bench.point(size, "allocated", feeder.cache.length, allocated / 1e6)
        rows.append([feeder.cache.length, median(steps), used, allocated])
        bench.table("Positions", ("position", "step, ms", "used, B", "allocated, B"), rows)
    _conclude(bench, first, prefill_ms, ms, used, feeder.cache.length)
    yield Report("done", 1.0)


def _points(first: int, limit: int) -> list[int]:
    """At most `MOST_POINTS` positions, the last one with room for what is measured there."""
    last = max(first, limit - REPEATS)
    count = max(1, min(MOST_POINTS, (last - first) // REPEATS))
    return sorted({first + (last - first) * n // count for n in range(count + 1)})


def _bytes(cache: object) -> tuple[int, int]:
    report = cache.report()  # type: ignore[attr-defined]
    return report.used_bytes, report.allocated_bytes


def _conclude(bench: Bench, first: int, prefill_ms: float, ms: int, used: int, length: int) -> None:
    steps = bench.line(ms, "step")
    fed = "1 position" if first == 1 else f"{first:,} positions"
    bench.find(
        f"The first step fed {fed} in {brief(prefill_ms)} ms; the next one, of a single position, took "
        f"{brief(steps[0])} ms."
    )
    times = steps[-1] / steps[0]
    bench.find(f"The last steps, at position {length:,}, took {brief(steps[-1])} ms, {brief(times)} times as long.")
    per_token = bench.loaded.info.kv_bytes_per_token
    bench.find(f"{used:,} bytes for {length:,} positions are {per_token:,} each.", used == length * per_token)
