"""How two branches compare: their distributions token by token, their attention weight by weight. From records alone.

S = 2 sides, P token positions, V vocabulary, H heads, R query rows, T keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from itertools import takewhile

import numpy as np
import torch
from torch.nn.functional import pad

from core.contract.errors import ViewUnavailableError
from core.contract.snapshot import FloatArray
from core.contract.twins import (
    CompareAnswer,
    CompareAttentionAnswer,
    CompareAttentionQuery,
    CompareQuery,
    TwinAnswer,
    TwinQuery,
)
from core.contract.views import Place
from core.trace.attention import attention_weights, checked_heads, joined_cells, row_slices
from core.trace.recording import Recording, Strand

_LN2 = math.log(2.0)

Sides = tuple[tuple[Recording, Strand], tuple[Recording, Strand]]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the other side is."""

    row: int
    beam: int = 0
    index: int | None = None


def derive_compared(first: Recording, second: Recording, query: TwinQuery) -> Generator[None, None, TwinAnswer]:
    """The answer, in slices of a few milliseconds. Raises `ViewUnavailableError`."""
    other: Place = _Place(query.other_row)
    sides = ((first, first.strand(query)), (second, second.strand(other)))
    if isinstance(query, CompareQuery):
        return _distributions(sides, query)
    return _attention(sides, query)


def parted(sides: Sides) -> int | None:
    """The first position where the tokens differ; None where they do not as far as both go."""
    ours, theirs = (strand.token_ids for _, strand in sides)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    return same if same < min(len(ours), len(theirs)) else None


def _distributions(sides: Sides, query: CompareQuery) -> Generator[None, None, CompareAnswer]:
    for recording, _ in sides:
        recording.require("distribution")
    most = min(min(len(strand.token_ids), recording.positions(strand) + 1) for recording, strand in sides)
    start, stop = query.positions[0], most if query.positions[1] is None else min(query.positions[1], most)
    if not 1 <= start < stop:
        raise ViewUnavailableError(f"Tokens {start} to {stop} cannot be compared yet; both branches go up to {most}.")
    kl_bits = np.empty(stop - start, np.float32)
    probability = np.empty((stop - start, 2, 2), np.float32)
    token_ids = np.array([[strand.token_ids[p] for _, strand in sides] for p in range(start, stop)], np.int64)
    for at in range(stop - start):
        scores = []
        for recording, strand in sides:
            scores.append(_scores(recording, strand, start + at - 1, query.final))
            yield
        known = min(len(one) for one in scores)  # some models have room for more tokens than there are
        ours, theirs = (torch.log_softmax(one[:known], dim=-1).to("cpu", torch.float64) for one in scores)
        kl_bits[at] = divergence_bits(ours, theirs)
        for t, token_id in enumerate(token_ids[at].tolist()):
            probability[at, t] = [float(side[token_id].exp()) if token_id < known else 0.0 for side in (ours, theirs)]
    for array in (kl_bits, probability, token_ids):
        array.flags.writeable = False
    return CompareAnswer(query, (start, stop), kl_bits, probability, token_ids, parted(sides))


def divergence_bits(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """KL(ours ‖ theirs) of log-probabilities (V,); infinite where theirs rules out what ours keeps."""
    alive = ~ours.isneginf()
    apart = ours[alive] - theirs[alive]
    return max(0.0, float(torch.dot(ours[alive].exp(), apart)) / _LN2)


def _scores(recording: Recording, strand: Strand, position: int, final: bool) -> torch.Tensor:
    """The scores (V,) that the token after `position` was chosen from. Raises `ViewUnavailableError`."""
    # (1, 1, E), as the model has it: a product of another shape may round differently.
    residual = recording.residuals(recording.info.layers, strand, position, position + 1)[None]
    logits = recording.anatomy.read_out(residual)[0, -1]
    if not final:
        return logits
    replay = recording.replay(strand, position, logits, {})
    if replay.reason:
        raise ViewUnavailableError(replay.reason)
    scores = replay.start
    for stage in replay.stages:
        scores = stage.fn(scores)
    return scores[0]


def _attention(sides: Sides, query: CompareAttentionQuery) -> Generator[None, None, CompareAttentionAnswer]:
    spans, heads = [], []
    for recording, strand in sides:
        recording.require("attention")
        recording.layer(query.layer)
        heads.append(checked_heads(recording, query.heads, query.reduce))
        spans.append(recording.span(strand, query.rows))
    if query.reduce is None and (query.heads is None or len(query.heads) > 1):
        raise ViewUnavailableError("Several heads are compared joined into one; choose mean or max, or one head.")
    start, stop = spans[0][0], min(span[1] for span in spans)
    cell = joined_cells(stop - start, stop, query.pool)
    count = max(recording.info.heads if h is None else len(h) for (recording, _), h in zip(sides, heads, strict=True))
    parts: list[FloatArray] = []
    for begin, end in row_slices(start, stop, count, cell[0]):
        both = []
        for (recording, strand), chosen in zip(sides, heads, strict=True):
            both.append(_joined(recording, strand, query, begin, end, chosen))
            yield
        difference = pad(both[0] - both[1].to(both[0].device), (0, stop - end))  # (R, stop)
        parts.append(_pool_signed(difference, cell).cpu().numpy())
    joined = np.concatenate(parts)
    joined.flags.writeable = False
    return CompareAttentionAnswer(query, joined, (start, stop), stop, cell, parted(sides))


def _joined(
    recording: Recording, strand: Strand, query: CompareAttentionQuery, start: int, stop: int, heads: list[int] | None
) -> torch.Tensor:
    """Weights (R, stop) of the queries [start, stop), the heads joined."""
    weights = attention_weights(recording, recording.recorded(), query.layer, strand, start, stop, heads)  # (H, R, T)
    return weights.amax(0) if query.reduce == "max" else weights.mean(0)


def _pool_signed(difference: torch.Tensor, cell: tuple[int, int]) -> torch.Tensor:
    """Of each cell of (rows, columns) the value that is largest in size, with its sign."""
    if cell == (1, 1):
        return difference
    rows, columns = difference.shape
    tall, wide = -(-rows // cell[0]), -(-columns // cell[1])
    padded = pad(difference, (0, wide * cell[1] - columns, 0, tall * cell[0] - rows))
    cells = padded.reshape(tall, cell[0], wide, cell[1])
    most, least = cells.amax(dim=3).amax(dim=1), cells.amin(dim=3).amin(dim=1)
    return torch.where(most >= -least, most, least)
