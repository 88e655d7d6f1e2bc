"""The default: keys and values in a doubling buffer.

Appending is O(1) amortised, cropping and forking are O(1); forks share the buffer and copy it only when one of them
must write where another still reads. `update` returns exact-length views: with a longer tensor the unmasked tail would
be attended. Slots that were deleted are in no storage; the others keep their order, and their keys their positions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakSet

import torch

from core.decode.kv.layer import Held, KindLayer, ShapeFacts, Shared, facts_of
from core.decode.kv.window import restricted

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
    """One layer's cache; `keys` and `values` are views of exactly the positions held, (B, H_kv, held, D).

    limit: positions the layer will ever be fed, so that the last doubling does not overshoot (None: unknown).
    deleted: slots below `length` that are in no storage any more, ascending.
    known: slots whose states are in the storage already and stay as they are when they are fed once more.
    """

    stored: torch.dtype | None = None  # what the first parts stand for, where they are bytes

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self._buffer: _Buffer | None = None
        self.deleted: tuple[int, ...] = ()
        self.known = 0
        self.shared: Shared | None = None  # known once something was deleted

    @property
    def held(self) -> int:
        """Slots in the storage."""
        return self.length - len(self.deleted)

    def slots(self) -> torch.Tensor | None:
        """(T,) numbers of the slots held; None: all."""
        if not self.deleted or self._buffer is None:
            return None
        return torch.tensor(self._held_slots(), device=self._buffer.parts[0].device)

    def _held_slots(self) -> list[int]:
        gone = frozenset(self.deleted)
        return [slot for slot in range(self.length) if slot not in gone]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append T positions, (B, H_kv, T, D); returns all positions so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, count = self.held, key_states.shape[2]
        if self._buffer is not None and start + count <= self.known:
            self._show(self.length + count)
            return self.keys, self.values
        parts = self._encode(key_states, value_states)
        buffer = self._writable(start + count, parts)
        # `narrow` and `copy_` cost a third of the same in slices: this runs in every layer of every step.
        for place, part in zip(buffer.parts, parts, strict=True):
            place.narrow(2, start, count).copy_(part)
        self._show(self.length + count)
        return self.keys, self.values

    def _encode(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is stored for these states."""
        return key_states, value_states

    def _writable(self, stop: int, like: tuple[torch.Tensor, ...]) -> _Buffer:
        """The buffer with room for `stop` positions where nobody else reads beyond our length."""
        old = self._buffer
        if old is not None and stop <= old.capacity and not self._others_read_on(old):
            return old
        capacity = self._capacity(stop)
        new = _Buffer(tuple(_empty_like(part, capacity) for part in like), self.stored)
        if old is not None:
            for target, source in zip(new.parts, old.parts, strict=True):
                target[:, :, : self.held] = source[:, :, : self.held]
        self._adopt(new)
        return new

    def _capacity(self, stop: int) -> int:
        """Slots of a storage with room for `stop`."""
        capacity = max(SMALLEST_CAPACITY, 1 << (stop - 1).bit_length())
        most = None if self.limit is None else self.limit - len(self.deleted)
        return capacity if most is None or stop > most else min(capacity, most)

    def _others_read_on(self, buffer: _Buffer) -> bool:
        if len(buffer.owners) == 1:
            return False
        return any(other is not self and other.held > self.held for other in buffer.owners)

    def _adopt(self, buffer: _Buffer) -> None:
        if self._buffer is not None:
            self._buffer.owners.discard(self)
        self._buffer, self.known = buffer, 0
        buffer.owners.add(self)

    def _show(self, length: int) -> None:
        self.length = length
        if self._buffer is not None:
            keys, values = self._buffer.parts
            self.keys = keys.narrow(2, 0, self.held)
            self.values = values.narrow(2, 0, self.held)

    def delete(self, slots: Collection[int], emptied: Sequence[Collection[int]], shared: Shared) -> None:
        """Take `slots` out of the storages; of those that stay for other rows, row k's `emptied[k]` become zeros.

        The storages are new, so that forks keep what they have.
        """
        if self._buffer is None:
            return
        before = self._held_slots()
        gone = frozenset(slots)
        kept = [slot for slot in before if slot not in gone]
        self.deleted, self.shared = tuple(sorted(gone.union(self.deleted))), shared
        self.gated = bool(self.deleted)
        old = self._buffer
        places = torch.tensor([n for n, slot in enumerate(before) if slot not in gone], device=old.parts[0].device)
        new = _Buffer(tuple(_empty_like(part, self._capacity(len(kept) + 1)) for part in old.parts), self.stored)
        for target, source in zip(new.parts, old.parts, strict=True):
            target[:, :, : len(kept)] = source.index_select(2, places)
            for row, its in enumerate(emptied):
                target[row, :, [n for n, slot in enumerate(kept) if slot in its]] = 0
        self._adopt(new)
        self._show(self.length)

    def gate(self, mask: torch.Tensor | None, query: torch.Tensor, additive: bool) -> torch.Tensor | None:
        """The mask (B | 1, 1, Q, T) over the slots that are left."""
        count = query.shape[2]
        if not self.deleted or (count == 1 and mask is None):
            return mask
        assert self.shared is not None
        key = (self.deleted, self.length, count, additive, id(mask))
        if key not in self.shared.masks:
            slots = self.slots()
            assert slots is not None
            queries = torch.arange(self.length - count, self.length, device=query.device)
            allowed = (slots <= queries[:, None])[None, None]  # (1, 1, Q, T)
            self.shared.masks[key] = mask, restricted(mask, slots, allowed, query.dtype, additive)
        return self.shared.masks[key][1]

    def fork(self, limit: int | None = None, shared: Shared | None = None) -> GrowLayer:
        """A layer with the same content that grows on its own; nothing is copied now."""
        twin = type(self)(limit)
        if self._buffer is not None:
            twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
            twin._adopt(self._buffer)
            twin.deleted, twin.gated, twin.shared = self.deleted, self.gated, shared
            twin._show(self.length)
        return twin

    def _cut(self, length: int) -> None:
        if self.deleted:
            self.deleted = tuple(slot for slot in self.deleted if slot < length)
            self.gated = bool(self.deleted)
        self._show(length)

    def reach(self, limit: int) -> None:
        """The next storage is made for so many."""
        self.limit = None if self.limit is None else max(limit, self.limit)

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
        first = since - sum(slot < since for slot in self.deleted)
        for states in buffer.parts:
            part = states.narrow(2, first, self.held - first)
            if set(moved).isdisjoint(sources[row] for row in moved):
                for row in moved:
                    part[row].copy_(part[sources[row]])
            else:
                part[moved] = part[[sources[row] for row in moved]]  # the right side is a copy

    def _gather(self, rows: torch.Tensor) -> None:
        buffer, held = self._buffer, self.held
        if buffer is None:
            return
        taken = tuple(part[:, :, :held][rows] for part in buffer.parts)  # (B', H_kv, held, D)
        new = _Buffer(tuple(_empty_like(part, buffer.capacity) for part in taken), self.stored)
        for target, source in zip(new.parts, taken, strict=True):
            target[:, :, :held] = source
        self._adopt(new)
        self._show(self.length)

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
        return Held(self.held * keys, self.held * values, *buffer.allocated_bytes)


def _empty_like(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, _, width = states.shape
    return torch.empty((batch, heads, capacity, width), dtype=states.dtype, device=states.device)
