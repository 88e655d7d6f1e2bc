"""What a step reports beyond its token, mode by mode: plain data, read-only numpy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, slots=True)
class ContrastiveDetail:
    """The candidates of a step of contrastive search, likeliest first; the chosen one has the highest score.

    probability: after the pipeline. penalty: the largest cosine similarity of the candidate's final hidden state with
    that of any token before, in [-1, 1]. score: (1 - penalty_alpha) · probability - penalty_alpha · penalty, -inf for
    a token that a stage killed.
    """

    token_ids: NDArray[np.int64]  # (k,)
    pieces: tuple[str, ...]
    probability: NDArray[np.float32]  # (k,)
    penalty: NDArray[np.float32]  # (k,)
    score: NDArray[np.float32]  # (k,)


@dataclass(frozen=True, slots=True)
class DolaDetail:
    """The layers that DoLa looked at for a token: what enters `layer` was contrasted with the last layer's output.

    divergence_bits: of each of `layers`: half the sum of the divergences KL(mean ‖ last) and KL(mean ‖ this layer),
    by which the layer is chosen.
    """

    layer: int
    layers: tuple[int, ...]
    divergence_bits: tuple[float, ...]


StepDetail = BeamDetail | AssistedDetail | ContrastiveDetail | DolaDetail


@dataclass(frozen=True, slots=True)
class GuidanceDetail:
    """What classifier-free guidance did to the tokens it made likeliest, the chosen one always among them.

    Natural logarithms: after the prompt, after the negative prompt, and of what guidance made of the two.
    """

    token_ids: NDArray[np.int64]  # (K,) by guided probability
    pieces: tuple[str, ...]
    conditional: NDArray[np.float32]  # (K,)
    unconditional: NDArray[np.float32]  # (K,)
    guided: NDArray[np.float32]  # (K,)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A beam that ended: its score divided by length ** length_penalty.

    beam: it was when its token `index` was chosen, so that views find it; from num_beams on, a continuation that ended
    at once and never was a beam. It has its own snapshot like any other. kept: among the best of its row so far.
    """

    row: int
    beam: int
    index: int
    score: float
    token_ids: tuple[int, ...]  # generated ones
    text: str
    kept: bool = True


def detail_as_json(detail: StepDetail | GuidanceDetail) -> dict[str, Any]:
    """Its fields as JSON can hold them, and its `kind`: `beam`, `assisted`, `contrastive`, …"""
    values = {field.name: getattr(detail, field.name) for field in fields(detail)}
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
    return {"kind": type(detail).__name__.removesuffix("Detail").lower(), **plain}
