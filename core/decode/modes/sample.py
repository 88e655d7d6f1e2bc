"""Sampling: one draw a row from the final distribution, from one of two sources."""

from __future__ import annotations

import torch

from core.decode.random import inverse_cdf, uniform


class CounterSample:
    """Draws from the counter source: the same (seed, row, position, reroll) gives the same number, always."""

    name = "sample"

    def __init__(self, seed: int, reroll: int = 0) -> None:
        self.seed = seed
        self.reroll = reroll

    def choose(self, scores: torch.Tensor, positions: list[int]) -> tuple[torch.Tensor, list[float | None]]:
        """scores (B, V) → ids (B,) and the draws."""
        draws = [uniform(self.seed, row, position, reroll=self.reroll) for row, position in enumerate(positions)]
        ids = [inverse_cdf(scores[row], u) for row, u in enumerate(draws)]
        return torch.tensor(ids, device=scores.device), list(draws)


class TorchSample:
    """Draws with `torch.multinomial` on a torch generator, token for token what `generate()` draws under this seed."""

    name = "sample"

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def choose(self, scores: torch.Tensor, positions: list[int]) -> tuple[torch.Tensor, list[float | None]]:
        """scores (B, V) → ids (B,); torch does not tell its draws."""
        probabilities = torch.softmax(scores, dim=-1)
        ids = torch.multinomial(probabilities, num_samples=1, generator=self.generator).squeeze(1)
        return ids, [None] * len(positions)
