"""The record of a run: per position and layer the query and the residual stream, and nothing else.

Everything a view shows is derived from these and from the keys in the cache. Records are append-only
segments with parent pointers: a fork points at its parent's positions and copies nothing. They live under a
budget; the oldest are dropped first, and a view that needs them is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from core.contract.errors import ViewUnavailableError

SEALED_POSITIONS = 64  # single steps are joined into blocks of so many


@dataclass(frozen=True)
class AttentionSite:
    """How one layer's attention is really called: its module, its scaling, its keyword arguments."""

    module: nn.Module
    scaling: float | None
    extras: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """Records of the slots [start, stop) of all layers."""

    start: int
    stop: int
    queries: tuple[torch.Tensor, ...]  # L × (B, H, n, D); empty where attention cannot be tapped
    residuals: tuple[torch.Tensor, ...]  # (L + 1) × (B, n, E); the last one enters the final norm
    nbytes: int


@dataclass
class _Pending:
    """What one forward pass has delivered so far."""

    queries: list[torch.Tensor] = field(default_factory=list)
    residuals: list[torch.Tensor] = field(default_factory=list)


class Trace:
    """Records of one branch; slots count positions fed to the model, padding included.

    Implements `AttentionTap`. A forward pass delivers through `take` and `take_residual`, then `commit`
    makes it part of the record, or `rollback` forgets a pass that was broken off.
    """

    def __init__(self, budget_bytes: int, parent: Trace | None = None, start: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self.parent = parent
        self.start = start
        self.stop = start
        self.evicted_before = start  # own slots below this were dropped
        self.sites: list[AttentionSite] = [] if parent is None else parent.sites
        self.record_s = 0.0  # time spent recording since the last commit
        self._sealed: list[Block] = []
        self._tail: list[Block] = []
        self._pending = _Pending()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of this segment's records and of those it continues."""
        return self._nbytes + (0 if self.parent is None else self.parent.nbytes)

    # -- recording, called from inside the forward pass

    def take(self, module: nn.Module, query: torch.Tensor, scaling: float | None, extras: Mapping[str, Any]) -> None:
        """One layer's query (B, H, n, D), layers in order."""
        begun = perf_counter()
        if len(self.sites) == len(self._pending.queries):
            self.sites.append(AttentionSite(module, scaling, _lasting(extras)))
        self._pending.queries.append(query)
        self.record_s += perf_counter() - begun

    def take_residual(self, residual: torch.Tensor) -> None:
        """The residual stream (B, n, E) entering the next layer, or after all layers the final norm."""
        self._pending.residuals.append(residual)

    def commit(self) -> None:
        """The pass is complete: its records count."""
        begun = perf_counter()
        pending, self._pending = self._pending, _Pending()
        if pending.residuals:
            positions = pending.residuals[0].shape[1]
            block = _block(self.stop, positions, pending.queries, pending.residuals, like=self._tail[-1:])
            self.stop += positions
            self._append(block)
        self.record_s += perf_counter() - begun

    def rollback(self) -> None:
        """The pass was broken off: forget it."""
        self._pending = _Pending()

    def take_record_s(self) -> float:
        """Seconds spent recording since the last call."""
        spent, self.record_s = self.record_s, 0.0
        return spent

    def _append(self, block: Block) -> None:
        self._nbytes += block.nbytes
        if block.stop - block.start > 1:
            self._seal_tail()
            self._sealed.append(_owning(block))
            self._nbytes += self._sealed[-1].nbytes - block.nbytes
        else:
            self._tail.append(block)
            if len(self._tail) >= SEALED_POSITIONS:
                self._seal_tail()
        while self.nbytes > self.budget_bytes and self._drop_oldest():
            pass

    def _drop_oldest(self) -> bool:
        """Forget the oldest block of this segment or of those it continues; False if there is none left."""
        if self.parent is not None and self.parent._drop_oldest():
            return True
        if not self._sealed:
            return False
        oldest = self._sealed.pop(0)
        self._nbytes -= oldest.nbytes
        self.evicted_before = oldest.stop
        return True

    def _seal_tail(self) -> None:
        if self._tail:
            self._nbytes -= sum(block.nbytes for block in self._tail)
            self._sealed.append(_joined(self._tail))
            self._nbytes += self._sealed[-1].nbytes
            self._tail = []

    # -- branches

    def fork(self, at: int) -> Trace:
        """A new segment that continues this one after slot `at`; nothing is copied."""
        return Trace(self.budget_bytes, parent=self, start=at)

    # -- reading

    def queries(self, layer: int, start: int, stop: int) -> torch.Tensor:
        """Queries (B, H, stop - start, D) of one layer. Raises `ViewUnavailableError` for dropped records."""
        parts = [block.queries[layer][:, :, a:b] for block, a, b in self._covering(start, stop)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def residuals(self, layer: int, start: int, stop: int) -> torch.Tensor:
        """Residual stream (B, stop - start, E) entering `layer`; layer L is what enters the final norm."""
        parts = [block.residuals[layer][:, a:b] for block, a, b in self._covering(start, stop)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _covering(self, start: int, stop: int) -> list[tuple[Block, int, int]]:
        """The blocks that hold [start, stop), each with its own part of the range."""
        found: list[tuple[Block, int, int]] = []
        if self.parent is not None and start < self.start:
            found += self.parent._covering(start, min(stop, self.start))
        if max(start, self.start) < self.evicted_before and stop > self.start:
            raise ViewUnavailableError(
                f"The records of the first {self.evicted_before} positions were dropped to stay within the trace "
                f"budget of {self.budget_bytes / 1e6:.0f} MB; recompute them or raise the budget.",
                can_recompute=True,
                first_recorded=self.evicted_before,
            )
        for block in (*self._sealed, *self._tail):
            if block.start < stop and block.stop > start:
                found.append((block, max(start, block.start) - block.start, min(stop, block.stop) - block.start))
        if not found:
            raise ViewUnavailableError("These positions were not recorded; run again with the trace switched on.")
        return found


def _lasting(extras: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments that belong to the layer; tensors of one call (positions, masks) are left out."""
    return {
        name: value
        for name, value in extras.items()
        if isinstance(value, nn.Parameter) or not isinstance(value, torch.Tensor | tuple | list)
    }


def _block(
    start: int, positions: int, queries: list[torch.Tensor], residuals: list[torch.Tensor], like: list[Block]
) -> Block:
    # Two single steps hold the same shapes, so the sum over their storages is taken once.
    same = bool(like) and positions == 1
    nbytes = like[0].nbytes if same else _nbytes(*queries, *residuals)
    return Block(start, start + positions, tuple(queries), tuple(residuals), nbytes)


def _owning(block: Block) -> Block:
    """The block without views of larger storages (GPT-2's query is a third of a fused tensor)."""
    queries, residuals = tuple(map(_own, block.queries)), tuple(map(_own, block.residuals))
    return Block(block.start, block.stop, queries, residuals, _nbytes(*queries, *residuals))


def _joined(blocks: list[Block]) -> Block:
    queries = tuple(torch.cat(parts, dim=2) for parts in zip(*(b.queries for b in blocks), strict=True))
    residuals = tuple(torch.cat(parts, dim=1) for parts in zip(*(b.residuals for b in blocks), strict=True))
    return Block(blocks[0].start, blocks[-1].stop, queries, residuals, _nbytes(*queries, *residuals))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _nbytes(*tensors: torch.Tensor) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
