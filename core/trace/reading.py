"""The three ways into a recording that residual, head and walk views share: residuals, weights, one pass again."""

from __future__ import annotations

from collections.abc import Generator
from math import isqrt

import torch

from core.contract.views import AttentionQuery
from core.trace.attention import LayerKeys, layer_keys, sliced_weights, trace_for
from core.trace.record import Trace
from core.trace.recording import Recording, Strand

SLICE_ELEMENTS = 1 << 20  # weights computed between two looks at the clock: a few milliseconds


def residuals(trace: Trace, strand: Strand, layer: int, start: int, stop: int) -> torch.Tensor:
    """(stop - start, E) of a strand's positions entering `layer`. Raises `ViewUnavailableError` for dropped records."""
    return trace.residuals(layer, strand.padding + start, strand.padding + stop, strand.path)


def records(recording: Recording, strand: Strand, start: int, stop: int, recompute: bool) -> tuple[Trace, Strand]:
    """What the weights of the query positions [start, stop) come from: the run's records, or the same fed again.

    recompute: where records were dropped. Raises `ViewUnavailableError` for dropped records otherwise.
    """
    return trace_for(recording, AttentionQuery(0, 0, recompute=recompute), strand, start, stop)


def keys_of(
    recording: Recording, records: tuple[Trace, Strand], layer: int, stop: int, heads: list[int] | None
) -> LayerKeys:
    """A layer's keys before position `stop`, for many slices of `weights`."""
    trace, strand = records
    return layer_keys(recording, trace, layer, strand, stop, heads)


def weights(
    recording: Recording, records: tuple[Trace, Strand], keys: LayerKeys, start: int, stop: int
) -> torch.Tensor:
    """(H, stop - start, stop) float32 of a strand's query positions."""
    trace, strand = records
    return sliced_weights(recording, trace, strand, keys, start, stop)


def feed_again(
    recording: Recording, strand: Strand, start: int, stop: int, changed: bool = False
) -> tuple[Trace, Strand]:
    """Feed a strand's positions once more, see `Recompute`."""
    return recording.recompute(strand, start, stop, changed=changed)


def row_slices(start: int, stop: int, heads: int) -> Generator[tuple[int, int], None, None]:
    """Query positions in portions of a few milliseconds: early ones see fewer keys, so more of them go together."""
    most, begin = SLICE_ELEMENTS // heads, start
    while begin < stop:
        rows = max(1, int((isqrt(begin * begin + 4 * most) - begin) // 2))  # rows · (begin + rows) ≤ most
        end = min(begin + rows, stop)
        yield begin, end
        begin = end
