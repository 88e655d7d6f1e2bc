"""Candidates of one step as rows, and the draw as segments of a cumulative bar. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.contract import Candidates, InterventionAnswer, StepSnapshot

BAR_TOPS = (0.1, 0.25, 0.5, 1.0)  # upper ends of the bars' axis, the smallest that fits


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One candidate. killed_by: name of the stage that removed it, None for one that was kept.

    In a preview raw is the probability before the interventions, final the one after them, both before the pipeline;
    `preview` says so.
    """

    token_id: int
    piece: str
    raw: float
    final: float
    killed_by: str | None
    chosen: bool
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A kept token on the cumulative bar of final probabilities, from `start` to `stop` in [0, 1]."""

    piece: str
    start: float
    stop: float
    chosen: bool
    token_id: int = -1


def rows(step: StepSnapshot) -> tuple[CandidateRow, ...]:
    """The candidates as recorded: by raw probability, the chosen one always among them."""
    top = step.top
    raw, final = np.exp(top.logprob).tolist(), np.exp(top.final_logprob).tolist()
    stages = [top.stages[k] if 0 <= k < len(top.stages) else None for k in top.killed_by.tolist()]
    ids = top.token_ids.tolist()
    return tuple(
        CandidateRow(i, piece, r, f, stage, i == step.token_id)
        for i, piece, r, f, stage in zip(ids, top.pieces, raw, final, stages, strict=True)
    )


def preview_rows(answer: InterventionAnswer, chosen_id: int) -> tuple[CandidateRow, ...]:
    """What interventions would change: the likeliest tokens of before and after, by the larger probability."""
    before, after = np.exp(answer.before).tolist(), np.exp(answer.after).tolist()
    return tuple(
        CandidateRow(i, piece, b, a, None, i == chosen_id, preview=True)
        for i, piece, b, a in zip(answer.token_ids.tolist(), answer.pieces, before, after, strict=True)
    )


def segments(top: Candidates, chosen_id: int) -> tuple[Segment, ...]:
    """Kept candidates in the order of the draw: by descending final probability, ties by id.

    The order is that of `core.decode.random`. The last stop is below 1 when tokens outside of the top-K were kept.
    """
    final = np.exp(top.final_logprob.astype(np.float64))
    order = np.lexsort((top.token_ids, -final))
    order = order[final[order] > 0]
    stops = np.minimum(np.cumsum(final[order]), 1.0).tolist()
    pairs = zip(order.tolist(), [0.0, *stops][:-1], stops, strict=True)  # of a dead beam none are kept
    ids = top.token_ids.tolist()
    return tuple(Segment(top.pieces[i], a, b, ids[i] == chosen_id, ids[i]) for i, a, b in pairs)


def bar_top(candidates: tuple[CandidateRow, ...]) -> float:
    """Upper end of the bars' axis: a few fixed sizes, so that bars of different steps can be compared."""
    most = max((max(r.raw, r.final) for r in candidates), default=1.0)
    return next((top for top in BAR_TOPS if most <= top), 1.0)
