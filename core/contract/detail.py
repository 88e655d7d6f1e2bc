"""What a step reports beyond its token, mode by mode: plain data, read-only numpy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BeamDetail:
    """One beam after a step.

    parent: the beam it continues, which is another one where beams changed places; beams nobody continues died.
    score: sum of the log-probabilities after the pipeline, natural logarithm, not divided by the length.
    group: of diverse beam search. penalty: what the diversity penalty took from this token's score.
    fulfilled: of constrained beam search, tokens fulfilled of each constraint, and `needed` of each.
    bank: of constrained beam search, tokens fulfilled of all constraints together.
    """

    parent: int
    score: float
    group: int = 0
    penalty: float = 0.0
    fulfilled: tuple[int, ...] = ()
    needed: tuple[int, ...] = ()
    bank: int | None = None


StepDetail = BeamDetail


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A beam that ended: its score divided by length ** length_penalty.

    beam: it was when its token `index` was chosen, so that views find it. kept: among the best of its row so far.
    """

    row: int
    beam: int
    index: int
    score: float
    token_ids: tuple[int, ...]  # generated ones
    text: str
    kept: bool = True
