"""Positions of a run that are fed once more, because their records or keys are gone."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from core.decode import branch
from core.decode.acts import Acts
from core.decode.kv import RunCache, cache_length, fork_row, reread_cache
from core.decode.kv.sight import CacheSight
from core.trace.path import Path
from core.trace.record import Trace
from core.trace.recording import Strand

if TYPE_CHECKING:
    from core.decode.session import Session


def recompute(run: Session, strand: Strand, start: int, stop: int, *, changed: bool = False) -> tuple[Trace, Strand]:
    """See `Recompute`."""
    return feed_again(run, strand, start, stop, changed=changed)[1:]


def feed_again(
    run: Session, strand: Strand, start: int, stop: int, acts: Acts | None = None, changed: bool = False
) -> tuple[RunCache, Trace, Strand]:
    """Feed positions again for their records: behind the row's own past in the cache, or alone where that has moved.

    The interventions are those that were in force, or for the positions meant other ones. changed: the caller gives
    the pass what the run was not given.
    Also alone where the cache has dropped what they attended to. Without a cache they are fed on a growing one.
    """
    budget = run.spec.trace_budget_bytes + (1 << 40)
    lane = _lane(run, strand, strand.padding + start, strand.padding + stop)
    alone = lane is None
    if lane is None:
        begin, cache, padding = 0, run.cache.empty_like(run.loaded.module, stop), 0
    else:
        fork = fork_row if changed or acts is not None else reread_cache  # other keys and values come of it, or not
        begin, padding = start, strand.padding
        cache = fork(run.cache, lane, padding + start, padding + stop)
    ids = torch.tensor([strand.token_ids[:stop]], device=run.ids.device)
    trace = Trace(budget, start=padding + begin, keeps_keys=alone and not cache.newest_only)
    trace.source = CacheSight(cache) if alone or run.several else None
    # The positions meant are passes of their own, and so are embeddings.
    changes = [slot - strand.padding for slot in run.acts.marks(strand.padding + begin, strand.padding + stop)]
    embeds = None if run.embeds is None else run.embeds.of_row(strand.row)  # (1, positions, E)
    unseen = 0 if embeds is None else embeds.shape[1]
    marks = sorted({begin, start, stop, min(max(unseen, begin), stop), *changes})
    if run.spec.cache.kind == "heavy_hitters":
        marks = _portions(run, strand, stop)
        ids = torch.tensor([strand.token_ids[: marks[-1]]], device=run.ids.device)
    with run.attached(), run.forward.rows_placed([padding], [strand.row]):
        for first, last in pairwise(marks):
            source = ids if embeds is None or first >= unseen else embeds
            others = acts if acts is not None and first >= start else run.acts.at(strand.padding + first)
            with run.forward.acting(others):
                at = first
                while at < last:
                    upto = at + cache.chunk(run.spec.prefill_chunk, last - at)
                    run.forward(source[:, at:upto], cache, trace)
                    at = upto
    return cache, trace, dataclasses.replace(strand, path=Path(0, 0), padding=padding, fed=None)


def _lane(run: Session, strand: Strand, slot: int, stop: int) -> int | None:
    """The row of the batch whose cache holds a strand before `slot`; None where it has to be fed from its beginning.

    Raises `ViewUnavailableError` where keys and values were given up.
    """
    if run.mode.moves_lanes or not run.cache.holds_all or not run.cache.can_crop(slot):
        return None
    if not run.several:
        branch.check_held(run)
        return 0
    if cache_length(run.cache) < stop:
        return None
    return next((lane for lane, row in enumerate(run.lanes) if row.index == strand.row), None)


def _portions(run: Session, strand: Strand, stop: int) -> list[int]:
    """Where the passes of a strand began and ended, up to the one that holds the position before `stop`."""
    length = len(run.rows[strand.row].prompt.token_ids)
    chunked = range(run.spec.prefill_chunk - strand.padding, length, run.spec.prefill_chunk)
    ends = [*(end for end in chunked if end > 0), *range(length, max(stop, length) + 1)]
    return [0, *ends[: 1 + next(n for n, end in enumerate(ends) if end >= stop)]]
