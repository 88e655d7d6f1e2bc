"""Diverse (group) beam search, as transformers 4.51 had it (Vijayakumar et al. 2016).

The beams are divided into groups that are searched one after the other at each step. A token loses
`diversity_penalty` for every beam of the groups before that has just chosen it (the Hamming diversity); what is taken
off stays off the beam's score.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from core.decode.modes.beams import Candidate, Search
from core.decode.modes.classic_beams import ClassicBeams, stops
from core.decode.observe import process

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class GroupBeamSearch(ClassicBeams):
    """Groups of beams that are kept apart."""

    name = "group_beam_search"

    def follow(self, run: Session, processed: Processed, searches: list[Search]) -> tuple[Processed, list[Candidate]]:
        """How each search goes on, group by group."""
        running = processed.final.new_tensor([lane.score for lane in run.lanes])
        chosen: list[list[Candidate]] = [[] for _ in searches]
        final = processed.final.clone()
        for group in range(self.groups):
            said = [Counter(candidate.token_id for candidate in found) for found in chosen]
            lanes = [lane for search in searches for lane in search.lanes[group]]
            if group and lanes:
                final[lanes] = self._penalised(run, processed, searches, said)[lanes]
            scores = final + running[:, None]  # (B, V)
            for search, found, counts in zip(searches, chosen, said, strict=True):
                if search.lanes[group]:
                    found += self._go_on(run, search, group, scores, counts)
        for search, found in zip(searches, chosen, strict=True):
            if self.end_search(search, found):
                for candidate in found:
                    pool = search.pools[candidate.beam // self.size]
                    if not pool.done:
                        self.end(run, pool, candidate)
        return replace(processed, final=final), [candidate for found in chosen for candidate in found]

    def _penalised(
        self, run: Session, processed: Processed, searches: list[Search], said: list[Counter[int]]
    ) -> torch.Tensor:
        """The scores (B, V) after the pipeline, where what other groups have said loses something before it."""
        scores = processed.raw.clone()
        for search, counts in zip(searches, said, strict=True):
            times = scores.new_tensor(list(counts.values()))
            for lane in [lane for lanes in search.lanes for lane in lanes]:
                scores[lane, list(counts)] -= run.params.diversity_penalty * times
        return process(scores, run.ids, run.stages, 0).final

    def _go_on(
        self, run: Session, search: Search, group: int, scores: torch.Tensor, said: Counter[int]
    ) -> list[Candidate]:
        """One step of one group."""
        lanes, pool = search.lanes[group], search.pools[group]
        candidates = self.candidates(run, lanes, scores[lanes])
        followed: list[Candidate] = []
        for rank, candidate in enumerate(candidates):
            if stops(candidate):
                if rank < self.size:
                    self.end(run, pool, candidate)
                continue
            penalty = run.params.diversity_penalty * said[candidate.token_id]
            followed.append(replace(candidate, beam=group * self.size + len(followed), penalty=penalty))
            if len(followed) == self.size:
                break
        self.judge(run, pool, candidates)
        return followed
