"""What the lens panel asks core for, and when. Pure functions."""

from __future__ import annotations

from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.widgets.lens_columns import LensColumns
from core.contract import AttributionQuery, LensQuery, NormsQuery, WorkerState

LENS_SLOT, NORMS_SLOT, ATTRIBUTION_SLOT = "lens.table", "lens.norms", "lens.attribution"
SLOTS = (LENS_SLOT, NORMS_SLOT, ATTRIBUTION_SLOT)
LIVE_INTERVAL_S = 0.33  # between two questions while tokens are produced
PORTION = 8  # positions of one answer


def is_busy(state: AppState) -> bool:
    """Whether tokens are produced right now."""
    return state.worker in (WorkerState.DECODING, WorkerState.PREFILL)


def shown_position(state: AppState) -> int | None:
    """The position whose residual chose the shown step."""
    index = select.step_index(state)
    return None if index is None or state.run is None else select.query_position(state.run, index)


def lens_query(
    run: RunView, columns: LensColumns, shown: int | None, visible: range, *, recompute: bool
) -> LensQuery | None:
    """The shown position first, then what is missing in view."""
    fed = select.fed_positions(run)
    wanted = None if shown is None or shown >= fed else columns.missing(shown, shown + 1, 1)
    if wanted is None:
        wanted = columns.missing(visible.start, min(visible.stop, fed), PORTION)
    if wanted is None:
        return None
    at = run.place.named
    return LensQuery(run.run_id, wanted, recompute=recompute, **at)


def norms_query(run: RunView, position: int, contributions: bool) -> NormsQuery:
    """Norms at the shown position."""
    at = run.place.named
    return NormsQuery(run.run_id, position, contributions, **at)


def attribution_query(run: RunView, state: AppState) -> AttributionQuery | None:
    """The parts of the logit of the token that the shown step chose."""
    index = select.step_index(state)
    if index is None:
        return None
    position, token_id, at = select.query_position(run, index), run.step(index).token_id, run.place.named
    return AttributionQuery(run.run_id, position, token_id, **at)
