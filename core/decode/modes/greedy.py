"""Greedy search: the likeliest token, the first of equals."""

from __future__ import annotations

import torch


class Greedy:
    """Takes the likeliest token of each row; nothing is drawn."""

    name = "greedy_search"

    def choose(self, scores: torch.Tensor, positions: list[int]) -> tuple[torch.Tensor, list[float | None]]:
        """scores (B, V) → ids (B,) and no draws."""
        return torch.argmax(scores, dim=-1), [None] * len(positions)
