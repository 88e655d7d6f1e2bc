"""What heads do: who looks at a position, and each head in four numbers."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch

from core.contract.errors import ViewUnavailableError
from core.contract.looking import ColumnAnswer, ColumnQuery, HeadsAnswer, HeadsQuery
from core.trace.attention import checked_heads
from core.trace.reading import keys_of, records, row_slices, weights
from core.trace.recording import Recording


def derive_column(recording: Recording, query: ColumnQuery) -> Generator[None, None, ColumnAnswer]:
    """The weights that later queries give one key. Raises `ViewUnavailableError`."""
    recording.require("attention")
    layer, heads = recording.layer(query.layer), checked_heads(recording, query.heads, query.reduce)
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.rows)
    fed = recording.positions(strand)
    if not 0 <= query.key < fed:
        raise ViewUnavailableError(f"Position {query.key} is not among the {fed} that were fed to the model.")
    count = recording.info.heads if heads is None else len(heads)
    before = min(max(query.key - start, 0), stop - start)  # queries before the key cannot see it
    parts = [np.zeros((1 if query.reduce is not None else count, before), np.float32)]
    if start + before < stop:
        found = records(recording, strand, start + before, stop, query.recompute)
        keys = keys_of(recording, found, layer, stop, heads)
        for begin, end in row_slices(start + before, stop, count):
            column = weights(recording, found, keys, begin, end)[:, :, query.key]  # (H', n)
            if query.reduce is not None:
                column = column.mean(0, keepdim=True) if query.reduce == "mean" else column.amax(0, keepdim=True)
            parts.append(column.cpu().numpy())
            yield
    joined = np.concatenate(parts, axis=1)
    joined.flags.writeable = False
    return ColumnAnswer(query, joined, (start, stop))


def derive_heads(recording: Recording, query: HeadsQuery) -> Generator[None, None, HeadsAnswer]:
    """Entropy, weight on the first and the previous position, induction score. Raises `ViewUnavailableError`."""
    recording.require("attention")
    if not query.layers:
        raise ViewUnavailableError("No layer is asked for; name one at least.")
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.rows)
    targets = induction_targets(strand.token_ids[:stop])
    heads = recording.info.heads
    sums = np.zeros((4, len(query.layers), heads))
    held = records(recording, strand, start, stop, query.recompute)
    for index, layer in enumerate(query.layers):
        recording.layer(layer)
        keys = keys_of(recording, held, layer, stop, None)
        for begin, end in row_slices(start, stop, heads):
            found = weights(recording, held, keys, begin, end)  # (H, n, end)
            sums[:, index] += _sums(found, begin, targets[begin:end]).cpu().numpy()
            yield
    later = stop - max(start, 1)  # queries that have a token before them
    repeats = sum(target is not None for target in targets[start:])
    counts = np.array([stop - start, later, later, repeats], float)[:, None, None]
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0).astype(np.float32)
    means.flags.writeable = False
    return HeadsAnswer(query, (start, stop), means[0], means[1], means[2], means[3], repeats)


def induction_targets(tokens: Sequence[int]) -> list[int | None]:
    """For each position the one after the latest earlier occurrence of its token, if that lies before it."""
    latest: dict[int, int] = {}
    found: list[int | None] = []
    for position, token in enumerate(tokens):
        after = latest.get(token, position) + 1
        found.append(after if after < position else None)
        latest[token] = position
    return found


def _sums(found: torch.Tensor, begin: int, targets: list[int | None]) -> torch.Tensor:
    """(4, H): sums over the queries of entropy in bits, weight on 0, on the token before, on the induction target."""
    entropy = torch.special.entr(found).sum((1, 2)) / float(np.log(2.0))
    skip = 1 if begin == 0 else 0  # the first position has nothing before it
    queries = torch.arange(skip, found.shape[1], device=found.device)
    first = found[:, skip:, 0].sum(1)
    previous = found[:, queries, queries + begin - 1].sum(1)
    hits = [(row, target) for row, target in enumerate(targets) if target is not None]
    rows, keys = ([h[i] for h in hits] for i in (0, 1))
    induction = found[:, rows, keys].sum(1) if hits else torch.zeros_like(first)
    return torch.stack([entropy, first, previous, induction])
