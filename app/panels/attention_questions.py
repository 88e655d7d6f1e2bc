"""What the attention panel asks core for, and when. Pure functions."""

from __future__ import annotations

from app.state import select
from app.state.run import RunView
from app.state.state import AttentionFocus
from app.widgets.heat_matrix import CELLS, pool_factor
from core.contract import AttentionQuery, HeadsQuery, ThumbnailQuery

FOCUS_SLOT, THUMBNAILS_SLOT, HEADS_SLOT = "attention.focus", "attention.thumbs", "attention.heads"
LARGEST_ANSWER = 1 << 20  # weights in one answer; more arrive in several
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

    A map that has no row yet and more positions than cells comes pooled, at once.
    recompute: in small portions, because core feeds the model every position of a portion that lacks one record;
    portions whose records are there cost no forward pass.
    """
    end = fed if span[1] is None else min(span[1], fed)
    first, count = span[0] + have, end - span[0]
    if first >= end:
        return None
    heads, reduce = select.heads_of(focus)
    factor, at = pool_factor(count), run.place.named
    if not have and count > CELLS and not recompute and span[0] % factor == 0:
        pool = -(-count // factor), -(-end // factor)
        return AttentionQuery(
            run.run_id,
            focus.layer,
            heads,
            reduce,
            (span[0], end),
            pool,
            **at,
        )
    most = max(16, LARGEST_ANSWER // fed)
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


def heads_query(run: RunView, visible: range, seen: dict[int, int], fed: int, first: int = 0) -> HeadsQuery | None:
    """The same for the summaries of heads, over the newest queries."""
    rows = max(first, fed - SUMMARY_ROWS)
    if rows >= fed:
        return None
    stale, at = _stale(visible, seen, fed, run.model.heads * (fed - rows)), run.place.named
    return HeadsQuery(run.run_id, stale, (rows, None), **at) if stale else None


def _stale(visible: range, seen: dict[int, int], fed: int, weights: int) -> tuple[int, ...]:
    stale = sorted((layer for layer in visible if seen.get(layer, 0) < fed), key=lambda layer: seen.get(layer, 0))
    if not stale or not fed:
        return ()
    return tuple(sorted(stale[: max(1, LARGEST_THUMBNAILS // (weights * fed))]))


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
