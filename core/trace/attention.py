"""Attention weights of any layer, head and range, derived from recorded queries and cached keys.

The arithmetic is the family's own `eager_attention_forward` (scaling, soft caps, sinks), in float32, with the
keyword arguments the module really passed. Nothing ever stores T × T.

Shapes: H heads, R query rows, T keys.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool2d, pad

from core.contract.errors import ViewUnavailableError
from core.contract.snapshot import FloatArray
from core.contract.views import AttentionAnswer, AttentionQuery, ThumbnailAnswer, ThumbnailQuery
from core.models.attention import family_eager
from core.trace.record import Trace
from core.trace.recording import Recording, Strand
from core.trace.selected import can_narrow, narrowed

SLICE_ELEMENTS = 1 << 20  # weights computed between two looks at the clock: a few milliseconds


def derive_attention(recording: Recording, query: AttentionQuery) -> Generator[None, None, AttentionAnswer]:
    """The weights asked for, one slice at a time. Raises `ViewUnavailableError`."""
    recording.require("attention")
    layer, heads = recording.layer(query.layer), checked_heads(recording, query.heads, query.reduce)
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.rows)
    trace, strand = trace_for(recording, query, strand, start, stop)
    cell = joined_cells(stop - start, stop, query.pool)
    parts: list[FloatArray] = []
    count = recording.info.heads if heads is None else len(heads)
    held = layer_keys(recording, trace, layer, strand, stop, heads)
    for begin, end in row_slices(start, stop, count, cell[0]):
        weights = sliced_weights(recording, trace, strand, held, begin, end)  # (H, R, end)
        if query.reduce is not None:
            weights = weights.mean(0, keepdim=True) if query.reduce == "mean" else weights.amax(0, keepdim=True)
        pooled = _pool(weights, cell)
        wide = -(-stop // cell[1])  # keys after the newest query of the slice weigh nothing
        parts.append(pad(pooled, (0, wide - pooled.shape[2])).cpu().numpy())
        yield
    joined = np.concatenate(parts, axis=1)
    joined.flags.writeable = False
    return AttentionAnswer(query, joined, (start, stop), stop, cell)


def derive_thumbnails(recording: Recording, query: ThumbnailQuery) -> Generator[None, None, ThumbnailAnswer]:
    """Small maps of every head of the layers asked for, a slice at a time. Raises `ViewUnavailableError`."""
    recording.require("attention")
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.span)
    trace, size, count = recording.recorded(), query.size, stop - start
    heads = recording.info.heads
    maps = np.full((len(query.layers), heads, size, size), np.nan, dtype=np.float32)
    side = min(size, count)
    for index, layer in enumerate(query.layers):
        recording.layer(layer)
        rows: list[torch.Tensor] = []
        held = layer_keys(recording, trace, layer, strand, stop, None)
        for begin, end in row_slices(start, stop, heads, 1):
            weights = sliced_weights(recording, trace, strand, held, begin, end)
            weights = pad(weights, (0, stop - end))[:, :, start:]  # (H, R, count)
            rows.append(adaptive_max_pool2d(weights, (end - begin, side)))
            yield
        maps[index, :, :side, :side] = adaptive_max_pool2d(torch.cat(rows, dim=1), (side, side)).cpu().numpy()
    maps.flags.writeable = False
    return ThumbnailAnswer(query, maps, (start, stop))


@dataclass(frozen=True)
class LayerKeys:
    """The keys of one layer as its arithmetic takes them, made once for many slices of queries.

    keys: (1, H, T, D) float32, of the chosen heads alone where these do not know of each other; then `module` stands in
    for the layer's own. heads: chosen, None: every one.
    """

    layer: int
    module: Any
    keys: torch.Tensor
    heads: list[int] | None
    narrow: bool


def layer_keys(
    recording: Recording, trace: Trace, layer: int, strand: Strand, stop: int, heads: list[int] | None
) -> LayerKeys:
    """The keys before position `stop`. Raises `ViewUnavailableError`."""
    if not trace.sites:
        raise ViewUnavailableError(
            f"{recording.info.title} computes attention in its own way, which leaves no query to derive it from."
        )
    site = trace.sites[layer]
    keys = recording.keys(trace, layer, strand, stop)[None].float()  # (1, H_kv, T, D)
    if not can_narrow(site):
        return LayerKeys(layer, site.module, keys, heads, narrow=False)
    wanted = list(range(recording.info.heads)) if heads is None else heads
    return LayerKeys(layer, *narrowed(site.module, recording.info.heads, keys, wanted), heads, narrow=True)


def attention_weights(
    recording: Recording, trace: Trace, layer: int, strand: Strand, start: int, stop: int, heads: list[int] | None
) -> torch.Tensor:
    """Weights (H, stop - start, stop) float32 of the query positions [start, stop) over all earlier keys."""
    held = layer_keys(recording, trace, layer, strand, stop, heads)
    return sliced_weights(recording, trace, strand, held, start, stop)


def sliced_weights(
    recording: Recording, trace: Trace, strand: Strand, held: LayerKeys, start: int, stop: int
) -> torch.Tensor:
    """The same for one slice of the queries, with keys made before."""
    site = trace.sites[held.layer]
    query = recording.queries(trace, held.layer, strand, start, stop)[None].float()  # (1, H, R, D)
    keys = held.keys[:, :, :stop]
    if held.narrow and held.heads is not None:
        query = query[:, held.heads]
    hidden = torch.ones(stop - start, stop, dtype=torch.bool, device=keys.device).triu(start + 1)
    window = site.extras.get("sliding_window")
    if isinstance(window, int):
        hidden |= torch.ones_like(hidden).tril(start - window)
    muted = recording.hidden(strand, start, stop)
    if muted is not None:
        hidden |= muted.to(hidden.device)
    unseen = recording.unseen(trace, held.layer, strand, start, stop)
    if unseen is not None:
        hidden = hidden | unseen
    if hidden.ndim == 3:  # each key/value head has kept its own
        hidden = hidden.repeat_interleave(recording.info.heads // hidden.shape[0], dim=0)
        hidden = hidden[held.heads] if held.narrow and held.heads is not None else hidden
    mask = torch.zeros(hidden.shape, device=keys.device).masked_fill_(hidden, torch.finfo(torch.float32).min)
    mask = mask[None] if mask.ndim == 3 else mask[None, None]
    # The output of the attention is not wanted: values without a column are enough.
    _, weights = family_eager(site.module)(
        held.module, query, keys, keys[..., :0], mask, scaling=site.scaling, **dict(site.extras)
    )
    assert weights is not None  # eager attention always returns its weights
    if muted is not None:
        weights = weights.masked_fill(hidden, 0.0)  # a query that sees nothing at all would share evenly
    return weights[0] if held.narrow or held.heads is None else weights[0, held.heads]


def trace_for(
    recording: Recording, query: AttentionQuery, strand: Strand, start: int, stop: int
) -> tuple[Trace, Strand]:
    """The run's trace, or where its records were dropped and the user wants it, the same positions fed again."""
    trace = recording.recorded()
    if not query.recompute:
        return trace, strand
    try:
        recording.queries(trace, query.layer, strand, start, stop)
        recording.keys(trace, query.layer, strand, stop)
        recording.unseen(trace, query.layer, strand, start, stop)
    except ViewUnavailableError as problem:
        if problem.can_recompute:
            return recording.recompute(strand, start, stop)
        raise
    return trace, strand


def checked_heads(recording: Recording, heads: tuple[int, ...] | None, reduce: str | None) -> list[int] | None:
    """The heads of a question as a list (None: all). Raises `ViewUnavailableError` for what does not exist."""
    if reduce not in (None, "mean", "max"):
        raise ViewUnavailableError(f"Heads can be joined by mean or max, not by “{reduce}”.")
    if heads is None:
        return None
    wrong = [head for head in heads if not 0 <= head < recording.info.heads]
    if wrong or not heads:
        raise ViewUnavailableError(f"There is no head {wrong or 'given'}; a layer has {recording.info.heads}.")
    return list(heads)


def joined_cells(rows: int, columns: int, pool: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns joined into one cell, so that the answer fits into `pool`."""
    if pool is None:
        return 1, 1
    return -(-rows // max(1, pool[0])), -(-columns // max(1, pool[1]))


def row_slices(start: int, stop: int, heads: int, multiple: int) -> Generator[tuple[int, int], None, None]:
    """Query positions in portions of a few milliseconds, of whole cells of `multiple` rows."""
    rows = max(1, SLICE_ELEMENTS // (heads * stop))
    rows = max(multiple, rows - rows % multiple)
    for begin in range(start, stop, rows):
        yield begin, min(begin + rows, stop)


def _pool(weights: torch.Tensor, cell: tuple[int, int]) -> torch.Tensor:
    """Max over cells of (rows, columns); sharp lines stay visible. Padding with 0 changes no maximum."""
    if cell == (1, 1):
        return weights
    heads, rows, columns = weights.shape
    tall, wide = -(-rows // cell[0]), -(-columns // cell[1])
    padded = pad(weights, (0, wide * cell[1] - columns, 0, tall * cell[0] - rows))
    return padded.reshape(heads, tall, cell[0], wide, cell[1]).amax(dim=4).amax(dim=2)
