"""The content of a run's cache: norms of keys and values, and the cosine between keys."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch.nn.functional import adaptive_max_pool2d, normalize, pad

from core.contract.cache_views import CacheContentAnswer, CacheContentQuery
from core.contract.errors import ViewUnavailableError
from core.contract.snapshot import FloatArray
from core.trace.recording import Recording

SLICE_ELEMENTS = 1 << 20  # cosines computed between two looks at the clock


def derive_content(recording: Recording, query: CacheContentQuery) -> Generator[None, None, CacheContentAnswer]:
    """Norms first, then cosines a slice at a time. Raises `ViewUnavailableError`."""
    layer = recording.layer(query.layer)
    strand = recording.strand(query)
    if strand.fed is not None:
        raise ViewUnavailableError("This sequence has left the batch, and its keys and values with it.")
    batch_row = strand.path.rows(0, strand.padding + len(strand.token_ids))[-1]
    found = recording.source.content(layer, batch_row)
    keys, values, held = (part[:, strand.padding :] for part in found)  # (H_kv, T, D), (H_kv, T, D), (H_kv, T)
    yield
    key_norms, value_norms = _norms(keys, held), _norms(values, held)
    if query.head is None:
        return CacheContentAnswer(query, key_norms, value_norms)
    if not 0 <= query.head < keys.shape[0]:
        raise ViewUnavailableError(f"There is no key/value head {query.head}; a layer has {keys.shape[0]}.")
    length = keys.shape[1]
    cell = -(-length // max(1, query.pool))
    directions = normalize(keys[query.head].float(), dim=-1)  # (T, D)
    gone = ~held[query.head]
    rows: list[torch.Tensor] = []
    count = max(cell, (SLICE_ELEMENTS // max(1, length)) // cell * cell)
    for begin in range(0, length, count):
        end = min(begin + count, length)
        cosines = directions[begin:end] @ directions.T  # (n, T)
        cosines[gone[begin:end]] = cosines[:, gone] = -torch.inf
        rows.append(_pooled(cosines, cell))
        yield
    similarity = torch.cat(rows)
    return CacheContentAnswer(
        query, key_norms, value_norms, _plain(torch.where(similarity.isinf(), torch.nan, similarity)), cell
    )


def _pooled(cosines: torch.Tensor, cell: int) -> torch.Tensor:
    """The largest of each cell × cell positions."""
    if cell == 1:
        return cosines
    tall, wide = -(-cosines.shape[0] // cell), -(-cosines.shape[1] // cell)
    room = (0, wide * cell - cosines.shape[1], 0, tall * cell - cosines.shape[0])
    return adaptive_max_pool2d(pad(cosines, room, value=-torch.inf)[None], (tall, wide))[0]


def _norms(states: torch.Tensor, held: torch.Tensor) -> FloatArray:
    """(H_kv, T), NaN where nothing is held."""
    return _plain(states.float().norm(dim=-1).masked_fill(~held, torch.nan))


def _plain(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.cpu().numpy()
    array.flags.writeable = False
    return array
