"""Curves over step indices: axes, decimation, hit testing. numpy only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NICE = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
SHORTEST = 32  # steps on the axis at least


@dataclass(frozen=True, slots=True)
class Axis:
    """Steps [0, steps) over `width` px from `left`; a step stands in the middle of its share."""

    left: float
    width: float
    steps: int

    def x(self, index: float) -> float:
        """The middle of a step."""
        return self.left + (index + 0.5) * self.width / self.steps

    def index(self, x: float) -> int:
        """The step under `x`; may lie outside of the axis."""
        return math.floor((x - self.left) * self.steps / self.width)


def nice_top(value: float) -> float:
    """The smallest round number (see `NICE`) times a power of ten that is not below `value`; 1 for nothing."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (*NICE, 20.0) if n * power >= value * (1 - 1e-9))


def tick_text(value: float) -> str:
    """A round value in as few characters as possible: `0.5`, `2e−5`."""
    text = re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), f"{value:g}")
    return text.replace("-", "−")


def ticks(top: float, most: int) -> list[float]:
    """At most `most` + 1 round values from 0 to `top`, both included."""
    for parts in range(most, 0, -1):
        step = top / parts
        mantissa = step / 10.0 ** math.floor(math.log10(step))
        if any(math.isclose(mantissa, n) for n in (1, 2, 2.5, 3, 4, 5)):
            return [step * i for i in range(parts + 1)]
    return [0.0, top]


def robust_top(values: Floats) -> float:
    """A top that a few spikes do not decide: room above the 98th percentile, or all of it where that is near."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 1.0
    usual, most = float(np.percentile(known, 98)), float(known.max())
    return nice_top(most if most <= 2 * usual else 1.25 * usual)


def curve(values: Floats | NDArray[np.int64], axis: Axis, left: float, right: float) -> tuple[Floats, Floats]:
    """Indices and values of the part of a curve between two x: at most two points a pixel.

    With more steps than pixels each block of steps keeps its minimum and its maximum, so that no spike is lost.
    Blocks start at multiples of their length: the curve of a part is the part of the curve.
    """
    block = max(1, -(-axis.steps // max(1, int(axis.width))))
    start = max(0, (axis.index(left) // block - 1) * block)
    stop = min(len(values), (axis.index(right) // block + 2) * block)
    if stop <= start:
        return np.empty(0), np.empty(0)
    if block == 1:
        return np.arange(start, stop, dtype=np.float64), np.asarray(values[start:stop], np.float64)
    edges = np.arange(0, stop - start, block)
    stops = np.append(edges[1:], stop - start)
    part = values[start:stop]
    low, high = np.fmin.reduceat(part, edges), np.fmax.reduceat(part, edges)
    rising = part[edges] <= part[stops - 1]
    y = np.empty(2 * len(edges))
    y[0::2], y[1::2] = np.where(rising, low, high), np.where(rising, high, low)
    return np.repeat(start + (edges + stops - 1) / 2.0, 2), y
