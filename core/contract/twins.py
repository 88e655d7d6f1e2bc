"""Twins: a branch beside another one, with the same draws and one thing set otherwise, and both go on in lockstep.

And how any two branches of a run compare, derived from what was recorded of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.contract.cache import CacheSpec
from core.contract.interventions import Intervention
from core.contract.snapshot import FloatArray, IntArray
from core.contract.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class StartTwin:
    """Begin a branch beside `beside`, which stays in use where it is; from now on both go on one step each.

    Whichever has said less goes first, so that a twin of a run that is ahead catches up. Changes, pauses and steps are
    for both; changes of what they differ in, for the branch in use only. One that has ended waits for the other. While
    the prompt is being read the twin waits, to share what is computed of it; another branch asked for, or gone to,
    meanwhile ends that, which is said.

    branch_id: of the twin. position: tokens of the sequence that both have, none of the prompt left out; None: the
    prompt. row: of the batch. params: values other than those of `beside`. model: another one, or in another precision,
    with the same vocabulary. interventions: in force from there on; None for those of `beside`. cache: another kind,
    for which the prompt is fed again. max_steps: pause after so many steps.
    """

    run_id: int
    branch_id: int
    beside: int = 0
    position: int | None = None
    row: int = 0
    params: Mapping[str, object] = field(default_factory=dict)
    model: ModelSpec | None = None
    interventions: tuple[Intervention, ...] | None = None
    cache: CacheSpec | None = None
    max_steps: int | None = None

    @property
    def own_settings(self) -> frozenset[str]:
        """What is set for each side by itself: names of parameters, and `interventions`."""
        return frozenset(self.params) | ({"interventions"} if self.interventions is not None else set())


@dataclass(frozen=True, slots=True)
class EndTwin:
    """The branch in use goes on alone; the one beside it stays as it is."""

    run_id: int


@dataclass(frozen=True, slots=True)
class BranchesGone:
    """These branches were forgotten, tokens included, because their model gave way to another one."""

    run_id: int
    branch_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CompareQuery:
    """How two branches differ in what they chose from, at the tokens [start, stop) of both, prompt included.

    branch_id, row: the first one; other, other_row: the second. stop None means as far as both go. final: the
    distributions after the pipeline, with the parameters in force at the time; else the model's own, as papers compare
    them, which are nowhere 0.
    """

    run_id: int
    other: int
    positions: tuple[int, int | None] = (1, None)
    final: bool = False
    other_row: int = 0
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class CompareAnswer:
    """One entry a token position; P positions, side 0 is the branch asked about, side 1 the other.

    Each distribution is the one that token was chosen from, over the tokens that both models know.
    kl_bits: (P,) Kullback-Leibler divergence KL(0 ‖ 1) in bits; infinite where side 1 rules out what side 0 keeps.
    probability: (P, 2, 2), of side t's token in side s's distribution at [p, t, s].
    token_ids: (P, 2). parted: the first position of the whole sequences where the tokens differ, None where they do not
    as far as both go: from the next one on, different texts are compared.
    """

    query: CompareQuery
    positions: tuple[int, int]
    kl_bits: FloatArray
    probability: FloatArray
    token_ids: IntArray
    parted: int | None


@dataclass(frozen=True, slots=True)
class CompareAttentionQuery:
    """Attention weights of one branch minus those of another, for the query positions that both have.

    heads, reduce, rows, pool: as in `AttentionQuery`; several heads have to be joined by `reduce`.
    """

    run_id: int
    other: int
    layer: int
    heads: tuple[int, ...] | None = None
    reduce: str | None = None
    rows: tuple[int, int | None] = (0, None)
    pool: tuple[int, int] | None = None
    other_row: int = 0
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class CompareAttentionAnswer:
    """`difference` is (R, C) float32 in [-1, 1]; of a pooled cell the largest one, with its sign.

    rows, columns, cell: as in `AttentionAnswer`. parted: as in `CompareAnswer`.
    """

    query: CompareAttentionQuery
    difference: FloatArray
    rows: tuple[int, int]
    columns: int
    cell: tuple[int, int]
    parted: int | None


TwinQuery = CompareQuery | CompareAttentionQuery
TwinAnswer = CompareAnswer | CompareAttentionAnswer
