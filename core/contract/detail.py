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


@dataclass(frozen=True, slots=True)
class AssistedDetail:
    """One token of a pass that checked drafted ones.

    source: the draft: a model's title, `early exit`, or `prompt lookup`.
    passes: of the model so far, this one included. place: of this token in the pass.
    drafted, pieces: all tokens drafted for the pass; those from the first refused one on were thrown away.
    accepted: this token is the drafted one at its place.
    probability, draft_probability: of the drafted token at this place, to the model after the pipeline and to the
        draft; None where nothing was drafted here, or where it was copied.
    match: [start, stop) positions that prompt lookup copied from; the first `matched` of them equal the last tokens.
    """

    source: str
    passes: int
    place: int
    drafted: tuple[int, ...]
    pieces: tuple[str, ...]
    draft_probability: float | None
    probability: float | None
    accepted: bool
    match: tuple[int, int] | None = None
    matched: int = 0


StepDetail = BeamDetail | AssistedDetail


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
