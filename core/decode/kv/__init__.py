"""The KV cache, one file a kind, and the only place that touches the cache API of transformers.

`layer.py` says what a layer of any kind can do, `cache.py` what the loop does with all of them, `kinds.py` which kind a
`CacheSpec` means and which models it cannot serve.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicCache

from core.contract.cache import CacheReport, CacheSpec
from core.decode.kv.cache import RunCache
from core.decode.kv.grow import GrowLayer
from core.decode.kv.kinds import check_kind, check_mode, make_cache
from core.decode.kv.layer import CannotRewindError, KindLayer
from core.decode.kv.off import NoCache

__all__ = [
    "CannotRewindError",
    "GrowLayer",
    "KindLayer",
    "NoCache",
    "RunCache",
    "cache_length",
    "cache_report",
    "check_kind",
    "check_mode",
    "copy_in",
    "copy_moved",
    "copy_out",
    "crop_cache",
    "foreign_lengths",
    "foreign_shape",
    "fork_cache",
    "fork_row",
    "keys_since",
    "make_cache",
    "new_cache",
    "reread_cache",
    "storages",
    "take_rows",
]


def new_cache(layers: int, limit: int | None = None) -> RunCache:
    """An empty cache of `layers` growing layers."""
    return RunCache(CacheSpec(), [GrowLayer(limit) for _ in range(layers)])


def fork_cache(cache: RunCache, length: int | None = None, limit: int | None = None) -> RunCache:
    """A cache with the first `length` positions (all) that grows on its own, up to `limit` if that is known.

    Raises `CannotRewindError` where what it would need was dropped.
    """
    twin = cache.fork(limit)
    if length is not None:
        twin.crop_to(length)
    return twin


def reread_cache(cache: RunCache, row: int, length: int, stop: int) -> RunCache:
    """A fork of one row as of `length` positions, for feeding those before `stop` once more as they were fed.

    Keys and values of growing layers are found there rather than written again, so that nothing is copied of a batch
    of one. Raises `CannotRewindError` where what it would need was dropped.
    """
    twin = fork_row(cache, row, length, stop)
    for layer in twin.kind_layers():
        if length and type(layer) is GrowLayer:  # without a past it has given its storage back
            layer.known = min(stop, cache.length)
    return twin


def fork_row(cache: RunCache, row: int, length: int, limit: int | None = None) -> RunCache:
    """A cache with the first `length` slots of one row of the batch; of a batch of several they are copied.

    Raises `CannotRewindError` where what it would need was dropped.
    """
    twin = cache.fork(limit)
    twin.take_rows([row])
    twin.crop_to(length)
    return twin


def storages(cache: RunCache) -> dict[int, int]:
    """The storages that a cache holds, perhaps with others: address → bytes."""
    held: dict[int, int] = {}
    for layer in cache.kind_layers():
        held |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in layer.tensors()}
    return held


def foreign_lengths(cache: Cache) -> list[int]:
    """Positions that each layer of a cache of transformers holds; 0 if never used, -1 if some were dropped."""
    held = [0 if layer.keys is None or layer.keys.ndim != 4 else layer.keys.shape[2] for layer in cache.layers]
    fed = [int(layer.get_seq_length()) for layer in cache.layers]
    return [-1 if 0 < n < count else min(n, count) for n, count in zip(held, fed, strict=True)]


def foreign_shape(cache: Cache) -> tuple[int, int, int]:
    """Its B, H_kv and D."""
    batch, heads, _, width = cache.layers[0].keys.shape
    return batch, heads, width


def copy_in(
    cache: RunCache, past: Cache, length: int, dtype: torch.dtype, device: torch.device, rows: Sequence[int]
) -> None:
    """Begin an empty cache with copies of the first `length` slots of some rows of a cache of transformers."""
    chosen = list(rows)
    for layer, theirs in zip(cache.kind_layers(), past.layers, strict=True):
        keys, values = (states[chosen, :, :length].to(device, dtype) for states in (theirs.keys, theirs.values))
        layer.update(keys, values)


def copy_moved(cache: RunCache, past: RunCache, moves: Sequence[tuple[int, int, int]], length: int) -> None:
    """Begin an empty cache with the first `length` slots of rows of another one, which holds all of its own.

    moves: for each row the one it is there, and the slots of padding in front of it there and here.
    """

    def moved(states: torch.Tensor) -> torch.Tensor:
        found = states.new_zeros(len(moves), states.shape[1], length, states.shape[3])
        for place, (row, theirs, ours) in enumerate(moves):
            if ours < length:
                found[place, :, ours:] = states[row, :, theirs : theirs + length - ours]
        return found

    for layer, source in zip(cache.kind_layers(), past.kind_layers(), strict=True):
        layer.update(moved(source.held_keys()), moved(source.held_values()))


def copy_out(cache: RunCache, row: int, start: int, stop: int) -> DynamicCache:
    """The slots [start, stop) of one row as transformers' own cache, in storages of its own.

    The cache must hold them all.
    """
    pairs = [(layer.held_keys(), layer.held_values()) for layer in cache.kind_layers()]
    return DynamicCache([tuple(s[row : row + 1, :, start:stop].clone() for s in pair) for pair in pairs])


def crop_cache(cache: RunCache, length: int) -> None:
    """Forget all positions from `length` on. Raises `CannotRewindError`."""
    cache.crop_to(length)


def take_rows(cache: RunCache, sources: Sequence[int], since: int = 0) -> None:
    """Row k of the batch becomes what row `sources[k]` is; before slot `since` they are the same already."""
    cache.take_rows(sources, since)


def keys_since(cache: RunCache, start: int) -> list[torch.Tensor]:
    """Copies of the keys of the slots from `start` on, a tensor (B, H_kv, n, D) a layer."""
    return cache.keys_since(start)


def cache_length(cache: RunCache) -> int:
    """Positions that every layer was fed."""
    return cache.length


def cache_report(cache: RunCache) -> CacheReport:
    """Bytes per layer as they are now."""
    return cache.report()
