"""What the attention panel asks core for, and when. Pure functions."""

from __future__ import annotations

from app.panels.output import heads_of
from app.state.run import RunView
from app.state.state import AttentionFocus
from core.contract import AttentionQuery, ThumbnailQuery

FOCUS_SLOT, THUMBNAILS_SLOT = "attention.focus", "attention.thumbs"
LARGEST_ANSWER = 1 << 20  # weights in one answer; a long prompt arrives in several
LARGEST_THUMBNAILS = 1 << 22  # weights computed for one answer of small maps
RECOMPUTED_ROWS = 64  # at most so many rows are fed again although their records are there
DECODING_INTERVAL_S = 0.3  # between two questions for thumbnails while tokens are produced


def focus_query(
    run: RunView, focus: AttentionFocus, have: int, fed: int, *, recompute: bool = False
) -> AttentionQuery | None:
    """The rows that are missing, [have, fed), or as many of them as one answer should hold.

    recompute: in small portions, because core feeds the model every position of a portion that lacks one record;
    portions whose records are there cost no forward pass.
    """
    if have >= fed:
        return None
    heads, reduce = heads_of(focus.head)
    most = max(16, LARGEST_ANSWER // fed)
    if recompute:
        most = min(most, RECOMPUTED_ROWS)
    stop = None if fed - have <= most else have + most
    at = run.place
    return AttentionQuery(
        run.run_id, focus.layer, heads, reduce, (have, stop), None, recompute, at.row, beam=at.beam, index=at.index
    )


def thumbnail_query(run: RunView, visible: range, seen: dict[int, int], fed: int) -> ThumbnailQuery | None:
    """The visible layers whose maps are older than `fed` positions, the oldest first; `seen` has what each map covers.

    A long context takes several questions, so that maps appear one after the other instead of all at the end.
    """
    stale = sorted((layer for layer in visible if seen.get(layer, 0) < fed), key=lambda layer: seen.get(layer, 0))
    if not stale or not fed:
        return None
    most = max(1, LARGEST_THUMBNAILS // (run.model.heads * fed * fed))
    at = run.place
    layers = tuple(sorted(stale[:most]))
    return ThumbnailQuery(run.run_id, layers, row=at.row, beam=at.beam, index=at.index)


def is_of(query: object, run_id: int, focus: AttentionFocus) -> bool:
    """Whether an attention question looks through this layer and head of this run."""
    heads, reduce = heads_of(focus.head)
    return isinstance(query, AttentionQuery) and (query.run_id, query.layer, query.heads, query.reduce) == (
        run_id,
        focus.layer,
        heads,
        reduce,
    )
