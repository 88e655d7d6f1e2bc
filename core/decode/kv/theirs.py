"""The layers of transformers' own caches, with what the loop needs besides: their `update` is what runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from core.decode.kv.layer import Held, KindLayer, Shared, distinct_bytes, storage_bytes


class DynamicKind(DynamicLayer, KindLayer):  # type: ignore[misc]
    """`DynamicLayer`: `torch.cat` at every step. Tensors are never written in place, so that forks share them."""

    def __init__(self) -> None:
        DynamicLayer.__init__(self)
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers does it."""
        found: tuple[torch.Tensor, torch.Tensor] = DynamicLayer.update(self, key_states, value_states)
        self.length += key_states.shape[2]
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As transformers says it."""
        sizes: tuple[int, int] = DynamicLayer.get_mask_sizes(self, query_length)
        return sizes

    crop = KindLayer.crop

    def _cut(self, length: int) -> None:
        """Their storage stays until the next step."""
        DynamicLayer.crop(self, length - self.length)
        self.length = length

    def blank(self) -> DynamicKind:
        """As it was at the beginning."""
        return DynamicKind()

    def reset(self) -> None:
        """Forget everything and give the storages back."""
        KindLayer.reset(self)

    def fork(self, limit: int | None, shared: Shared) -> DynamicKind:
        """A layer that shares the tensors."""
        twin = DynamicKind()
        _share(self, twin)
        return twin

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """New tensors with the rows asked for."""
        _take_rows(self, sources)

    def sizes(self) -> Held:
        """Bytes of the tensors and of their storages."""
        return _sizes(self)


class DynamicSlidingKind(DynamicSlidingWindowLayer, KindLayer):  # type: ignore[misc]
    """`DynamicSlidingWindowLayer`: holds the window - 1 last positions; only the newest pass can be taken back."""

    def __init__(self, sliding_window: int) -> None:
        DynamicSlidingWindowLayer.__init__(self, sliding_window)
        self.length = 0
        self._before: tuple[torch.Tensor, torch.Tensor] | None = None
        self._begun = 0
        self._full: torch.Tensor | None = None  # keys that the newest pass attended to

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """As transformers does it."""
        DynamicSlidingWindowLayer.lazy_initialization(self, key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers does it."""
        self._before = (self.keys, self.values) if self.is_initialized else None
        self._begun = self.length
        found: tuple[torch.Tensor, torch.Tensor] = DynamicSlidingWindowLayer.update(self, key_states, value_states)
        self.length = self.cumulative_length
        self._full = found[0]
        return found

    def newest_keys(self, count: int) -> torch.Tensor:
        """Of a long pass more is gone already than the records want; what it returned shares the storage."""
        assert self._full is not None
        return self._full[:, :, self._full.shape[2] - count :].clone()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As transformers says it."""
        sizes: tuple[int, int] = DynamicSlidingWindowLayer.get_mask_sizes(self, query_length)
        return sizes

    @property
    def held(self) -> int:
        """Positions in the storage."""
        return 0 if self.keys is None or self.keys.ndim != 4 else int(self.keys.shape[2])

    def slots(self) -> torch.Tensor | None:
        """(T,) numbers of the last positions."""
        if self.held == self.length:
            return None
        return torch.arange(self.length - self.held, self.length, device=self.keys.device)

    def can_crop(self, length: int) -> bool:
        """Below the window everything is held; beyond it only the newest pass can be taken back."""
        return length in (0, self.length, self._begun) or self.length < self.sliding_window

    crop = KindLayer.crop

    def _why_not(self, length: int) -> str:
        return "A sliding layer of DynamicCache cannot go back beyond its window; feed the text again."

    def _cut(self, length: int) -> None:
        if length == self._begun and self._before is not None:
            self.keys, self.values = self._before
        else:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]
        self.length = self.cumulative_length = length

    def blank(self) -> DynamicSlidingKind:
        """As it was at the beginning."""
        return DynamicSlidingKind(self.sliding_window)

    def reset(self) -> None:
        """Forget everything and give the storages back."""
        KindLayer.reset(self)

    def fork(self, limit: int | None, shared: Shared) -> DynamicSlidingKind:
        """A layer that shares the tensors."""
        twin = DynamicSlidingKind(self.sliding_window)
        _share(self, twin)
        twin.cumulative_length, twin._before, twin._begun = self.cumulative_length, self._before, self._begun
        return twin

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """New tensors with the rows asked for."""
        _take_rows(self, sources)
        if self._before is not None and self._before[0].ndim == 4 and list(sources) != [*range(len(self._before[0]))]:
            rows = torch.tensor(list(sources), device=self._before[0].device)
            self._before = self._before[0][rows], self._before[1][rows]
        if self._full is not None and list(sources) != [*range(len(self._full))]:
            self._full = self._full[torch.tensor(list(sources), device=self._full.device)]

    def sizes(self) -> Held:
        """Bytes of the tensors and of their storages; other is what a pass can be taken back to."""
        return _sizes(self)._replace(other=distinct_bytes(self.tensors()[2:], besides=self.tensors()[:2]))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """K and V, those before the newest pass, and the keys that it attended to."""
        if self.keys is None:
            return ()
        full = () if self._full is None else (self._full,)
        return (self.keys, self.values, *(self._before or ()), *full)


class StaticKind(StaticLayer, KindLayer):  # type: ignore[misc]
    """`StaticLayer`: every slot is there from the first pass on, and attention runs over all of them, masked.

    `update` returns the whole buffer; `held_keys` the slots in use.
    """

    max_cache_len: int
    is_compileable = True  # so that transformers makes a mask for single positions, too

    def __init__(self, max_cache_len: int) -> None:
        StaticLayer.__init__(self, max_cache_len)
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """As in transformers, without the marks for the compiler, whose import takes seconds."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows = (*key_states.shape[:2], self.max_cache_len)
        self.keys = torch.zeros((*rows, key_states.shape[3]), dtype=self.dtype, device=self.device)
        self.values = torch.zeros((*rows, value_states.shape[3]), dtype=self.dtype, device=self.device)
        self.cumulative_length = torch.tensor(0, dtype=torch.int64, device=self.device)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers does it."""
        found: tuple[torch.Tensor, torch.Tensor] = StaticLayer.update(self, key_states, value_states)
        self.length += key_states.shape[2]
        return found

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self.length

    def get_max_length(self) -> int:
        """Slots there are."""
        return int(self.max_cache_len)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All slots there are."""
        return self.max_cache_len, 0

    def held_keys(self) -> torch.Tensor:
        """(B, H_kv, length, D) of the slots in use."""
        keys: torch.Tensor = self.keys[:, :, : self.length]
        return keys

    def held_values(self) -> torch.Tensor:
        """(B, H_kv, length, D) of the slots in use."""
        values: torch.Tensor = self.values[:, :, : self.length]
        return values

    crop = KindLayer.crop

    def _cut(self, length: int) -> None:
        """What the last positions leave is masked and written over."""
        self.length = length
        self.cumulative_length.fill_(length)

    def blank(self) -> StaticKind:
        """As it was at the beginning, nothing allocated."""
        return StaticKind(self.max_cache_len)

    def reset(self) -> None:
        """Forget everything and give the storages back."""
        KindLayer.reset(self)

    def fork(self, limit: int | None, shared: Shared) -> StaticKind:
        """A layer with a copy of the buffer: this kind writes in place. limit: slots of the copy."""
        slots = self.max_cache_len if limit is None else max(limit, self.length)
        twin = StaticKind(slots)
        if self.is_initialized:
            twin.lazy_initialization(self.keys[:, :, :1], self.values[:, :, :1])
            twin.keys[:, :, : self.length] = self.held_keys()
            twin.values[:, :, : self.length] = self.held_values()
            twin.length = self.length
            twin.cumulative_length.fill_(self.length)
        return twin

    def reach(self, limit: int) -> None:
        """New buffers, where there are not as many slots."""
        if limit > self.max_cache_len and self.is_initialized:
            length, keys, values = self.length, self.held_keys(), self.held_values()
            self.max_cache_len = limit
            self.lazy_initialization(keys[:, :, :1], values[:, :, :1])
            self.keys[:, :, :length], self.values[:, :, :length] = keys, values
            self.cumulative_length.fill_(length)
        self.max_cache_len = max(limit, self.max_cache_len)

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """New buffers with the rows asked for."""
        _take_rows(self, sources)

    def sizes(self) -> Held:
        """The slots in use, and all there are."""
        if not self.is_initialized:
            return Held()
        key, value = self.keys[:, :, :1].nbytes, self.values[:, :, :1].nbytes
        return Held(self.length * key, self.length * value, storage_bytes(self.keys), storage_bytes(self.values))


def _share(layer: KindLayer, twin: KindLayer) -> None:
    twin.length = layer.length
    if layer.is_initialized:
        twin.dtype, twin.device, twin.is_initialized = layer.dtype, layer.device, True
        twin.keys, twin.values = layer.keys, layer.values


def _take_rows(layer: KindLayer, sources: Sequence[int]) -> None:
    if not layer.is_initialized or layer.keys.ndim != 4 or list(sources) == list(range(layer.keys.shape[0])):
        return
    rows = torch.tensor(list(sources), device=layer.keys.device)
    layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def _sizes(layer: KindLayer) -> Held:
    if layer.keys is None or layer.keys.ndim != 4:
        return Held()
    return Held(layer.keys.nbytes, layer.values.nbytes, storage_bytes(layer.keys), storage_bytes(layer.values))
