"""The three ways into a recording that residual, head and walk views share: residuals, weights, one pass again."""

from __future__ import annotations

from collections.abc import Generator

import torch

from core.contract.views import AttentionQuery
from core.trace.attention import attention_weights, trace_for
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


def weights(
    recording: Recording,
    records: tuple[Trace, Strand],
    layer: int,
    start: int,
    stop: int,
    heads: list[int] | None,
) -> torch.Tensor:
    """(H, stop - start, stop) float32 of a strand's query positions."""
    trace, strand = records
    return attention_weights(recording, trace, layer, strand, start, stop, heads)


def feed_again(recording: Recording, strand: Strand, start: int, stop: int) -> tuple[Trace, Strand]:
    """Feed a strand's positions once more; returns the records of that pass, and the strand in them."""
    return recording.recompute(strand, start, stop)


def row_slices(start: int, stop: int, heads: int) -> Generator[tuple[int, int], None, None]:
    """Query positions in portions of a few milliseconds."""
    rows = max(1, SLICE_ELEMENTS // (heads * stop))
    for begin in range(start, stop, rows):
        yield begin, min(begin + rows, stop)
