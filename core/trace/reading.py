"""The three ways into a recording that residual, head and walk views share: residuals, weights, one pass again."""

from __future__ import annotations

from collections.abc import Generator

import torch

from core.trace.attention import attention_weights
from core.trace.record import Trace
from core.trace.recording import Recording

SLICE_ELEMENTS = 1 << 20  # weights computed between two looks at the clock: a few milliseconds


def residuals(recording: Recording, trace: Trace, row: int, layer: int, start: int, stop: int) -> torch.Tensor:
    """(stop - start, E) of a row's positions entering `layer`. Raises `ViewUnavailableError` for dropped records."""
    padding = recording.padding[row]
    return trace.residuals(layer, padding + start, padding + stop)[row]


def weights(recording: Recording, row: int, layer: int, start: int, stop: int, heads: list[int] | None) -> torch.Tensor:
    """(H, stop - start, stop) float32 of a row's query positions."""
    return attention_weights(recording, recording.recorded(), layer, row, start, stop, heads)


def feed_again(recording: Recording, row: int, start: int, stop: int) -> Trace:
    """Feed a row's positions once more, on a fork of the cache; returns the records of that pass."""
    padding = recording.padding[row]
    return recording.recompute(padding + start, padding + stop)


def row_slices(start: int, stop: int, heads: int) -> Generator[tuple[int, int], None, None]:
    """Query positions in portions of a few milliseconds."""
    rows = max(1, SLICE_ELEMENTS // (heads * stop))
    for begin in range(start, stop, rows):
        yield begin, min(begin + rows, stop)
