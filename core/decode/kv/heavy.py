"""Heavy hitters: of the older positions those that got most attention so far, head by head (Zhang et al. 2023, H2O).

Before each pass a head that holds more than `heavy` + `window` positions keeps its last `window` ones, and of the
others the `heavy` ones with the largest sum of attention from all queries since they were fed. A prompt is attended to
in full, chunk by chunk. The sums need the attention itself, which the fused kernel never shows: it is computed once
more for every pass, and that time is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.decode.kv.layer import Held, KindLayer, Shared, distinct_bytes, storage_bytes
from core.decode.kv.window import restricted


class HeavyLayer(KindLayer):
    """Each key/value head holds slots of its own. Tensors are never written in place, so that forks share them."""

    gated = True
    scores = True

    def __init__(self, window: int, heavy: int, shared: Shared) -> None:
        super().__init__()
        self.window, self.heavy, self.shared = window, heavy, shared
        self.begun = 0  # slots fed before the newest pass
        self._slots: torch.Tensor | None = None  # (B, H_kv, T) ascending
        self._sums: torch.Tensor | None = None  # (B, H_kv, T) float32
        self._before: torch.Tensor | None = None  # the sums of the slots before the newest pass

    @property
    def held(self) -> int:
        """Slots that each head holds."""
        return 0 if self._slots is None else self._slots.shape[2]

    def slots(self) -> torch.Tensor | None:
        """(B, H_kv, T) numbers of the slots that each head holds."""
        return self._slots

    def sums(self) -> torch.Tensor | None:
        """(B, H_kv, T) attention that each slot got so far."""
        return self._sums

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop what got little attention, append T positions; returns what is held now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch, heads, count, _ = key_states.shape
        new = torch.arange(self.length, self.length + count, device=key_states.device).expand(batch, heads, count)
        none = torch.zeros(batch, heads, count, device=key_states.device)
        if self._slots is None or self._sums is None:
            self.keys = key_states.clone(memory_format=torch.contiguous_format)
            self.values = value_states.clone(memory_format=torch.contiguous_format)
            self._slots, self._sums, self._before = new, none, none[:, :, :0]
        else:
            self._drop()
            self._before = self._sums
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
            self._slots = torch.cat([self._slots, new], dim=2)
            self._sums = torch.cat([self._sums, none], dim=2)
        self.begun, self.length = self.length, self.length + count
        return self.keys, self.values

    def _drop(self) -> None:
        assert self._slots is not None
        assert self._sums is not None
        if self.held <= self.window + self.heavy:
            return
        older = self._sums[:, :, : self.held - self.window]
        # Of equal sums the newer position stays: the search is stable from the end.
        order = older.flip(-1).sort(dim=-1, descending=True, stable=True).indices[:, :, : self.heavy]
        chosen = (older.shape[2] - 1 - order).sort(dim=-1).values
        last = torch.arange(older.shape[2], self.held, device=chosen.device)
        self._keep(torch.cat([chosen, last.expand(*chosen.shape[:2], -1)], dim=2))

    def _keep(self, places: torch.Tensor) -> None:
        """Of the held slots only those at `places` (B, H_kv, T')."""
        assert self._slots is not None
        assert self._sums is not None
        wide = places[..., None]
        self.keys = self.keys.gather(2, wide.expand(-1, -1, -1, self.keys.shape[3]))
        self.values = self.values.gather(2, wide.expand(-1, -1, -1, self.values.shape[3]))
        self._slots, self._sums = self._slots.gather(2, places), self._sums.gather(2, places)

    def gate(self, mask: torch.Tensor | None, query: torch.Tensor, additive: bool) -> torch.Tensor | None:
        """The mask (B, H, Q, T) over the slots that each head holds."""
        assert self._slots is not None
        count = query.shape[2]
        if self.held == self.length or (count == 1 and mask is None):
            return mask
        queries = torch.arange(self.length - count, self.length, device=query.device)
        allowed = self._slots[:, :, None] <= queries[:, None]  # (B, H_kv, Q, T)
        if mask is not None:
            kept = self._slots[:, :, None].expand_as(allowed)
            mask = mask.expand(*allowed.shape[:3], -1).gather(3, kept)
        everything = torch.arange(self.held, device=query.device)
        narrowed = restricted(mask, everything, allowed, query.dtype, additive)
        return narrowed.repeat_interleave(query.shape[1] // narrowed.shape[1], dim=1)

    def attended(self, weights: torch.Tensor) -> None:
        """Add what each slot got in this pass: weights (B, H, Q, T)."""
        assert self._sums is not None
        batch, _, _, held = weights.shape
        self._sums = self._sums + weights.float().reshape(batch, self._sums.shape[1], -1, held).sum(2)

    def can_crop(self, length: int) -> bool:
        """Only the newest pass can be taken back, as a whole: the sums of the others are not kept."""
        return length in (self.length, self.begun) or length == 0

    def _why_not(self, length: int) -> str:
        return "What the heavy hitters were at an earlier position is not kept; feed the text again."

    def _cut(self, length: int) -> None:
        assert self._slots is not None
        assert self._before is not None
        kept = self._before.shape[2]
        self.keys, self.values = self.keys[:, :, :kept], self.values[:, :, :kept]
        self._slots, self._sums, self.length = self._slots[:, :, :kept], self._before, length

    def blank(self) -> HeavyLayer:
        """As it was at the beginning."""
        return HeavyLayer(self.window, self.heavy, self.shared)

    def fork(self, limit: int | None, shared: Shared) -> HeavyLayer:
        """A layer that shares the tensors."""
        twin = HeavyLayer(self.window, self.heavy, shared)
        twin.length, twin.begun = self.length, self.begun
        if self.is_initialized:
            twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
            twin.keys, twin.values = self.keys, self.values
            twin._slots, twin._sums, twin._before = self._slots, self._sums, self._before
        return twin

    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """New tensors with the rows asked for."""
        if self._slots is None or self._sums is None or self._before is None:
            return
        if list(sources) == list(range(self.keys.shape[0])):
            return
        rows = torch.tensor(list(sources), device=self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]
        self._slots, self._sums, self._before = self._slots[rows], self._sums[rows], self._before[rows]

    def sizes(self) -> Held:
        """Bytes; beyond is what will be dropped when the next pass begins, other the slot numbers and sums."""
        if self._slots is None or self._sums is None:
            return Held()
        beyond = max(0, self.held - self.window - self.heavy)
        key, value = self.keys[:, :, :1].nbytes, self.values[:, :, :1].nbytes
        return Held(
            self.held * key,
            self.held * value,
            storage_bytes(self.keys),
            storage_bytes(self.values),
            beyond * key,
            beyond * value,
            other=distinct_bytes(self.tensors()[2:]),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """K, V, the numbers of their slots, the sums, and those before the newest pass."""
        held = (self.keys, self.values, self._slots, self._sums, self._before)
        return tuple(tensor for tensor in held if tensor is not None)
