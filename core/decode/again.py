"""Positions of a run that are fed once more, because their records or keys are gone."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from core.decode import branch
from core.decode.acts import Acts
from core.decode.kv import RunCache, fork_cache
from core.decode.kv.sight import CacheSight
from core.trace.path import Path
from core.trace.record import Trace
from core.trace.recording import Strand

if TYPE_CHECKING:
    from core.decode.session import Session


def feed_again(
    run: Session, strand: Strand, start: int, stop: int, acts: Acts | None = None
) -> tuple[RunCache, Trace, Strand]:
    """Feed positions again for their records: on a fork of the cache, or alone where rows have moved.

    The interventions are those that were in force, or for the positions meant other ones.
    Also alone where the cache has dropped what they attended to. Without a cache they are fed on a growing one.
    """
    budget = run.spec.trace_budget_bytes + (1 << 40)
    slot = strand.padding + start
    alone = run.several or not run.cache.holds_all or not run.cache.can_crop(slot)
    if alone:
        begin, cache, padding = 0, run.cache.empty_like(run.loaded.module, stop), 0
    else:
        branch.check_held(run)
        begin, cache, padding = start, fork_cache(run.cache, slot, strand.padding + stop), strand.padding
    ids = torch.tensor([strand.token_ids[:stop]], device=run.ids.device)
    trace = Trace(budget, start=padding + begin, keeps_keys=alone and not cache.newest_only)
    trace.source = CacheSight(cache) if alone else None
    # The positions meant are passes of their own, and so are embeddings.
    changes = [slot - strand.padding for slot in run.acts.marks(strand.padding + begin, strand.padding + stop)]
    marks = sorted({begin, start, stop, min(max(run.unseen, begin), stop), *changes})
    if run.spec.cache.kind == "heavy_hitters":
        marks = _portions(run, strand, stop)
        ids = torch.tensor([strand.token_ids[: marks[-1]]], device=run.ids.device)
    with run.attached(), run.forward.rows_placed([padding], [strand.row]):
        for first, last in pairwise(marks):
            source = ids if run.embeds is None or first >= run.unseen else run.embeds
            others = acts if acts is not None and first >= start else run.acts.at(strand.padding + first)
            with run.forward.acting(others):
                at = first
                while at < last:
                    upto = at + cache.chunk(run.spec.prefill_chunk, last - at)
                    run.forward(source[:, at:upto], cache, trace)
                    at = upto
    return cache, trace, dataclasses.replace(strand, path=Path(0, 0), padding=padding, fed=None)


def _portions(run: Session, strand: Strand, stop: int) -> list[int]:
    """Where the passes of a strand began and ended, up to the one that holds the position before `stop`."""
    length = len(run.rows[strand.row].prompt.token_ids)
    chunked = range(run.spec.prefill_chunk - strand.padding, length, run.spec.prefill_chunk)
    ends = [*(end for end in chunked if end > 0), *range(length, max(stop, length) + 1)]
    return [0, *ends[: 1 + next(n for n, end in enumerate(ends) if end >= stop)]]
