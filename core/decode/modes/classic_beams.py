"""What group and constrained beam search share: the rules of `BeamSearchScorer` in transformers 4.51.

Two deviations: a hypothesis keeps the very token that ended it (4.51 writes the first of the EOS tokens), and a stop
string ends a hypothesis as EOS does (4.51 ends the search once all beams complete one at the same step).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from core.contract.events import FinishReason
from core.decode.modes.beams import Beams, Candidate, Search
from core.decode.modes.hypotheses import Pool

if TYPE_CHECKING:
    from core.decode.session import Session


class ClassicBeams(Beams):
    """Candidates are looked through in the order of their scores until enough of them go on."""

    def candidates(self, run: Session, lanes: list[int], scores: torch.Tensor, final: torch.Tensor) -> list[Candidate]:
        """The best continuations of these lanes by their accumulated scores (lanes, V), the best first.

        final: the scores (B, V) of the tokens alone.
        """
        vocabulary = scores.shape[-1]
        count = min(max(2, 1 + len(run.params.eos_token_id)) * self.size, scores.numel())
        values, places = torch.topk(scores.flatten(), count)
        found = []
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            lane, token_id = lanes[place // vocabulary], place % vocabulary
            found.append(self.candidate(run, lane, token_id, value, final))
        return found

    def candidate(self, run: Session, lane: int, token_id: int, score: float, final: torch.Tensor) -> Candidate:
        """One lane with one more token."""
        return Candidate(lane, token_id, score, self.reason_to_end(run, lane, token_id, final))

    def judge(self, run: Session, pool: Pool, candidates: list[Candidate]) -> None:
        """Whether this search can still find better ones, by the best of its candidates."""
        best = candidates[0]
        pool.done |= best.score == -math.inf  # nothing is left that could go on
        lane = run.lanes[best.lane]
        length, longest = len(lane.token_ids) + 1, run.length_of(lane) - len(lane.prompt.token_ids)
        pool.done = pool.done or pool.cannot_improve(best.score, length, longest, run.params)

    def end_search(self, search: Search, followed: list[Candidate]) -> bool:
        """Whether the search is over; True if that is because its beams may not grow longer."""
        limited = all(candidate.reason is not None for candidate in followed)
        search.over = limited or all(pool.done for pool in search.pools)
        return limited


def stops(candidate: Candidate) -> bool:
    """Whether the token itself ends the sequence, rather than a length or the time."""
    return candidate.reason is FinishReason.STOP
