"""The default: keys and values in a doubling buffer.

Appending is O(1) amortised, cropping and forking are O(1); forks share the buffer and copy it only when one of them
must write where another still reads. `update` returns exact-length views: with a longer tensor the unmasked tail would
be attended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import torch

from core.decode.kv.layer import Held, KindLayer, ShapeFacts, Shared, checked_removal, facts_of

SMALLEST_CAPACITY = 64


class _Buffer:
    """The storages of one layer, K and V first, and the layers that read from them."""

    __slots__ = ("allocated_bytes", "capacity", "facts", "owners", "parts", "position_bytes")

    def __init__(self, parts: tuple[torch.Tensor, ...], dtype: torch.dtype | None = None) -> None:
        self.facts = facts_of(parts[0], parts[1], dtype or parts[0].dtype)
        self.parts = parts  # (B, H_kv, capacity, D) each
        self.capacity = parts[0].shape[2]
        # Read off the storages once: they never change, and every step reports them.
        self.allocated_bytes = tuple(part.untyped_storage().nbytes() for part in parts)
        self.position_bytes = tuple(part[:, :, :1].nbytes for part in parts)
        self.owners: WeakSet[GrowLayer] = WeakSet()


class GrowLayer(KindLayer):
    """One layer's cache; `keys` and `values` are views of exactly `length` positions, (B, H_kv, length, D).

    limit: positions the layer will ever hold, so that the last doubling does not overshoot (None: unknown).
    """

    stored: torch.dtype | None = None  # what the first parts stand for, where they are bytes

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self._buffer: _Buffer | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append T positions, (B, H_kv, T, D); returns all positions so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, count = self.length, key_states.shape[2]
        parts = self._encode(key_states, value_states)
        buffer = self._writable(start + count, parts)
        # `narrow` and `copy_` cost a third of the same in slices: this runs in every layer of every step.
        for place, part in zip(buffer.parts, parts, strict=True):
            place.narrow(2, start, count).copy_(part)
        self._show(start + count)
        return self.keys, self.values

    def _encode(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is stored for these states."""
        return key_states, value_states

    def _writable(self, stop: int, like: tuple[torch.Tensor, ...]) -> _Buffer:
        """The buffer with room for `stop` positions where nobody else reads beyond our length."""
        old = self._buffer
        if old is not None and stop <= old.capacity and not self._others_read_on(old):
            return old
        capacity = max(SMALLEST_CAPACITY, 1 << (stop - 1).bit_length())
        if self.limit is not None and stop <= self.limit:
            capacity = min(capacity, self.limit)
        new = _Buffer(tuple(_empty_like(part, capacity) for part in like), self.stored)
        if old is not None:
            for target, source in zip(new.parts, old.parts, strict=True):
                target[:, :, : self.length] = source[:, :, : self.length]
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
            keys, values = self._buffer.parts
            self.keys = keys.narrow(2, 0, length)
            self.values = values.narrow(2, 0, length)

    def fork(self, limit: int | None = None, shared: Shared | None = None) -> GrowLayer:
        """A layer with the same content that grows on its own; nothing is copied now."""
        twin = type(self)(limit)
        if self._buffer is not None:
            twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
            twin._adopt(self._buffer)
            twin._show(self.length)
        return twin

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions; as in transformers the count is given as a negative number."""
        self._show(max(0, self.length - checked_removal(tokens_to_remove)))

    def reset(self) -> None:
        """Forget everything and give the storage back."""
        if self._buffer is not None:
            self._buffer.owners.discard(self)
        super().reset()

    def blank(self) -> GrowLayer:
        """As it was at the beginning."""
        return type(self)(self.limit)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The buffer's, perhaps shared with forks."""
        return () if self._buffer is None else self._buffer.parts

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """Row k becomes what row `sources[k]` is; before slot `since` they are the same already.

        Beams part late, so that little is copied. A batch of another size gets a new buffer.
        """
        buffer = self._buffer
        if buffer is None or list(sources) == list(range(buffer.parts[0].shape[0])):
            return
        alone = len(buffer.owners) == 1
        if not alone or len(sources) != buffer.parts[0].shape[0]:
            self._gather(torch.tensor(sources, device=buffer.parts[0].device))
            return
        moved = [row for row, source in enumerate(sources) if source != row]
        if not moved or since >= self.length:
            return
        for states in buffer.parts:
            part = states.narrow(2, since, self.length - since)
            if set(moved).isdisjoint(sources[row] for row in moved):
                for row in moved:
                    part[row].copy_(part[sources[row]])
            else:
                part[moved] = part[[sources[row] for row in moved]]  # the right side is a copy

    def _gather(self, rows: torch.Tensor) -> None:
        buffer, length = self._buffer, self.length
        if buffer is None:
            return
        taken = tuple(part[:, :, :length][rows] for part in buffer.parts)  # (B', H_kv, length, D)
        new = _Buffer(tuple(_empty_like(part, buffer.capacity) for part in taken), self.stored)
        for target, source in zip(new.parts, taken, strict=True):
            target[:, :, :length] = source
        self._adopt(new)
        self._show(length)

    def shape_facts(self) -> ShapeFacts:
        """As stored."""
        assert self._buffer is not None
        return self._buffer.facts

    def sizes(self) -> Held:
        """Used and allocated bytes, from the storages really held."""
        buffer = self._buffer
        if buffer is None:
            return Held()
        keys, values = buffer.position_bytes
        return Held(self.length * keys, self.length * values, *buffer.allocated_bytes)


def _empty_like(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, _, width = states.shape
    return torch.empty((batch, heads, capacity, width), dtype=states.dtype, device=states.device)
