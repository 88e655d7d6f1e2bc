"""What the attention panel asks core for, and when. Pure functions."""

from __future__ import annotations

from math import isqrt

from app.state import select
from app.state.run import RunView
from app.state.state import AttentionFocus
from app.widgets.heat_matrix import CELLS, pool_factor
from core.contract import AttentionQuery, HeadsQuery, ThumbnailQuery

FOCUS_SLOT, THUMBNAILS_SLOT, HEADS_SLOT = "attention.focus", "attention.thumbs", "attention.heads"
LARGEST_ANSWER = 1 << 20  # weights in one answer; more arrive in several
LARGEST_BLOCK = 1 << 23  # weights computed for one answer of a map that joins heads; the map grows block by block
LARGEST_THUMBNAILS = 1 << 22  # weights computed for one answer of small maps
RECOMPUTED_ROWS = 64  # at most so many rows are fed again although their records are there
DECODING_INTERVAL_S = 0.3  # between two questions for thumbnails while tokens are produced
SUMMARY_ROWS = 512  # the newest queries that heads are summed up over

Span = tuple[int, int | None]  # positions on both axes; None: up to the newest
WHOLE: Span = (0, None)


def focus_query(
    run: RunView, focus: AttentionFocus, have: int, fed: int, *, recompute: bool = False, span: Span = WHOLE
) -> AttentionQuery | None:
    """The rows of `span` that are missing after the first `have`, or as many of them as one answer should hold.

    A map that has no row yet and more positions than cells comes pooled, of one head at once, of several in blocks.
    recompute: in small portions, because core feeds the model every position of a portion that lacks one record;
    portions whose records are there cost no forward pass.
    """
    end = fed if span[1] is None else min(span[1], fed)
    first, count = span[0] + have, end - span[0]
    if first >= end:
        return None
    heads, reduce = select.heads_of(focus)
    factor, at = pool_factor(count), run.place.named
    joined = run.model.heads if heads is None else len(heads)
    most = max(16, LARGEST_ANSWER // fed)
    if count > CELLS and not recompute and first % factor == span[0] % factor == 0:
        until = _pooled_stop(first, end, have, factor, joined, most)
        if until > first:
            pool = -(-(until - first) // factor), -(-until // factor)
            return AttentionQuery(run.run_id, focus.layer, heads, reduce, (first, until), pool, **at)
    if recompute:
        most = min(most, RECOMPUTED_ROWS)
    stop = span[1] if end - first <= most else first + most
    return AttentionQuery(
        run.run_id,
        focus.layer,
        heads,
        reduce,
        (first, stop),
        None,
        recompute,
        **at,
    )


def _pooled_stop(first: int, end: int, have: int, factor: int, joined: int, most: int) -> int:
    """Where a pooled answer from `first` on should end, at whole cells; `first` itself where rows come unpooled.

    One head comes whole; of several joined so many rows that rows · keys · heads stays below `LARGEST_BLOCK`.
    """
    if joined == 1:
        return first if have else end
    rows = (isqrt(first * first + 4 * (LARGEST_BLOCK // joined)) - first) // 2
    block = max(factor, rows - rows % factor)
    if have and end - first <= most:
        return first
    if end - first > block:
        return first + block
    return end - (end - first) % factor if have else end


def thumbnail_query(
    run: RunView, visible: range, seen: dict[int, int], fed: int, first: int = 0
) -> ThumbnailQuery | None:
    """The visible layers whose maps are older than `fed` positions, the oldest first; `seen` has what each map covers.

    first: the position from which on there are records. A long context takes several questions, so that maps appear
    one after the other instead of all at the end.
    """
    stale, at = _stale(visible, seen, fed, run.model.heads * fed), run.place.named
    if not stale or first >= fed:
        return None
    return ThumbnailQuery(run.run_id, stale, (first, None), **at)


def heads_query(
    run: RunView, visible: range, seen: dict[int, int], fed: int, first: int = 0, *, recompute: bool = False
) -> HeadsQuery | None:
    """The same for the summaries of heads, over the newest queries.

    recompute: all layers in one answer, because the positions are fed again for each.
    """
    rows = max(first, fed - SUMMARY_ROWS)
    if rows >= fed:
        return None
    weights, at = 0 if recompute else run.model.heads * (fed - rows), run.place.named
    stale = _stale(visible, seen, fed, weights)
    return HeadsQuery(run.run_id, stale, (rows, None), recompute=recompute, **at) if stale else None


def _stale(visible: range, seen: dict[int, int], fed: int, weights: int) -> tuple[int, ...]:
    stale = sorted((layer for layer in visible if seen.get(layer, 0) < fed), key=lambda layer: seen.get(layer, 0))
    if not stale or not fed:
        return ()
    return tuple(sorted(stale[: max(1, LARGEST_THUMBNAILS // max(1, weights * fed))]))


def is_of(query: object, run_id: int, focus: AttentionFocus) -> bool:
    """Whether an attention question looks through this layer and these heads of this run."""
    heads, reduce = select.heads_of(focus)
    return isinstance(query, AttentionQuery) and (query.run_id, query.layer, query.heads, query.reduce) == (
        run_id,
        focus.layer,
        heads,
        reduce,
    )


def snapped(start: int, stop: int | None, fed: int) -> Span:
    """A range that can come pooled: a long one begins at a multiple of the cells that it needs."""
    count = (fed if stop is None else min(stop, fed)) - start
    return start - start % pool_factor(max(1, count)), stop
