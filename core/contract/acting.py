"""Views that go with acting on a run: what an intervention would change, and tokens watched over the steps."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract.interventions import Intervention
from core.contract.snapshot import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class InterventionQuery:
    """What would follow `position` if these interventions were in force there: that position is fed once more.

    They take the place of those that were in force. Earlier positions keep the keys and values that they have, so that
    it is one forward pass of one position. `top` tokens of before and after are named.
    """

    run_id: int
    position: int
    interventions: tuple[Intervention, ...]
    top: int = 20
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class InterventionAnswer:
    """The likeliest tokens before and after, K of them, in descending order of the larger of both probabilities.

    All arrays are (K,), natural logarithms: before is as it ran, after is with the interventions; final is behind the
    pipeline under the run's parameters (-inf for what it rules out), None in modes where one step does not tell it.
    kl_bits: of after from before, over the whole vocabulary and before the pipeline.
    """

    query: InterventionQuery
    token_ids: IntArray
    pieces: tuple[str, ...]
    before: FloatArray
    after: FloatArray
    before_final: FloatArray | None
    after_final: FloatArray | None
    entropy_before_bits: float
    entropy_after_bits: float
    kl_bits: float


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """How probable tokens were after each of the positions [start, stop), before the pipeline; stop None: the newest.

    tokens: ids, or texts, of which the first token is watched (a leading space belongs to a word).
    At most `WATCHED_AT_ONCE` positions are answered; ask again for the rest.
    """

    run_id: int
    tokens: tuple[int | str, ...]
    positions: tuple[int, int | None]
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """`logprob` (K, n), natural logarithms, and `rank` (K, n), 0 = likeliest, of the tokens after `positions`.

    token_ids, pieces: the K tokens that are watched.
    """

    query: WatchQuery
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    positions: tuple[int, int]
    logprob: FloatArray
    rank: IntArray


WATCHED_AT_ONCE = 512  # positions

ActingQuery = InterventionQuery | WatchQuery
ActingAnswer = InterventionAnswer | WatchAnswer
