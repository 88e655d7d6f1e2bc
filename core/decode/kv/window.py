"""Keys and values of the last positions, and of the first ones where they are kept as attention sinks.

A query at slot q attends to the slots q - window + 1 to q and to the first `sinks` positions of its row (Xiao et al.
2023, StreamingLLM), at the positions they have in the text. What no later query can see is dropped when the next pass
begins, so that the pass before can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.decode.kv.layer import Held, KindLayer, Shared, storage_bytes

Rotate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class WindowLayer(KindLayer):
    """Holds the slots [0, front) and [recent, length); front is 0 as long as nothing is missing between.

    Its tensors are never written in place, so that forks share them.
    """

    gated = True

    def __init__(self, window: int, sinks: int, shared: Shared) -> None:
        super().__init__()
        self.window, self.sinks, self.shared = window, sinks, shared
        self.front = self.recent = 0

    @property
    def held(self) -> int:
        """Slots in the storage."""
        return self.front + self.length - self.recent

    def slots(self) -> torch.Tensor | None:
        """(T,) numbers of the slots held."""
        if self.keys is None or self.recent == self.front:
            return None
        whole = torch.arange(self.length, device=self.keys.device)
        return torch.cat([whole[: self.front], whole[self.recent :]])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop what left the window, append T positions; returns what is held now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        front, recent = self._needed(self.length)
        keep = slice(self.held - (self.length - recent), None)
        self.keys = self._appended(self.keys, front, keep, key_states)
        self.values = self._appended(self.values, front, keep, value_states)
        self.front, self.recent = front, recent
        self.length += key_states.shape[2]
        return self.keys, self.values

    def _needed(self, length: int) -> tuple[int, int]:
        """Front and recent that the query at slot `length` and later ones need of what is held."""
        # With padding every row has its sinks elsewhere: all slots up to the last of them stay.
        front = self.front or (self.shared.widest + self.sinks if self.sinks else 0)
        recent = max(self.recent, length - self.window + 1)
        return (front, recent) if recent > front else (self.front, self.recent)

    @staticmethod
    def _appended(held: torch.Tensor | None, front: int, keep: slice, new: torch.Tensor) -> torch.Tensor:
        if held is None:
            return new.clone(memory_format=torch.contiguous_format)
        parts = (held[:, :, :front], held[:, :, keep], new) if front else (held[:, :, keep], new)
        return torch.cat(parts, dim=2)

    def gate(self, mask: torch.Tensor | None, query: torch.Tensor, additive: bool) -> torch.Tensor | None:
        """The mask (B | 1, 1, Q, T) over the slots held."""
        count = query.shape[2]
        always_seen = 0 if self.shared.padded else self.sinks
        if self.length - self.window <= always_seen and self.recent == self.front:
            return mask  # nothing is out of sight yet
        unpadded = mask is None and not self.shared.padded
        # Padding that left with its row leaves slots behind its sinks that nobody sees.
        exact = self.front in (0, self.sinks) and self.recent >= self.length - self.window
        if count == 1 and unpadded and exact:
            return None  # exactly what is held is seen
        key = (self.window, self.sinks, self.front, self.recent, self.length, count, additive, id(mask))
        if key not in self.shared.masks:
            self.shared.masks[key] = mask, self._mask(mask, count, query, additive)
        return self.shared.masks[key][1]

    def _last_sink(self, padding: int) -> int:
        return padding + self.sinks if self.sinks else 0

    def _mask(self, mask: torch.Tensor | None, count: int, query: torch.Tensor, additive: bool) -> torch.Tensor:
        held = self.slots()
        slots = torch.arange(self.length, device=query.device) if held is None else held
        queries = torch.arange(self.length - count, self.length, device=query.device)
        allowed = self.sight(slots, queries, self.shared.padding)  # (B | 1, Q, T)
        return restricted(mask, slots, allowed[:, None], query.dtype, additive)

    def sight(self, slots: torch.Tensor, queries: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """Whether the queries (Q,) attend to the slots (T,) by the rule of the kind alone, (B | 1, Q, T)."""
        near = (slots <= queries[:, None]) & (slots > queries[:, None] - self.window)
        if not self.sinks:
            return near[None]
        first = slots.new_zeros(1) if padding is None else padding  # (B,)
        sink = (slots >= first[:, None]) & (slots < first[:, None] + self.sinks)  # (B, T)
        return near[None] | (sink[:, None] & (slots <= queries[:, None])[None])

    def can_crop(self, length: int) -> bool:
        """Whether everything that the query at slot `length` sees is still held."""
        whole = self.recent == self.front or length == 0
        return length <= self.length and (whole or max(self.front, length - self.window + 1) >= self.recent)

    def blank(self) -> WindowLayer:
        """As it was at the beginning."""
        return self._empty(self.shared)

    def _why_not(self, length: int) -> str:
        return (
            f"The cache keeps a window of {self.window:,} positions, and what position {length:,} would see was "
            "dropped; feed the text again."
        )

    def _cut(self, length: int) -> None:
        kept = self.held - (self.length - length)
        self.keys, self.values, self.length = self.keys[:, :, :kept], self.values[:, :, :kept], length

    def fork(self, limit: int | None, shared: Shared) -> WindowLayer:
        """A layer that shares the tensors."""
        twin = self._empty(shared)
        twin.front, twin.recent, twin.length = self.front, self.recent, self.length
        if self.is_initialized:
            twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
            twin.keys, twin.values = self.keys, self.values
        return twin

    def _empty(self, shared: Shared) -> WindowLayer:
        return WindowLayer(self.window, self.sinks, shared)

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """New tensors with the rows asked for."""
        if self.keys is None or list(sources) == list(range(self.keys.shape[0])):
            return
        rows = torch.tensor(list(sources), device=self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]

    def sizes(self) -> Held:
        """Bytes; beyond the window is what the next query will not see: of each row all but sinks and window."""
        if self.keys is None:
            return Held()
        front, recent = self._needed(self.length)
        beyond = self.held - (min(front, self.sinks) + self.length - recent if recent > front else self.held)
        key, value = self.keys[:, :, :1].nbytes, self.values[:, :, :1].nbytes
        return Held(
            self.held * key,
            self.held * value,
            storage_bytes(self.keys),
            storage_bytes(self.values),
            beyond * key,
            beyond * value,
        )


class RelativeLayer(WindowLayer):
    """Sinks and window as StreamingLLM counts them: by their places in the cache.

    Only distances matter to a rotary embedding, so the window stays as it is and the sinks are turned towards it by the
    number of positions that are missing between. That number is another one for each query: once positions are dropped,
    they are fed one at a time.
    """

    def __init__(self, window: int, sinks: int, shared: Shared, rotate: Rotate) -> None:
        super().__init__(window, sinks, shared)
        self.rotate = rotate

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the window, the sinks turned for the query at the newest slot."""
        super().update(key_states, value_states)
        return self.seen_keys(), self.values

    def seen_keys(self) -> torch.Tensor:
        """Keys (B, H_kv, T, D) as the newest query saw them; those held are not turned."""
        shift = self.shifts()
        if not bool(shift.any()):
            return self.held_keys()
        keys = self.held_keys()
        count = min(self.held, self._last_sink(self.shared.widest))
        first = keys[:, :, :count]
        turned = self.rotate(first, shift)
        if self.shared.padded and self.shared.padding is not None:  # each row has its sinks elsewhere
            begin = (self.shared.padding - torch.arange(count, device=keys.device)[:, None]).T  # (B, count)
            sink = (begin <= 0) & (begin > -self.sinks)
            turned = torch.where(sink[:, None, :, None], turned, first)
        return torch.cat([turned, keys[:, :, count:]], dim=2)

    def shifts(self) -> torch.Tensor:
        """(B | 1,) positions missing between sinks and window for the newest query."""
        padding = self.shared.padding
        first = torch.zeros(1, dtype=torch.long, device=self.device) if padding is None else padding
        return (self.length - first - (self.sinks + self.window)).clamp(min=0)

    def _empty(self, shared: Shared) -> RelativeLayer:
        return RelativeLayer(self.window, self.sinks, shared, self.rotate)


def restricted(
    mask: torch.Tensor | None, slots: torch.Tensor, allowed: torch.Tensor, dtype: torch.dtype, additive: bool
) -> torch.Tensor:
    """A model's mask (B, 1, Q, all slots), or a causal one where it is None, over `slots` (T,) and as `allowed`.

    allowed: (B | 1, 1 | H_kv, Q, T) bool; of a causal model, so it contains no later slot.
    """
    if mask is None:
        if not additive:
            return allowed
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )
    taken = mask[..., slots]  # (B, 1, Q, T)
    if taken.dtype == torch.bool:
        return taken & allowed
    return taken.masked_fill(~allowed, torch.finfo(taken.dtype).min)
