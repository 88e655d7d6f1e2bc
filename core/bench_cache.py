"""What a layer of each kind of cache costs: appending, taking back, parting, and the memory at its highest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from core.cache_lab import run as experiment
from core.contract.cache_lab import Experiment
from core.contract.specs import Prompt
from core.decode.kv import CannotRewindError, GrowLayer, KindLayer
from core.decode.kv.heavy import HeavyLayer
from core.decode.kv.layer import Shared
from core.decode.kv.quantised import Fp8Layer, Int8Layer
from core.decode.kv.theirs import DynamicKind, StaticKind
from core.decode.kv.window import WindowLayer
from core.models.loaded import LoadedModel

POSITIONS = (512, 2048, 8192)
HEADS, WIDTH = 12, 64  # GPT-2's, in float32
ROUNDS = 16
WINDOW = 1024
Make = Callable[[int, Shared], KindLayer]

KINDS: Mapping[str, Make] = {
    "growing": lambda limit, shared: GrowLayer(limit),
    "DynamicCache": lambda limit, shared: DynamicKind(),
    "StaticCache": lambda limit, shared: StaticKind(limit),
    "sliding_window 1,024": lambda limit, shared: WindowLayer(WINDOW, 0, shared),
    "sink 4 + 1,024": lambda limit, shared: WindowLayer(WINDOW, 4, shared),
    "heavy_hitters 512 + 512": lambda limit, shared: HeavyLayer(WINDOW // 2, WINDOW // 2, shared),
    "fp8": lambda limit, shared: Fp8Layer(limit),
    "int8": lambda limit, shared: Int8Layer(limit),
}


def layer_costs(positions: Sequence[int] = POSITIONS, rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Microseconds and megabytes of one layer that holds so many positions.

    append: one position. crop: one taken back; None where it cannot be. fork: a second layer. parted: the next position
    of both, where a shared buffer is copied. peak: the most that was allocated while the layer was filled by chunks of
    256 and one position more.
    """
    one = torch.randn(1, HEADS, 1, WIDTH)
    for count in positions:
        states = torch.randn(1, HEADS, count, WIDTH)
        for name, make in KINDS.items():
            with torch.inference_mode():
                yield {"kind": name, "positions": count, **_costs(make, count, states, one, rounds)}


def _costs(make: Make, count: int, states: torch.Tensor, one: torch.Tensor, rounds: int) -> dict[str, float | None]:
    limit, shared = count + 4 * rounds, Shared(torch.zeros(1, dtype=torch.long), False, 0)
    layer = make(limit, shared)
    _fill(layer, states)
    layer.update(one, one)
    append, fork, parted, crop = [], [], [], []
    for _ in range(rounds):
        append.append(_us(partial(layer.update, one, one)))
        with suppress(CannotRewindError):
            crop.append(_us(partial(layer.crop, -1)))
    for _ in range(rounds):
        twins: list[KindLayer] = []
        fork.append(_us(partial(_fork_into, twins, layer, limit, shared)))
        parted.append(_us(partial(_go_apart, twins.pop(), layer, one)))
    held = layer.sizes()
    return {
        "append_us": median(append),
        "fork_us": median(fork),
        "parted_us": median(parted),
        "crop_us": median(crop) if crop else None,
        "held_mb": (held.key_allocated + held.value_allocated) / 1e6,
        "peak_mb": _peak_bytes(lambda: _fill_and_step(make(limit, shared), states, one)) / 1e6,
    }


def _fill(layer: KindLayer, states: torch.Tensor) -> None:
    for start in range(0, states.shape[2], 256):
        part = states[:, :, start : start + 256]
        layer.update(part, part)


def _fill_and_step(layer: KindLayer, states: torch.Tensor, one: torch.Tensor) -> None:
    _fill(layer, states)
    layer.update(one, one)


def _fork_into(twins: list[KindLayer], layer: KindLayer, limit: int, shared: Shared) -> None:
    twins.append(layer.fork(limit, shared))


def _go_apart(twin: KindLayer, layer: KindLayer, one: torch.Tensor) -> None:
    twin.update(one, one)
    layer.update(one, one)


def _us(work: Callable[[], Any]) -> float:
    begun = perf_counter()
    work()
    return 1e6 * (perf_counter() - begun)


def _peak_bytes(work: Callable[[], None]) -> int:
    """The most that torch's CPU allocator gave out meanwhile, from its own record."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of each start and stop
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    results = record.profiler.kineto_results if record.profiler is not None else None
    assert results is not None
    events = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = most = 0
    for event in events:
        held += event.nbytes()
        most = max(most, held)
    return most


def decode_growth(loaded: LoadedModel, positions: int) -> list[dict[str, float]]:
    """Milliseconds of a step by position, up to the model's last one or `positions`."""
    most = min(positions, loaded.info.max_positions)
    found = experiment(loaded, Experiment("growth", Prompt(ids=tuple(range(1, 17))), positions=most))
    steps = next(series for series in found.series if series.name == "step")
    wanted = {0, len(steps.x) // 4, len(steps.x) // 2, 3 * len(steps.x) // 4, len(steps.x) - 1}
    return [{"position": steps.x[n], "step_ms": steps.y[n]} for n in sorted(wanted)]


def as_lines(costs: Sequence[Mapping[str, Any]], growth: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """For people."""
    head = ("kind", "positions", "append", "crop", "fork", "parted", "held MB", "peak MB")
    lines = [f"a layer of {HEADS} × {WIDTH} in float32, microseconds", _row(head)]
    for cost in costs:
        numbers = (cost["append_us"], cost["crop_us"], cost["fork_us"], cost["parted_us"])
        texts = ["–" if n is None else f"{n:.0f}" for n in numbers]
        lines.append(
            _row((cost["kind"], f"{cost['positions']:,}", *texts, f"{cost['held_mb']:.3g}", f"{cost['peak_mb']:.3g}"))
        )
    for name, points in growth.items():
        told = ", ".join(f"{p['step_ms']:.3g} ms at {p['position']:,.0f}" for p in points)
        lines.append(f"a step of {name}: {told}")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"{cells[0]:<24}" + "".join(f"{cell:>10}" for cell in cells[1:])
