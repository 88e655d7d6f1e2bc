"""The KV cache: our own cache layer, and the only file that touches the cache API of transformers.

`GrowLayer` keeps keys and values in a doubling buffer. Appending is O(1) amortised, cropping and forking are
O(1); forks share the buffer and copy it only when one of them must write where another still reads.
`update` returns exact-length views: with a longer tensor the unmasked tail would be attended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from core.contract.snapshot import CacheReport

SMALLEST_CAPACITY = 64


class _Buffer:
    """The storages of K and V of one layer, and the layers that read from them."""

    __slots__ = ("allocated_bytes", "capacity", "keys", "owners", "position_bytes", "values")

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys  # (B, H_kv, capacity, D)
        self.values = values  # (B, H_kv, capacity, D_v)
        self.capacity = keys.shape[2]
        # Read off the storages once: they never change, and every step reports them.
        self.allocated_bytes = keys.untyped_storage().nbytes(), values.untyped_storage().nbytes()
        self.position_bytes = keys[:, :, :1].nbytes, values[:, :, :1].nbytes
        self.owners: WeakSet[GrowLayer] = WeakSet()


class GrowLayer(CacheLayerMixin):
    """One layer's cache; `keys` and `values` are views of exactly `length` positions, (B, H_kv, length, D).

    limit: positions the layer will ever hold, so that the last doubling does not overshoot (None: unknown).
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.length = 0
        self._buffer: _Buffer | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Remember dtype and device; the buffer is made by the first `update`."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append T positions, (B, H_kv, T, D); returns all positions so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, count = self.length, key_states.shape[2]
        buffer = self._writable(start + count, key_states, value_states)
        # `narrow` and `copy_` cost a third of the same in slices: this runs in every layer of every step.
        buffer.keys.narrow(2, start, count).copy_(key_states)
        buffer.values.narrow(2, start, count).copy_(value_states)
        self._show(start + count)
        return self.keys, self.values

    def _writable(self, stop: int, key_like: torch.Tensor, value_like: torch.Tensor) -> _Buffer:
        """The buffer with room for `stop` positions where nobody else reads beyond our length."""
        old = self._buffer
        if old is not None and stop <= old.capacity and not self._others_read_on(old):
            return old
        capacity = max(SMALLEST_CAPACITY, 1 << (stop - 1).bit_length())
        if self.limit is not None and stop <= self.limit:
            capacity = min(capacity, self.limit)
        new = _Buffer(_empty_like(key_like, capacity), _empty_like(value_like, capacity))
        if old is not None:
            new.keys[:, :, : self.length] = old.keys[:, :, : self.length]
            new.values[:, :, : self.length] = old.values[:, :, : self.length]
        self._adopt(new)
        return new

    def _others_read_on(self, buffer: _Buffer) -> bool:
        if len(buffer.owners) == 1:
            return False
        return any(other is not self and other.length > self.length for other in buffer.owners)

    def _adopt(self, buffer: _Buffer) -> None:
        if self._buffer is not None:
            self._buffer.owners.discard(self)
        self._buffer = buffer
        buffer.owners.add(self)

    def _show(self, length: int) -> None:
        self.length = length
        if self._buffer is not None:
            self.keys = self._buffer.keys.narrow(2, 0, length)
            self.values = self._buffer.values.narrow(2, 0, length)

    def fork(self, limit: int | None = None) -> GrowLayer:
        """A layer with the same content that grows on its own; nothing is copied now."""
        twin = GrowLayer(limit)
        if self._buffer is not None:
            twin.lazy_initialization(self._buffer.keys, self._buffer.values)
            twin._adopt(self._buffer)
            twin._show(self.length)
        return twin

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions; as in transformers the count is given as a negative number."""
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop takes the number of positions to remove as a negative number, not {tokens_to_remove}"
            )
        self._show(max(0, self.length + tokens_to_remove))

    def reset(self) -> None:
        """Forget everything and give the storage back."""
        if self._buffer is not None:
            self._buffer.owners.discard(self)
        self._buffer, self.length = None, 0
        super().__init__()  # keys, values and is_initialized as they were at the beginning

    def get_seq_length(self) -> int:
        """Positions held."""
        return self.length

    def get_max_length(self) -> int:
        """-1, transformers' word for: no maximum."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key positions that a query of this length sees, and the first key's offset."""
        return self.length + query_length, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Rows in the order of `beam_idx` (B,)."""
        self._gather(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        self._gather(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self._buffer is not None:
            rows = torch.arange(self._buffer.keys.shape[0], device=self._buffer.keys.device)
            self._gather(rows.repeat_interleave(repeats))

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """Row k becomes what row `sources[k]` is; before slot `since` they are the same already.

        Beams part late, so that little is copied. A batch of another size gets a new buffer.
        """
        buffer = self._buffer
        if buffer is None:
            return
        alone = len(buffer.owners) == 1
        if not alone or len(sources) != buffer.keys.shape[0]:
            self._gather(torch.tensor(sources, device=buffer.keys.device))
            return
        moved = [row for row, source in enumerate(sources) if source != row]
        if not moved or since >= self.length:
            return
        for states in (buffer.keys, buffer.values):
            part = states.narrow(2, since, self.length - since)
            if set(moved).isdisjoint(sources[row] for row in moved):
                for row in moved:
                    part[row].copy_(part[sources[row]])
            else:
                part[moved] = part[[sources[row] for row in moved]]  # the right side is a copy

    def _gather(self, rows: torch.Tensor) -> None:
        if self._buffer is None:
            return
        rows = rows.to(self._buffer.keys.device)
        capacity, length = self._buffer.capacity, self.length
        keys, values = self.keys[rows], self.values[rows]  # (B', H_kv, length, D)
        new = _Buffer(_empty_like(keys, capacity), _empty_like(values, capacity))
        new.keys[:, :, :length], new.values[:, :, :length] = keys, values
        self._adopt(new)
        self._show(length)

    def bytes(self) -> tuple[int, int, int, int]:
        """Used K, used V, allocated K, allocated V, from the storages really held."""
        buffer = self._buffer
        if buffer is None:
            return 0, 0, 0, 0
        keys, values = buffer.position_bytes
        return self.length * keys, self.length * values, *buffer.allocated_bytes

    def storages(self) -> dict[int, int]:
        """The storages of K and V, perhaps shared with forks: address → bytes."""
        buffer = self._buffer
        if buffer is None:
            return {}
        pairs = zip((buffer.keys, buffer.values), buffer.allocated_bytes, strict=True)
        return {states.untyped_storage().data_ptr(): count for states, count in pairs}


def _empty_like(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, _, width = states.shape
    return torch.empty((batch, heads, capacity, width), dtype=states.dtype, device=states.device)


def new_cache(layers: int, limit: int | None = None) -> Cache:
    """An empty cache of `layers` growing layers."""
    return Cache(layers=[GrowLayer(limit) for _ in range(layers)])


def fork_cache(cache: Cache, length: int | None = None, limit: int | None = None) -> Cache:
    """A cache with the first `length` positions (all) that grows on its own, up to `limit` if that is known."""
    twin = Cache(layers=[layer.fork(limit) for layer in _grow_layers(cache)])
    if length is not None:
        crop_cache(twin, length)
    return twin


def fork_row(cache: Cache, row: int, length: int, limit: int | None = None) -> Cache:
    """A cache with the first `length` slots of one row of the batch; of a batch of several they are copied."""
    layers = list(_grow_layers(cache))
    if layers[0].keys.shape[0] == 1:
        return fork_cache(cache, length, limit)
    twin = new_cache(len(layers), limit)
    for ours, theirs in zip(_grow_layers(twin), layers, strict=True):
        ours.update(theirs.keys[row : row + 1, :, :length], theirs.values[row : row + 1, :, :length])
    return twin


def storages(cache: Cache) -> dict[int, int]:
    """The storages that a cache holds, perhaps with others: address → bytes."""
    held: dict[int, int] = {}
    for layer in _grow_layers(cache):
        held |= layer.storages()
    return held


def foreign_lengths(cache: Cache) -> list[int]:
    """Positions that each layer of a cache of transformers holds; 0 for one that was never used."""
    held = [0 if layer.keys is None or layer.keys.ndim != 4 else layer.keys.shape[2] for layer in cache.layers]
    return [min(n, int(layer.get_seq_length())) for n, layer in zip(held, cache.layers, strict=True)]


def foreign_shape(cache: Cache) -> tuple[int, int, int]:
    """Its B, H_kv and D."""
    batch, heads, _, width = cache.layers[0].keys.shape
    return batch, heads, width


def copy_in(cache: Cache, length: int, limit: int | None, dtype: torch.dtype, device: torch.device) -> Cache:
    """Our own cache with copies of the first `length` positions of a cache of transformers."""
    ours = new_cache(len(cache.layers), limit)
    for layer, theirs in zip(_grow_layers(ours), cache.layers, strict=True):
        keys, values = (states[:, :, :length].to(device, dtype) for states in (theirs.keys, theirs.values))
        layer.update(keys, values)
    return ours


def copy_out(cache: Cache, row: int, start: int, stop: int) -> DynamicCache:
    """The slots [start, stop) of one row as transformers' own cache, in storages of its own."""
    pairs = [(layer.keys, layer.values) for layer in _grow_layers(cache)]
    return DynamicCache([tuple(s[row : row + 1, :, start:stop].clone() for s in pair) for pair in pairs])


def crop_cache(cache: Cache, length: int) -> None:
    """Forget all positions from `length` on; layers that stopped half way (ragged) are levelled."""
    for layer in _grow_layers(cache):
        layer.crop(min(0, length - layer.length))


def take_rows(cache: Cache, sources: Sequence[int], since: int = 0) -> None:
    """Row k of the batch becomes what row `sources[k]` is; before slot `since` they are the same already."""
    for layer in _grow_layers(cache):
        layer.take_rows(sources, since)


def keys_since(cache: Cache, start: int) -> list[torch.Tensor]:
    """Copies of the keys of the slots from `start` on, a tensor (B, H_kv, n, D) a layer."""
    return [layer.keys[:, :, start:].clone() for layer in _grow_layers(cache)]


def cache_length(cache: Cache) -> int:
    """Positions that every layer holds."""
    return min(layer.length for layer in _grow_layers(cache))


def layer_keys(cache: Cache, layer: int) -> torch.Tensor:
    """Keys of one layer, (B, H_kv, length, D)."""
    keys: torch.Tensor = cache.layers[layer].keys
    return keys


def cache_report(cache: Cache) -> CacheReport:
    """Bytes per layer as they are now."""
    table = np.array([layer.bytes() for layer in _grow_layers(cache)], dtype=np.int64).reshape(-1, 4)
    table.flags.writeable = False
    return CacheReport(cache_length(cache), table[:, 0], table[:, 1], table[:, 2], table[:, 3])


def _grow_layers(cache: Cache) -> Iterator[GrowLayer]:
    yield from cache.layers
