"""What the lens panel asks core for, and when. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.widgets.lens_columns import LensColumns
from core.contract import AttributionQuery, LensQuery, NormsQuery, PictureQuery, ViewQuery, WorkerState

LENS_SLOT, FILL_SLOT = "lens.table", "lens.fill"  # the shown position; the others in view
NORMS_SLOT, ATTRIBUTION_SLOT = "lens.norms", "lens.attribution"
PAGE_SLOTS = (LENS_SLOT, NORMS_SLOT, ATTRIBUTION_SLOT)
SLOTS = (*PAGE_SLOTS, FILL_SLOT)
LIVE_INTERVAL_S = 0.33  # between two questions while tokens are produced
FILL_INTERVAL_S = 3.0  # the same for what is not shown, one position at a time: the newest one goes before it
PORTION = 8  # positions of one answer while nothing is produced


@dataclass(frozen=True, slots=True)
class Declined:
    """A question that core did not answer, and why."""

    query: ViewQuery | PictureQuery
    message: str
    can_recompute: bool


def is_busy(state: AppState) -> bool:
    """Whether tokens are produced right now."""
    return state.worker in (WorkerState.DECODING, WorkerState.PREFILL)


def lens_query(run: RunView, columns: LensColumns, shown: int | None, *, recompute: bool) -> LensQuery | None:
    """The shown position, if it is missing."""
    if shown is None or shown >= select.fed_positions(run):
        return None
    wanted, at = columns.missing(shown, shown + 1, 1), run.place.named
    return None if wanted is None else LensQuery(run.run_id, wanted, recompute=recompute, **at)


def fill_query(
    run: RunView, columns: LensColumns, visible: range, most: int, first: int, *, recompute: bool
) -> LensQuery | None:
    """What is missing in view, from position `first` on, so many positions at most."""
    stop, at = min(visible.stop, select.fed_positions(run)), run.place.named
    wanted = columns.missing(max(visible.start, first), stop, most)
    return None if wanted is None else LensQuery(run.run_id, wanted, recompute=recompute, **at)


def norms_query(run: RunView, position: int, contributions: bool, *, recompute: bool) -> NormsQuery:
    """Norms at the shown position."""
    at = run.place.named
    return NormsQuery(run.run_id, position, contributions, recompute, **at)


def attribution_query(run: RunView, state: AppState) -> AttributionQuery | None:
    """The parts of the logit of the token shown; of the first one of all there are none."""
    index, position, at = select.token_index(state), select.shown_position(state), run.place.named
    if index is None or position is None or index == -run.prompt_tokens:
        return None
    token_id = run.prompt.token_ids[index] if index < 0 else run.step(index).token_id
    if token_id < 0:
        return None  # of embeddings
    return AttributionQuery(run.run_id, position, token_id, **at)
