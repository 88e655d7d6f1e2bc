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

from core.contract.params import GenerationParams
from core.decode.modes.beams import Candidate, Search
from core.decode.modes.classic_beams import ClassicBeams, stops
from core.decode.modes.mode import Past
from core.decode.pipeline import Rows, Stage, run_pipeline

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class GroupBeamSearch(ClassicBeams):
    """Groups of beams that are kept apart."""

    name = "group_beam_search"

    def begin(self, run: Session) -> None:
        """No group has said anything yet."""
        super().begin(run)
        self._said: list[Counter[int]] = []  # by prompt, the tokens of the groups before at this step

    def diversity(self, run: Session, params: GenerationParams, past: Past | None = None) -> Stage | None:
        """The penalty for what the groups before have said; of a past step, as the lanes then tell."""
        penalty, told = params.diversity_penalty, None if past is None else self._said_then(run, past)

        def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            said = self._said if told is None else None
            if told is None and not said:
                return scores  # the first group
            scores = scores.clone()
            for place in range(len(scores)):
                counts = told if said is None else said[rows.owner(place)]
                if not counts:
                    continue  # the groups before have all ended
                scores[place, list(counts)] -= penalty * scores.new_tensor(list(counts.values()))
            return scores

        return Stage("diversity_penalty", {"diversity_penalty": penalty}, fn, replayable=told is not None)

    def _said_then(self, run: Session, past: Past) -> Counter[int] | None:
        """What the groups before that of the sequence said at a past step; None where it was not decided."""
        strand = past.strand
        index = past.position + 1 - len(run.started.rows[strand.row].token_ids)
        if not 0 <= index < len(run.past):
            return None
        lanes = [lane for lane in run.past[index] if lane.row == strand.row and lane.group < strand.group]
        said = [lane.link for lane in lanes if lane.beam < self.width and not lane.stopped]
        return Counter(link.token_id for link in said if link is not None)

    def follow(self, run: Session, processed: Processed, searches: list[Search]) -> tuple[Processed, list[Candidate]]:
        """How each search goes on, group by group."""
        running = processed.final.new_tensor([lane.score for lane in run.lanes])
        chosen: dict[int, list[Candidate]] = {search.prompt.index: [] for search in searches}
        final = processed.final.clone()
        for group in range(self.groups):
            said = [
                Counter(c.token_id for c in chosen.get(row, ()) if not stops(c)) for row in range(len(self.searches))
            ]
            lanes = [lane for search in searches for lane in search.lanes[group]]
            if group and lanes:
                final[lanes] = self._penalised(run, processed, said)[lanes]
            scores = final + running[:, None]  # (B, V)
            for search in searches:
                if search.lanes[group]:
                    row = search.prompt.index
                    chosen[row] += self._go_on(run, search, group, scores, final, said[row])
        for search in searches:
            found = chosen[search.prompt.index]
            if self.end_search(search, found):
                for candidate in found:
                    pool = search.pools[candidate.beam // self.size]
                    if not pool.done:
                        self.end(run, pool, candidate)
        return replace(processed, final=final), [candidate for found in chosen.values() for candidate in found]

    def _penalised(self, run: Session, processed: Processed, said: list[Counter[int]]) -> torch.Tensor:
        """The scores (B, V) after the pipeline, given what the groups before have said."""
        self._said = said
        try:
            return run_pipeline(run.stages, run.pipeline_rows(), processed.raw)
        finally:
            self._said = []

    def _go_on(
        self,
        run: Session,
        search: Search,
        group: int,
        scores: torch.Tensor,
        final: torch.Tensor,
        said: Counter[int],
    ) -> list[Candidate]:
        """One step of one group; scores (B, V) are accumulated, final (B, V) are those of the tokens alone."""
        lanes, pool = search.lanes[group], search.pools[group]
        candidates = [
            replace(found, penalty=run.params.diversity_penalty * said[found.token_id])
            for found in self.candidates(run, lanes, scores[lanes], final)
        ]
        followed: list[Candidate] = []
        if all(map(stops, candidates)):  # nothing goes on: this group has ended
            for beam, candidate in enumerate(candidates[: self.size], group * self.size):
                followed.append(replace(candidate, beam=beam))
                self.end(run, pool, followed[-1])
            pool.done = True
            return followed
        for rank, candidate in enumerate(candidates):
            if stops(candidate):
                if rank < self.size:
                    self.end(run, pool, candidate)
                continue
            followed.append(replace(candidate, beam=group * self.size + len(followed)))
            if len(followed) == self.size:
                break
        self.judge(run, pool, candidates)
        return followed
