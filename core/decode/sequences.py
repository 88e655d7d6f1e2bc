"""The sequences of a run: what its end reports, and how views find one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contract.errors import ViewUnavailableError
from core.contract.events import FinishReason, RunFinished
from core.contract.views import Place
from core.decode.rows import Row
from core.trace.recording import Strand

if TYPE_CHECKING:
    from core.decode.session import Session


def result_of(run: Session) -> RunFinished:
    """The run as it stands."""
    clock, new = run.clock, run.new_tokens
    own = new - run.kept_tokens
    reasons = tuple(str(row.finish_reason or FinishReason.CANCELLED) for row in run.rows)
    scores = [row.score for row in run.rows if row.score is not None]
    return RunFinished(
        run_id=run.run_id,
        finish_reason=reasons[0],
        finish_reasons=reasons,
        texts=tuple(row.text for row in run.rows),
        sequences=tuple((*row.prompt.token_ids, *row.token_ids) for row in run.rows),
        prompt_tokens=tuple(len(row.prompt.token_ids) for row in run.rows),
        new_tokens=new,
        ttft_ms=None if clock.first_token is None else 1e3 * (clock.first_token - clock.started),
        tokens_per_s=(own - 1) / clock.decode_s if clock.decode_s and own > 1 else None,
        error=None if run.error is None else run.error.report(),
        scores=tuple(scores) if len(scores) == len(run.rows) else None,
        places=tuple((row.index, row.beam, row.ended_at) for row in run.rows),
        branch_id=run.branch_id,
    )


def strand_at(run: Session, place: Place) -> Strand:
    """The sequence that a question means."""
    if place.index is not None and run.mode.moves_lanes and 0 <= place.index < len(run.past):
        for lane in run.past[place.index]:
            if (lane.row, lane.beam) == (place.row, place.beam):
                return lane.strand()
    rows: list[Row] = run.rows
    if run.mode.moves_lanes:  # the lanes, and rows that have left the batch; hypotheses are found by their step
        rows = [*run.lanes, *(r for r in run.rows if r.finish_reason is not None and r.ended_at is None)]
    for row in rows:
        if (row.index, row.beam) == (place.row, place.beam):
            return row.strand()
    for lanes in reversed(run.past if place.index is None else ()):  # it has left the batch
        for lane in lanes:
            if (lane.row, lane.beam) == (place.row, place.beam):
                return lane.strand()
    what = f"no beam {place.beam} in row {place.row}" if place.beam else f"no row {place.row}"
    raise ViewUnavailableError(f"There is {what}; the run has {len({row.index for row in run.rows})}.")
