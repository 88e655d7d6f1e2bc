"""What a query saw of the cache: for views of attention, which need the keys and who was hidden from whom."""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.contract.errors import ViewUnavailableError
from core.contract.interventions import position_ranges
from core.decode.kv.cache import RunCache
from core.decode.kv.heavy import HeavyLayer
from core.decode.kv.layer import KindLayer
from core.decode.kv.theirs import DynamicSlidingKind
from core.decode.kv.window import RelativeLayer, WindowLayer


class CacheSight:
    """The cache of a run as views read it. Implements `KeySource`. Slots count padding.

    check: raises `ViewUnavailableError` where the cache was given up.
    """

    def __init__(self, cache: RunCache, check: Callable[[], None] = lambda: None) -> None:
        self._cache, self._check = cache, check

    def keys(self, layer: int, stop: int) -> torch.Tensor:
        """Keys (H_kv, stop, D) of the first row as attended to; zeros in the slots that are gone."""
        held = self._layer(layer)
        keys = (held.seen_keys() if isinstance(held, RelativeLayer) else held.held_keys())[0]
        return _spread(held, keys, 0)[:, :stop]

    def content(self, layer: int, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """K and V (H_kv, T, D) of a row, zeros in the slots that are gone, and whether each is held, (H_kv, T)."""
        if self._cache.feeds_all:
            raise ViewUnavailableError("This run keeps no keys and values, so there is no content to be seen.")
        held = self._layer(layer)
        if held.length == 0:
            raise ViewUnavailableError("The cache is empty; nothing was fed yet, or the run was closed.")
        keys, values = held.held_keys()[row], held.held_values()[row]
        there = _spread(held, torch.ones_like(keys[..., :1]), row)[..., 0] > 0
        if self._cache.lost:
            there[:, list(self._cache.lost[row])] = False  # emptied for this row, where another one holds the slot
        return _spread(held, keys, row), _spread(held, values, row), there

    def unseen(self, layer: int, padding: int, start: int, stop: int, recorded: bool) -> torch.Tensor | None:
        """Who was hidden by the kind of cache from the queries at slots [start, stop), (R, stop) or (H_kv, R, stop).

        None: nothing but what the model hides itself. recorded: the keys of all slots are in the records.
        Raises `ViewUnavailableError` where keys that were attended to are gone, or nobody knows which they were.
        """
        held = self._layer(layer)
        if self._cache.lost and not recorded:
            self._check_deleted(padding, start, stop)
        if isinstance(held, HeavyLayer):
            return self._unseen_of_heads(held, start, stop)
        if isinstance(held, DynamicSlidingKind):
            if not recorded and max(0, start - held.sliding_window + 1) < held.length - held.held:
                raise _gone(held.length - held.held, layer)
            return None
        if not isinstance(held, WindowLayer):
            return None
        if isinstance(held, RelativeLayer) and stop - padding > held.sinks + held.window:
            if recorded or (start, stop) != (held.length - 1, held.length):
                raise ViewUnavailableError(
                    "The sinks stood at other places in the cache then; recompute this step alone.", can_recompute=True
                )
        elif not recorded and held.recent > max(held.front, start - held.window + 1):
            raise _gone(held.recent, layer)
        device = held.keys.device
        queries, slots = torch.arange(start, stop, device=device), torch.arange(stop, device=device)
        return ~held.sight(slots, queries, torch.tensor([padding], device=device))[0]

    def _check_deleted(self, padding: int, start: int, stop: int) -> None:
        """Raises `ViewUnavailableError` where a query at the slots [start, stop) saw what was deleted later."""
        seen = [slot - padding for slot, at in self._cache.lost[0].items() if slot < stop and start < at]
        if seen:
            what = "position" if len(seen) == 1 else "positions"
            raise ViewUnavailableError(
                f"Keys of {what} {position_ranges(seen)} were deleted from the cache after this row saw them; "
                "recompute it.",
                can_recompute=True,
            )

    def _unseen_of_heads(self, held: HeavyLayer, start: int, stop: int) -> torch.Tensor | None:
        slots = held.slots()
        if slots is None or held.held == held.length:
            return None
        if start < held.begun:
            raise ViewUnavailableError(
                "The cache has dropped positions since then, each head others, and keeps no list of them; recompute "
                "this step alone.",
                can_recompute=True,
            )
        hidden = torch.ones(slots.shape[1], held.length, dtype=torch.bool, device=slots.device)
        hidden.scatter_(1, slots[0], False)
        return hidden[:, None, :stop].expand(-1, stop - start, -1)  # (H_kv, R, stop); later slots are hidden anyway

    def _layer(self, layer: int) -> KindLayer:
        self._check()
        if self._cache.feeds_all:
            raise ViewUnavailableError("This run keeps no keys; recompute them.", can_recompute=True)
        held: KindLayer = self._cache.layers[layer]
        return held


def _spread(held: KindLayer, states: torch.Tensor, row: int) -> torch.Tensor:
    """(H_kv, held, D) of a row at their slots, (H_kv, length, D); zeros elsewhere."""
    slots = held.slots()
    if slots is None:
        return states
    whole = states.new_zeros(states.shape[0], held.length, states.shape[2])
    if slots.ndim == 1:
        whole[:, slots] = states
    else:
        whole.scatter_(1, slots[row][..., None].expand_as(states), states)
    return whole


def _gone(first: int, layer: int) -> ViewUnavailableError:
    return ViewUnavailableError(
        f"Keys before position {first:,} have left the cache of layer {layer}, so this row is gone; recompute it.",
        can_recompute=True,
    )
