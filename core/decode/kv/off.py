"""No cache: what was fed is remembered as ids alone, and all of it is fed again with every pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import PreTrainedModel

from core.contract.cache import CacheReport, CacheSpec
from core.decode.kv.cache import RunCache, no_bytes


class NoCache(RunCache):
    """Holds ids (B, T) and no keys or values."""

    feeds_all = True

    def __init__(self, layers: int) -> None:
        super().__init__(CacheSpec("off"), [])
        self.count = layers
        self.ids: torch.Tensor | None = None  # (B, T)

    @property
    def length(self) -> int:
        """Slots fed so far."""
        return 0 if self.ids is None else self.ids.shape[1]

    def whole(self, ids: torch.Tensor) -> torch.Tensor:
        """What has to be fed so that ids (B, n) follow."""
        return ids if self.ids is None else torch.cat([self.ids, ids], dim=1)

    def append(self, ids: torch.Tensor) -> None:
        """These ids (B, n) were fed."""
        self.ids = self.whole(ids)

    def crop_to(self, length: int) -> None:
        """Forget the ids from `length` on."""
        if self.ids is not None:
            self.ids = self.ids[:, :length]

    def forget(self) -> None:
        """All ids."""
        self.ids = None

    def can_crop(self, length: int) -> bool:
        """Always."""
        return length <= self.length

    def reusable(self, length: int, row: int = 0, deleted: Collection[int] = ()) -> int:
        """Any length."""
        return min(length, self.length)

    def fork(self, limit: int | None = None) -> NoCache:
        """The same ids."""
        twin = NoCache(self.count)
        twin.ids = self.ids
        return twin

    def take_rows(self, sources: Sequence[int], since: int = 0) -> None:
        """Row k becomes row `sources[k]`."""
        if self.ids is not None:
            self.ids = self.ids[list(sources)]

    def chunk(self, asked: int, left: int) -> int:
        """All that is left: feeding a part would only be repeated."""
        return left

    def empty_like(self, model: PreTrainedModel, limit: int) -> RunCache:
        """A growing cache, which gives the same."""
        from core.decode.kv.kinds import make_cache

        return make_cache(model, self.count, CacheSpec(), limit)

    def keys_since(self, start: int) -> list[torch.Tensor]:
        """None are kept."""
        return []

    def report(self) -> CacheReport:
        """Nothing."""
        return CacheReport(self.length, *no_bytes(self.count), kind="off")
