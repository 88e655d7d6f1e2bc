"""Constrained beam search, as transformers 4.51 had it (Post and Vilar 2018, Hu et al. 2019).

Besides the best continuations, every beam proposes the tokens that fulfil more of `force_words_ids`. All of them are
sorted into banks by the tokens fulfilled, and the beams are taken from the banks in turn, the fullest first.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.contract.errors import ParameterError
from core.contract.wording import in_words
from core.decode.modes.beams import Candidate, Search
from core.decode.modes.classic_beams import ClassicBeams, stops
from core.decode.modes.constraints import Progress, begin_progress

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session

BANK_WEIGHT = 100  # more than scores differ, so that banks come before scores


class ConstrainedBeamSearch(ClassicBeams):
    """Beams that must say what `force_words_ids` asks for."""

    name = "constrained_beam_search"

    def begin(self, run: Session) -> None:
        """Raises `ParameterError` where a constraint cannot be fulfilled."""
        super().begin(run)
        size = run.loaded.info.output_size
        self._refused: dict[int, dict[int, None]] = {}  # by row, the tokens that would fulfil more but are ruled out
        self._first = [begin_progress(run.params, size, row.prompt.token_ids) for row in run.rows]

    def follow(self, run: Session, processed: Processed, searches: list[Search]) -> tuple[Processed, list[Candidate]]:
        """How each search goes on."""
        running = processed.final.new_tensor([lane.score for lane in run.lanes])
        scores = processed.final + running[:, None]  # (B, V)
        followed: list[Candidate] = []
        for search in searches:
            found = self._go_on(run, search, scores, processed.final)
            limited = self.end_search(search, found) and not search.pools[0].done
            if search.over and not search.pools[0].rows and not any(map(_fulfils, found)):
                self._check_refused(run, search)
            if limited:
                self._end_all(run, search, found)
            followed += found
        return processed, followed

    def candidate(self, run: Session, lane: int, token_id: int, score: float, final: torch.Tensor) -> Candidate:
        """One lane with one more token, and how far the constraints are then."""
        progress = self._progress(run, lane).add(token_id)
        return replace(super().candidate(run, lane, token_id, score, final), progress=progress)

    def _progress(self, run: Session, lane: int) -> Progress:
        progress = self.followed[lane].progress if self.followed else None
        return self._first[run.lanes[lane].index] if progress is None else progress

    def _go_on(self, run: Session, search: Search, scores: torch.Tensor, final: torch.Tensor) -> list[Candidate]:
        """One step of one search; scores (B, V) are accumulated, final (B, V) are those of the tokens alone."""
        lanes, pool = search.lanes[0], search.pools[0]
        candidates = self.candidates(run, lanes, scores[lanes], final)
        followed: list[Candidate] = []
        if all(map(stops, candidates)) and not self._advances(run, lanes, scores, final, followed):
            return [replace(candidate, beam=beam) for beam, candidate in enumerate(candidates[: self.size])]
        for rank, candidate in enumerate(candidates):
            if stops(candidate):
                if rank < self.size and self._progress(run, candidate.lane).completed:
                    self.end(run, pool, candidate)
                continue
            followed.append(candidate)
            if len(followed) == self.size:
                break
        followed = self._by_banks(followed + self._advances(run, lanes, scores, final, followed), len(followed))
        self.judge(run, pool, candidates)
        return [replace(candidate, beam=beam) for beam, candidate in enumerate(followed)]

    def _advances(
        self, run: Session, lanes: list[int], scores: torch.Tensor, final: torch.Tensor, followed: list[Candidate]
    ) -> list[Candidate]:
        """Each lane with each token that fulfils more, but for sequences that are there already, or ruled out."""
        ids = {lane: tuple(run.lanes[lane].token_ids) for lane in lanes}
        there = {(ids[candidate.lane], candidate.token_id) for candidate in followed}
        found = []
        for lane in lanes:
            for token_id in self._progress(run, lane).next_tokens():
                score = float(scores[lane, token_id])
                if score == -math.inf:
                    self._refused.setdefault(run.lanes[lane].index, {})[token_id] = None
                elif (ids[lane], token_id) not in there:
                    there.add((ids[lane], token_id))
                    found.append(self.candidate(run, lane, token_id, score, final))
        return found

    def _by_banks(self, candidates: list[Candidate], likeliest: int) -> list[Candidate]:
        """So many as the beams: the best one of each bank, then the second best ones, …, the fullest bank first.

        The first `likeliest` are the best continuations; if there are no others they stay in their order.
        """
        if len(candidates) == likeliest:
            return candidates
        banks = np.array([_bank(candidate) for candidate in candidates])
        keys = np.float32(banks * BANK_WEIGHT) + np.array([c.score for c in candidates], dtype=np.float32)
        order = np.argsort(-keys, kind="stable")
        places: list[int] = []  # of each in its run of equal banks
        for n, bank in enumerate(banks[order]):
            places.append(places[-1] + 1 if n and bank == banks[order][n - 1] else 0)
        turns = order[np.argsort(places, kind="stable")]
        return [candidates[place] for place in turns[: self.size]]

    def _end_all(self, run: Session, search: Search, followed: list[Candidate]) -> None:
        """The length is reached: beams that fulfil everything are hypotheses, the others where these are too few."""
        complete = [candidate for candidate in followed if _fulfils(candidate)]
        rest = [] if len(complete) >= run.params.num_return_sequences else [c for c in followed if c not in complete]
        for candidate in complete + rest:
            self.end(run, search.pools[0], candidate)

    def _check_refused(self, run: Session, search: Search) -> None:
        """Raises `ParameterError` where the constraints were not fulfilled because their tokens were ruled out."""
        refused = [run.loaded.text.piece(token_id) for token_id in self._refused.get(search.prompt.index, ())]
        if refused:
            raise ParameterError(
                "No beam could say what force_words_ids asks for, because other parameters or the grammar rule out "
                f"{in_words([repr(piece) for piece in refused[:3]])}; relax these, or leave the phrase out."
            )


def _fulfils(candidate: Candidate) -> bool:
    """Whether it has said all it must, with tokens that were allowed."""
    return candidate.progress is not None and candidate.progress.completed and candidate.score > -math.inf


def _bank(candidate: Candidate) -> int:
    assert candidate.progress is not None
    return candidate.progress.bank
