"""Sampling: one draw a row from the final distribution, from one of two sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.decode.modes.mode import Choice, Mode
from core.decode.random import inverse_cdf, uniform

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


class CounterSample(Mode):
    """Draws from the counter source: the same (seed, row, position, reroll) gives the same number, always."""

    name = "sample"
    copies = True

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """One draw a lane."""
        spec = run.spec
        first = run.first_row
        draws = [uniform(spec.seed, first + lane.index, lane.position, reroll=spec.reroll) for lane in run.lanes]
        return Choice([inverse_cdf(processed.final[lane], u) for lane, u in enumerate(draws)], draws)


class TorchSample(Mode):
    """Draws with `torch.multinomial` on a torch generator, token for token what `generate()` draws under this seed."""

    name = "sample"
    copies = True

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """One draw a lane; torch does not tell its numbers."""
        probabilities = torch.softmax(processed.final, dim=-1)  # (B, V)
        lanes = [lane.index for lane in run.lanes]
        if len(lanes) < len(run.rows):
            # `generate()` draws for ended rows, too: their numbers must be used up.
            everything = probabilities.new_zeros(len(run.rows), probabilities.shape[1])
            everything[:, 0] = 1.0
            everything[lanes] = probabilities
            probabilities = everything
        drawn = torch.multinomial(probabilities, num_samples=1, generator=self.generator).squeeze(1).tolist()
        token_ids: list[int] = drawn if len(drawn) == len(lanes) else [drawn[lane] for lane in lanes]
        return Choice(token_ids, [None] * len(token_ids))
