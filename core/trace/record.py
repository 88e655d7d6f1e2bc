"""The record of a run: per position and layer the query and the residual stream, and nothing else.

Everything a view shows is derived from these and from the keys in the cache. Records are append-only
segments with parent pointers: a fork points at its parent's positions and copies nothing. What a branch reaches lives
under a budget; its oldest own records are dropped first, and a view that needs them is told so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core.contract.errors import ViewUnavailableError
from core.trace.path import Path

if TYPE_CHECKING:
    from core.trace.recording import KeySource

SEALED_POSITIONS = 64  # short passes are joined into blocks of so many
SHORT_PASS = 16  # positions; a longer pass is a block of its own


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
    keys: tuple[torch.Tensor, ...]  # L × (B, H_kv, n, D); empty where the cache keeps the keys of all sequences
    nbytes: int

    @property
    def batch(self) -> int:
        """B: rows of the pass."""
        return self.residuals[0].shape[0]

    def part(self, stop: int) -> Block:
        """The slots before `stop`, in storages of their own."""
        n = stop - self.start
        queries = tuple(q[:, :, :n].clone() for q in self.queries)
        residuals = tuple(r[:, :n].clone() for r in self.residuals)
        keys = tuple(k[:, :, :n].clone() for k in self.keys)
        return Block(self.start, stop, queries, residuals, keys, _nbytes(*queries, *residuals, *keys))


@dataclass
class _Pending:
    """What one forward pass has delivered so far."""

    queries: list[torch.Tensor] = field(default_factory=list)
    residuals: list[torch.Tensor] = field(default_factory=list)


class Trace:
    """Records of one branch; slots count positions fed to the model, padding included.

    Implements `AttentionTap`. A forward pass delivers through `take` and `take_residual`, then `commit`
    makes it part of the record, or `rollback` forgets a pass that was broken off.

    keeps_keys: the keys of each pass are recorded, too, because rows leave the cache or change places in it.
    source: where the keys are, of records that were fed again; None: in the run's own cache.
    only_final: nothing but the residual that enters the final norm is recorded, of a stream that is only read out.
    """

    def __init__(
        self,
        budget_bytes: int,
        parent: Trace | None = None,
        start: int = 0,
        keeps_keys: bool = False,
        only_final: bool = False,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.keeps_keys = keeps_keys
        self.only_final = only_final
        self.parent = parent
        self.source: KeySource | None = None
        self.start = start
        self.stop = start
        self.evicted_before = start  # own slots below this were dropped
        self.given_up = False  # as a whole, with the cache
        self.sites: list[AttentionSite] = [] if parent is None else parent.sites
        self.record_s = 0.0  # time spent recording since the last commit
        self._sealed: list[Block] = []
        self._tail: list[Block] = []
        self._pending = _Pending()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of this segment's records and of those it continues, as far as it continues them."""
        return self._nbytes + (0 if self.parent is None else self.parent._nbytes_below(self.start))

    def _nbytes_below(self, slot: int) -> int:
        """Bytes of the records before `slot`, those that this segment continues included."""
        count = 0 if self.parent is None else self.parent._nbytes_below(min(slot, self.start))
        for block in (*self._sealed, *self._tail):
            if block.start < slot:  # all slots of a block take the same
                count += block.nbytes * (min(block.stop, slot) - block.start) // (block.stop - block.start)
        return count

    @property
    def own_nbytes(self) -> int:
        """Bytes of this segment's records alone."""
        return self._nbytes

    # -- recording, called from inside the forward pass

    def take(self, module: nn.Module, query: torch.Tensor, scaling: float | None, extras: Mapping[str, Any]) -> None:
        """One layer's query (B, H, n, D), layers in order."""
        if self.only_final:
            return
        begun = perf_counter()
        if len(self.sites) == len(self._pending.queries):
            self.sites.append(AttentionSite(module, scaling, _lasting(extras)))
        self._pending.queries.append(query)
        self.record_s += perf_counter() - begun

    def take_residual(self, residual: torch.Tensor) -> None:
        """The residual stream (B, n, E) entering the next layer, or after all layers the final norm."""
        if self.only_final:
            self._pending.residuals = []  # the last one stays
        self._pending.residuals.append(residual)

    def commit(self, keys: Sequence[torch.Tensor] = (), rows: Sequence[int] | None = None) -> None:
        """The pass is complete: its records count. keys: what it added to the cache, L × (B, H_kv, n, D).

        rows: the rows of the pass that count, where the others were only tried.
        """
        begun = perf_counter()
        pending, self._pending = self._pending, _Pending()
        if rows is not None:
            chosen = list(rows)
            pending = _Pending([q[chosen] for q in pending.queries], [r[chosen] for r in pending.residuals])
            keys = [k[chosen] for k in keys]
        if pending.residuals:
            block = _block(self.stop, pending, keys, like=self._tail[-1:] if rows is None else [])
            self.stop = block.stop
            self._append(block)
        self.record_s += perf_counter() - begun

    def crop(self, stop: int) -> None:
        """Forget the records of this segment from slot `stop` on."""
        for blocks in (self._tail, self._sealed):
            while blocks and blocks[-1].stop > stop:
                last = blocks.pop()
                self._nbytes -= last.nbytes
                if last.start < stop:
                    blocks.append(last.part(stop))
                    self._nbytes += blocks[-1].nbytes
        self.stop = max(self.start, min(self.stop, stop))
        self.evicted_before = min(self.evicted_before, self.stop)

    def emptied(self) -> Trace:
        """One in its place that holds nothing any more; this one goes on serving those that continue it."""
        empty = Trace(self.budget_bytes, keeps_keys=self.keeps_keys)
        empty.stop = empty.evicted_before = self.stop
        empty.given_up, empty.sites = True, self.sites
        return empty

    def rollback(self) -> None:
        """The pass was broken off: forget it."""
        self._pending = _Pending()

    def take_record_s(self) -> float:
        """Seconds spent recording since the last call."""
        spent, self.record_s = self.record_s, 0.0
        return spent

    def _append(self, block: Block) -> None:
        self._nbytes += block.nbytes
        if self._tail and self._tail[-1].batch != block.batch:
            self._seal_tail()
        if block.stop - block.start > SHORT_PASS:
            self._seal_tail()
            self._sealed.append(_owning(block))
            self._nbytes += self._sealed[-1].nbytes - block.nbytes
        else:
            # A single step may stay a view of a larger storage until it is joined with others.
            self._tail.append(block if block.stop - block.start == 1 else _owning(block))
            self._nbytes += self._tail[-1].nbytes - block.nbytes
            if block.stop - self._tail[0].start >= SEALED_POSITIONS:
                self._seal_tail()
        while self.nbytes > self.budget_bytes and self._make_room():
            pass

    def _make_room(self) -> bool:
        """Forget one block; False if there is none left.

        The oldest of this segment's own first: what it continues belongs to another branch, too, which may be within
        its budget. Only where the newest block alone is too much on top of that, the oldest that both have.
        """
        shared = self.parent is not None and len(self._sealed) < 2 and self.parent._drop_below(self.start)
        return shared or self._drop_oldest()

    def _drop_below(self, slot: int) -> bool:
        """Forget the oldest block that lies before `slot`, be it of those that this segment continues."""
        if self.parent is not None and self.parent._drop_below(min(slot, self.start)):
            return True
        oldest = next(iter((*self._sealed, *self._tail)), None)
        return oldest is not None and oldest.stop <= slot and self._drop_oldest()

    def _drop_oldest(self) -> bool:
        """Forget the oldest block of this segment, which keeps its newest one."""
        if not self._sealed and len(self._tail) < 2:
            return False
        oldest = (self._sealed or self._tail).pop(0)
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
        """A new segment that continues this one, or the one it continues, after slot `at`; nothing is copied."""
        parent = self
        while parent.parent is not None and at <= parent.start:
            parent = parent.parent
        return Trace(self.budget_bytes, parent, at, self.keeps_keys, self.only_final)

    # -- reading

    def queries(self, layer: int, start: int, stop: int, path: Path) -> torch.Tensor:
        """Queries (H, stop - start, D) of one layer. Raises `ViewUnavailableError` for dropped records."""
        return torch.cat(
            [_on_path(block.queries[layer], a, b, rows) for block, a, b, rows in self._on(path, start, stop)], 1
        )

    def keys(self, layer: int, start: int, stop: int, path: Path) -> torch.Tensor:
        """Keys (H_kv, stop - start, D) of one layer, where the trace keeps them. Raises as `queries` does."""
        parts = self._on(path, start, stop)
        if not all(block.keys for block, *_ in parts):  # a cache that keeps nothing had none to record
            raise ViewUnavailableError("This run keeps no keys; recompute them.", can_recompute=True)
        return torch.cat([_on_path(block.keys[layer], a, b, rows) for block, a, b, rows in parts], 1)

    def residuals(self, layer: int, start: int, stop: int, path: Path) -> torch.Tensor:
        """Residual stream (stop - start, E) entering `layer`; layer L is what enters the final norm."""
        parts = [
            block.residuals[layer][rows[0], a:b]
            if rows.count(rows[0]) == len(rows)
            else block.residuals[layer][rows, range(a, b)]
            for block, a, b, rows in self._on(path, start, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _on(self, path: Path, start: int, stop: int) -> list[tuple[Block, int, int, list[int]]]:
        """The blocks that hold [start, stop), each with its own part of the range and the rows of the path there."""
        rows = path.rows(start, stop)
        return [
            (block, a, b, rows[block.start + a - start : block.start + b - start])
            for block, a, b in self._covering(start, stop)
        ]

    @property
    def batch(self) -> int:
        """Rows that were fed side by side, at most; 1 where nothing is recorded."""
        return max((block.batch for block in (*self._sealed, *self._tail)), default=1)

    def _covering(self, start: int, stop: int) -> list[tuple[Block, int, int]]:
        """The blocks that hold [start, stop), each with its own part of the range."""
        found: list[tuple[Block, int, int]] = []
        if self.parent is None and start < self.start:
            raise ViewUnavailableError(
                f"The first {self.start} positions came with a cache and were never recorded; recompute them.",
                can_recompute=True,
            )
        if self.parent is not None and start < self.start:
            found += self.parent._covering(start, min(stop, self.start))
        if self.given_up:
            raise ViewUnavailableError(
                "Cache and records of this batch were given up when it was left; recompute what you look at.",
                can_recompute=True,
                first_recorded=self.evicted_before,
            )
        if max(start, self.start) < self.evicted_before and stop > self.start:
            which = f"the first {self.evicted_before} positions"
            if self.start:
                which = f"positions {self.start} to {self.evicted_before - 1}"
            raise ViewUnavailableError(
                f"The records of {which} were dropped to stay within the trace "
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


def _on_path(records: torch.Tensor, start: int, stop: int, rows: list[int]) -> torch.Tensor:
    """(B, H, n, D) → (H, stop - start, D): each slot from its own row."""
    if rows.count(rows[0]) == len(rows):
        return records[rows[0], :, start:stop]
    return records[rows, :, range(start, stop)].transpose(0, 1)


def _block(start: int, pending: _Pending, keys: Sequence[torch.Tensor], like: list[Block]) -> Block:
    queries, residuals = tuple(pending.queries), tuple(pending.residuals)
    batch, positions, _ = residuals[0].shape
    # Two single steps hold the same shapes, so the sum over their storages is taken once.
    same = bool(like) and positions == 1 == like[0].stop - like[0].start and like[0].batch == batch
    nbytes = like[0].nbytes if same else _nbytes(*queries, *residuals, *keys)
    return Block(start, start + positions, queries, residuals, tuple(keys), nbytes)


def _owning(block: Block) -> Block:
    """The block without views of larger storages (GPT-2's query is a third of a fused tensor)."""
    queries, residuals, keys = (tuple(map(_own, part)) for part in (block.queries, block.residuals, block.keys))
    return Block(block.start, block.stop, queries, residuals, keys, _nbytes(*queries, *residuals, *keys))


def _joined(blocks: list[Block]) -> Block:
    queries = tuple(torch.cat(parts, dim=2) for parts in zip(*(b.queries for b in blocks), strict=True))
    residuals = tuple(torch.cat(parts, dim=1) for parts in zip(*(b.residuals for b in blocks), strict=True))
    keys = tuple(torch.cat(parts, dim=2) for parts in zip(*(b.keys for b in blocks), strict=True))
    return Block(blocks[0].start, blocks[-1].stop, queries, residuals, keys, _nbytes(*queries, *residuals, *keys))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _nbytes(*tensors: torch.Tensor) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
