"""Beam search and beam sampling, as `GenerationMixin._beam_search` of transformers 5.23 does it, token for token.

From all continuations of a row's beams the best ones are taken (or drawn): those that do not end go on, those among
the first `num_beams` that do end are hypotheses. `early_stopping` says when no better one is expected.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from core.decode.modes.beams import OUT_OF_REACH, Beams, Candidate, Search
from core.decode.modes.hypotheses import attainable, length_score
from core.decode.random import Purpose, draw_without_replacement, uniforms

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class BeamSearch(Beams):
    """The best continuations, nothing drawn."""

    name = "beam_search"

    def follow(self, run: Session, processed: Processed, searches: list[Search]) -> tuple[Processed, list[Candidate]]:
        """How each search goes on."""
        final = processed.final
        vocabulary = final.shape[-1]
        lanes = [lane for search in searches for lane in search.lanes[0]]
        running = final.new_tensor([run.lanes[lane].score for lane in lanes])
        ordered = final if lanes == sorted(lanes) else final[lanes]
        scores = (ordered + running[:, None]).view(len(searches), -1)  # (R, num_beams · V)
        # So many that enough go on where the likeliest ones are ends.
        count = min(max(2, 1 + len(run.params.eos_token_id)) * self.width, scores.shape[1])
        places, draws = self.take(run, scores, count, searches)
        values: list[list[float]] = torch.gather(scores, 1, places).tolist()
        followed: list[Candidate] = []
        for row, search in enumerate(searches):
            candidates = []
            for place, value, u in zip(places[row].tolist(), values[row], draws[row], strict=True):
                lane, token_id = search.lanes[0][place // vocabulary], place % vocabulary
                reason = self.reason_to_end(run, lane, token_id, final)
                candidates.append(Candidate(lane, token_id, value, reason, u=u))
            followed += self._go_on(run, search, candidates)
        return processed, followed

    def take(
        self, run: Session, scores: torch.Tensor, count: int, searches: list[Search]
    ) -> tuple[torch.Tensor, list[list[float | None]]]:
        """Places (R, count) in the scores (R, num_beams · V), and the draws that chose them."""
        return torch.topk(scores, count).indices, [[None] * count] * len(searches)

    def _go_on(self, run: Session, search: Search, candidates: list[Candidate]) -> list[Candidate]:
        """One step of one search, from its candidates in the order they were taken."""
        pool, params = search.pools[0], run.params
        ends = [candidate.reason is not None for candidate in candidates]
        if all(ends):
            search.over = True
            followed = candidates[: self.width]
        else:
            left = [replace(c, score=c.score + OUT_OF_REACH) if c.reason else c for c in candidates]
            followed = sorted(left, key=lambda c: c.score, reverse=True)[: self.width]
        followed = [replace(candidate, beam=beam) for beam, candidate in enumerate(followed)]
        if not (pool.full and params.early_stopping is True):
            for candidate in followed if search.over else candidates[: self.width]:
                if candidate.reason is not None and self._counts(run, candidate):
                    self.end(run, pool, candidate)
        lane = run.lanes[followed[0].lane]
        length, longest = len(lane.token_ids) + 1, run.length_of(lane) - len(lane.prompt.token_ids)
        worst = pool.worst if pool.full else OUT_OF_REACH
        search.improvable &= attainable(followed[0].score, length, longest, params) > worst
        search.over |= not search.improvable or (pool.full and params.early_stopping is True)
        return followed

    def _counts(self, run: Session, candidate: Candidate) -> bool:
        """Whether it beats the places of the result that nobody has taken yet: what is impossible does not."""
        length = len(run.lanes[candidate.lane].token_ids) + 1
        possible = candidate.score > -math.inf
        return possible and length_score(candidate.score, length, run.params.length_penalty) > OUT_OF_REACH


class CounterBeamSample(BeamSearch):
    """Draws the continuations from the counter source, one after the other, each from what is left."""

    name = "beam_sample"

    def take(
        self, run: Session, scores: torch.Tensor, count: int, searches: list[Search]
    ) -> tuple[torch.Tensor, list[list[float | None]]]:
        """`count` numbers a row, see `uniforms`."""
        spec = run.spec
        draws: list[list[float | None]] = []
        places = []
        for row, search in enumerate(searches):
            lane = run.lanes[search.lanes[0][0]]
            us = uniforms(spec.seed, lane.index, lane.position, Purpose.BEAM, count, spec.reroll)
            places.append(draw_without_replacement(scores[row], us))
            draws.append([*us])
        return torch.tensor(places, device=scores.device), draws


class TorchBeamSample(BeamSearch):
    """Draws with `torch.multinomial` on a torch generator, what `generate()` draws under this seed."""

    name = "beam_sample"

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def take(
        self, run: Session, scores: torch.Tensor, count: int, searches: list[Search]
    ) -> tuple[torch.Tensor, list[list[float | None]]]:
        """`count` draws a row; torch does not tell its numbers."""
        probabilities = torch.softmax(scores, dim=-1).nan_to_num(nan=1.0)  # NaN where nothing is left to draw
        if len(searches) < len(self.searches):
            # `generate()` draws for ended searches, too: their numbers must be used up.
            everything = probabilities.new_zeros(len(self.searches), probabilities.shape[1])
            everything[:, 0] = 1.0
            rows = [self.searches.index(search) for search in searches]
            everything[rows] = probabilities
            places = torch.multinomial(everything, count, generator=self.generator)[rows]
        else:
            places = torch.multinomial(probabilities, count, generator=self.generator)
        return places, [[None] * count] * len(searches)
