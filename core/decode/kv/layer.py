"""What every kind of cache layer can do, and what the layers of one cache share.

Slots count what was fed, padding included; position p of a row is in slot padding + p. `length` slots were fed, and a
kind may hold fewer of them. B rows, H_kv key/value heads, T slots held, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin

from core.contract.errors import TokenglassError


class CannotRewindError(TokenglassError):
    """The positions that a shorter cache would need were dropped; feed the text again."""

    code = "cannot_rewind"


ShapeFacts = tuple[int, int, int, int, str, str]


@dataclass
class Shared:
    """What the layers of one cache know of the pass in progress.

    padding: slots in front of each row (B,); `padded` tells whether there are any. masks: made in this pass, by what
    they were made for, since most layers need the same one. score_s: seconds spent on deciding what to keep.
    """

    padding: torch.Tensor | None = None
    padded: bool = False
    widest: int = 0
    masks: dict[object, tuple[torch.Tensor | None, torch.Tensor | None]] = field(default_factory=dict)
    score_s: float = 0.0

    def begin_pass(self, padding: torch.Tensor, padded: bool) -> None:
        """Rows with so much padding are about to be fed."""
        self.masks.clear()
        if padded or self.padded or self.padding is None or self.padding.shape != padding.shape:
            self.padding, self.padded = padding, padded
            self.widest = int(padding.max()) if padded else 0


class Held(NamedTuple):
    """Bytes of one layer. scales are contained in used and allocated, beyond in used.

    other: storages besides K and V, which the kind needs to choose what stays or to take a pass back.
    """

    key_used: int = 0
    value_used: int = 0
    key_allocated: int = 0
    value_allocated: int = 0
    key_beyond: int = 0
    value_beyond: int = 0
    scales: int = 0
    other: int = 0


class KindLayer(CacheLayerMixin, ABC):  # type: ignore[misc]
    """One layer of a cache. `update` returns what this pass attends to, in order, the new positions last."""

    is_sliding = False
    is_compileable = False
    is_croppable = True
    gated = False  # whether the attention function has to ask `gate` for its mask
    length: int
    keys: Any  # tensors, or None before the first pass
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Remember dtype and device; storages are made by the first `update`."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    # -- what is held

    def held_keys(self) -> torch.Tensor:
        """Keys (B, H_kv, T, D) of the slots held, in the order of `slots`."""
        keys: torch.Tensor = self.keys
        return keys

    def newest_keys(self, count: int) -> torch.Tensor:
        """A copy of the keys (B, H_kv, count, D) of the last slots of the newest pass."""
        keys = self.held_keys()
        return keys[:, :, keys.shape[2] - count :].clone()

    def held_values(self) -> torch.Tensor:
        """Values (B, H_kv, T, D) of the slots held."""
        values: torch.Tensor = self.values
        return values

    @property
    def held(self) -> int:
        """T: slots in the storage."""
        return self.length

    def slots(self) -> torch.Tensor | None:
        """Numbers of the slots held, (T,), or (B, H_kv, T) where each head keeps its own; None: the first T."""
        return None

    def shape_facts(self) -> ShapeFacts:
        """B, H_kv, the widths of K and V, the type of the numbers and the device, as they are stored."""
        return facts_of(self.keys, self.values, self.keys.dtype)

    @abstractmethod
    def sizes(self) -> Held:
        """Bytes, from the storages really held."""

    def bytes(self) -> tuple[int, int, int, int]:
        """Used K, used V, allocated K, allocated V."""
        sizes = self.sizes()
        return sizes.key_used, sizes.value_used, sizes.key_allocated, sizes.value_allocated

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the storages hang on."""
        return () if self.keys is None else (self.keys, self.values)

    # -- what changes it

    @abstractmethod
    def blank(self) -> KindLayer:
        """A layer of the same kind and sizes that holds nothing."""

    def reset(self) -> None:
        """Forget everything and give the storages back."""
        fresh = self.blank()
        self.__dict__.clear()
        self.__dict__.update(fresh.__dict__)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions, given as a negative number. Raises `CannotRewindError`, with nothing changed."""
        length = max(0, self.length - checked_removal(tokens_to_remove))
        if length == self.length:
            return
        if not self.can_crop(length):
            raise CannotRewindError(self._why_not(length))
        if length == 0:
            self.reset()
        else:
            self._cut(length)

    @abstractmethod
    def _cut(self, length: int) -> None:
        """Become what it was after `length` slots, 0 < length < self.length, which `can_crop` allows."""

    def _why_not(self, length: int) -> str:
        """Why it cannot, for people."""
        return f"The cache cannot go back to position {length:,}; feed the text again."

    def can_crop(self, length: int) -> bool:
        """Whether it can become what it was after `length` slots."""
        return length <= self.length

    @abstractmethod
    def fork(self, limit: int | None, shared: Shared) -> KindLayer:
        """A layer with the same content that goes on on its own, in another cache."""

    def reach(self, limit: int) -> None:
        """Up to so many slots will be fed, more than was said at first. Nothing to do where storages grow anyway."""

    @abstractmethod
    def take_rows(self, sources: Sequence[int], since: int) -> None:
        """Row k becomes what row `sources[k]` is; before slot `since` they are the same already."""

    def gate(self, mask: torch.Tensor | None, query: torch.Tensor, additive: bool) -> torch.Tensor | None:
        """The mask of this pass over the slots that `update` returned, from the model's own over all slots."""
        return mask

    def attended(self, weights: torch.Tensor) -> None:
        """The attention (B, H, Q, T) of the pass, for kinds with `scores`."""

    scores = False  # whether it wants to see the attention of each pass

    # -- transformers' side

    def get_seq_length(self) -> int:
        """Slots fed: where the next query stands."""
        return self.length

    def get_max_length(self) -> int:
        """-1, transformers' word for: no maximum."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks are made over all slots; `gate` takes those that are held."""
        return self.length + query_length, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Rows in the order of `beam_idx` (B,)."""
        self.take_rows(beam_idx.tolist(), 0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        self.take_rows(indices.tolist(), 0)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self.held:
            rows = self.held_keys().shape[0]
            self.take_rows([row for row in range(rows) for _ in range(repeats)], 0)


def facts_of(keys: torch.Tensor, values: torch.Tensor, dtype: torch.dtype) -> ShapeFacts:
    """Of tensors (B, H_kv, T, D) that hold numbers of this type."""
    name = str(dtype).removeprefix("torch.")
    return keys.shape[0], keys.shape[1], keys.shape[3], values.shape[3], name, str(keys.device)


def checked_removal(tokens_to_remove: int) -> int:
    """As in transformers the count is given as a negative number. Raises `ValueError`."""
    if tokens_to_remove > 0:
        raise ValueError(f"crop takes the number of positions to remove as a negative number, not {tokens_to_remove}")
    return -tokens_to_remove


def distinct_bytes(tensors: Sequence[torch.Tensor], besides: Sequence[torch.Tensor] = ()) -> int:
    """Bytes of the storages of some tensors, each counted once; those of `besides` are left out."""
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for tensor in besides:
        held.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(held.values())


def storage_bytes(*tensors: torch.Tensor) -> int:
    """Bytes of their storages; one that is shared counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
