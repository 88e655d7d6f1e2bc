"""The cache of a run: its layers, and what the loop does with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from core.contract.cache import CacheReport, CacheSpec, IntArray, LayerLayout
from core.decode.kv.grow import GrowLayer
from core.decode.kv.layer import CannotRewindError, KindLayer, Shared
from core.decode.kv.window import RelativeLayer
from core.models.attention import family_eager


class RunCache(Cache):  # type: ignore[misc]
    """`layers` of one kind, or of one kind for each type of layer. Implements `AttentionGate`.

    feeds_all: nothing is kept, so every pass gets the whole text. lost: for each row the slots whose keys and values
    were deleted, with the length of the cache when that was done; empty where nothing was.
    """

    feeds_all = False

    def __init__(self, spec: CacheSpec, layers: Sequence[KindLayer], shared: Shared | None = None) -> None:
        super().__init__(layers=list(layers))
        self.spec = spec
        self.shared = shared or Shared()
        self.lost: tuple[Mapping[int, int], ...] = ()

    @property
    def gated(self) -> bool:
        """Whether a layer holds fewer slots than were fed, or may."""
        return any(layer.gated for layer in self.kind_layers())

    def kind_layers(self) -> Iterator[KindLayer]:
        """The layers, typed."""
        yield from self.layers

    @property
    def length(self) -> int:
        """Slots that every layer was fed."""
        return min(layer.length for layer in self.kind_layers())

    # -- during a pass

    def mask(
        self, module: nn.Module, query: torch.Tensor, mask: torch.Tensor | None, additive: bool
    ) -> torch.Tensor | None:
        """The mask of one attention module over what its layer holds."""
        layer: KindLayer = self.layers[_layer_of(module)]
        return layer.gate(mask, query, additive) if layer.gated else mask

    def attended(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
        extras: dict[str, Any],
    ) -> None:
        """Tell a layer that keeps scores who attended to what: the family's own arithmetic, once more."""
        layer: KindLayer = self.layers[_layer_of(module)]
        if not layer.scores:
            return
        begun = perf_counter()
        if mask is None and query.shape[2] > 1:
            slots = torch.arange(key.shape[2], device=query.device)
            mask = torch.zeros(query.shape[2], key.shape[2], dtype=query.dtype, device=query.device).masked_fill_(
                slots > slots[-query.shape[2] :, None], torch.finfo(query.dtype).min
            )[None, None]
        elif mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(
                ~mask, torch.finfo(query.dtype).min
            )
        # The output is not wanted: one column of values is enough.
        _, weights = family_eager(module)(module, query, key, key[..., :1], mask, scaling=scaling, **extras)
        assert weights is not None  # eager attention always returns its weights
        if self.shared.padding is not None and self.shared.padded:
            # Padding attends to nothing that counts.
            stop = layer.length
            queries = torch.arange(stop - query.shape[2], stop, device=query.device)
            weights = weights * (queries >= self.shared.padding[:, None])[:, None, :, None]
        layer.attended(weights)
        self.shared.score_s += perf_counter() - begun

    # -- between passes

    def crop_to(self, length: int) -> None:
        """Forget all slots from `length` on; layers that stopped half way (ragged) are levelled.

        Raises `CannotRewindError`, with nothing changed.
        """
        for layer in self.kind_layers():
            if not layer.can_crop(min(length, layer.length)):
                layer.crop(length - layer.length)  # raises with the reason
        if not self._state_at(length):
            raise CannotRewindError("What was deleted since then cannot be put back; feed the text again.")
        for layer in self.kind_layers():
            layer.crop(min(0, length - layer.length))
        self.lost = _known([{slot: at for slot, at in row.items() if slot < length} for row in self.lost])

    def forget(self) -> None:
        """Everything, and give the storages back."""
        for layer in self.kind_layers():
            layer.reset()
        self.lost = ()

    def can_crop(self, length: int) -> bool:
        """Whether it can become what it was after `length` slots."""
        return self._state_at(length) and all(layer.can_crop(length) for layer in self.kind_layers())

    def _state_at(self, length: int) -> bool:
        return all(slot >= length or at <= length for row in self.lost for slot, at in row.items())

    def reusable(self, length: int, row: int = 0, deleted: Collection[int] = ()) -> int:
        """How many of the first `length` slots a fork of a row can begin with, which holds all but the slots `deleted`.

        As far as the first one that is gone all the same; of a kind that drops slots itself all or none.
        """
        length = min(length, self.length)
        gone = self.lost[row] if self.lost else {}
        # Without those from there on, others that were deleted later than that may be missed as well.
        while wrong := [s for s, at in gone.items() if s < length and (at > length or s not in deleted)]:
            length = min(wrong)
        return length if all(layer.can_crop(length) for layer in self.kind_layers()) else 0

    def delete(self, rows: Sequence[Collection[int]], padding: Sequence[int]) -> None:
        """Drop keys and values of slots, given for each row of the batch; what is gone already stays so.

        A storage shrinks by the slots that no row needs; a row's slot that another one needs is emptied. Only for
        caches of `GrowLayer`.
        """
        length, lost = self.length, self.lost or tuple({} for _ in rows)
        new = [[s for s in its if s < length and s not in known] for its, known in zip(rows, lost, strict=True)]
        if not any(new):
            return
        self.lost = tuple({**known, **dict.fromkeys(its, length)} for its, known in zip(new, lost, strict=True))
        some = frozenset(slot for row in self.lost for slot in row)
        free = {s for s in some if all(s < pad or s in row for row, pad in zip(self.lost, padding, strict=True))}
        for layer in self.kind_layers():
            assert isinstance(layer, GrowLayer)  # `check_kind` refused the others
            layer.delete(free, [frozenset(row) - free for row in self.lost], self.shared)

    def fork(self, limit: int | None = None) -> RunCache:
        """A cache with the same content that goes on on its own."""
        shared = Shared(self.shared.padding, self.shared.padded, self.shared.widest)
        twin = RunCache(self.spec, [layer.fork(limit, shared) for layer in self.kind_layers()], shared)
        twin.lost = self.lost
        return twin

    def reach(self, limit: int) -> None:
        """Up to so many slots will be fed, more than was said at first."""
        for layer in self.kind_layers():
            layer.reach(limit)

    def take_rows(self, sources: Sequence[int], since: int = 0) -> None:
        """Row k of the batch becomes what row `sources[k]` is; before slot `since` they are the same already."""
        for layer in self.kind_layers():
            layer.take_rows(sources, since)
        self.lost = _known([self.lost[source] for source in sources]) if self.lost else ()

    def empty_like(self, model: PreTrainedModel, limit: int) -> RunCache:
        """An empty cache of this kind."""
        from core.decode.kv.kinds import make_cache

        return make_cache(model, len(self.layers), self.spec, limit)

    @property
    def holds_all(self) -> bool:
        """Whether keys and values of every position that was fed are there."""
        whole = not self.feeds_all and not self.lost
        return whole and all(layer.held == layer.length for layer in self.kind_layers())

    @property
    def newest_only(self) -> bool:
        """Whether only the newest query's sight is known, because each query has seen the cache otherwise."""
        return self.spec.relative or self.spec.kind == "heavy_hitters"

    def chunk(self, asked: int, left: int) -> int:
        """How many of `left` slots the next pass may feed, where `asked` would be liked."""
        first = next(self.kind_layers(), None)
        if isinstance(first, RelativeLayer):
            asked = min(asked, max(1, first.sinks + first.window - first.length))
        return min(asked, left)

    def portion(self, fed: int, end: int, prompt: int) -> int:
        """Where the slots [fed, end) have to be parted, when they are fed again, so that the same is kept.

        Heavy hitters are chosen between two passes: after a prompt of so many slots each token was a pass of its own.
        """
        return min(end, max(prompt, fed + 1)) if self.spec.kind == "heavy_hitters" else end

    def keys_since(self, start: int) -> list[torch.Tensor]:
        """Copies of the keys of the slots from `start` on, a tensor (B, H_kv, n, D) a layer."""
        return [layer.newest_keys(layer.length - start) for layer in self.kind_layers()]

    # -- what is held

    def report(self) -> CacheReport:
        """Bytes per layer as they are now."""
        layers = list(self.kind_layers())
        table = np.array([layer.sizes() for layer in layers], dtype=np.int64).reshape(-1, 8)
        table.flags.writeable = False
        score_s, self.shared.score_s = self.shared.score_s, 0.0
        return CacheReport(
            self.length,
            table[:, 0],
            table[:, 1],
            table[:, 2],
            table[:, 3],
            kind=self.spec.kind,
            key_beyond_bytes=table[:, 4],
            value_beyond_bytes=table[:, 5],
            scale_bytes=table[:, 6],
            other_bytes=table[:, 7],
            layouts=tuple(map(_layout_of, layers)) if self.is_filled else (),
            score_ms=1e3 * score_s,
        )

    @property
    def is_filled(self) -> bool:
        """Whether anything was fed to every layer."""
        return self.length > 0


def _known(lost: Sequence[Mapping[int, int]]) -> tuple[Mapping[int, int], ...]:
    return tuple(lost) if any(lost) else ()


def _layer_of(module: nn.Module) -> int:
    index: int = module.layer_idx  # type: ignore[assignment]
    return index


def _layout_of(layer: KindLayer) -> LayerLayout:
    rows, heads, key_width, value_width, dtype, device = layer.shape_facts()
    held = layer.held
    return _layout(rows, heads, held, layer.length - held, key_width, value_width, dtype, device)


@lru_cache(maxsize=4096)
def _layout(*facts: Any) -> LayerLayout:
    return LayerLayout(*facts)


def no_bytes(layers: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Four columns of nothing."""
    nothing = np.zeros(layers, dtype=np.int64)
    nothing.flags.writeable = False
    return nothing, nothing, nothing, nothing
