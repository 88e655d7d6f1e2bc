"""What the model must beat: three simple models of the same pixels, in bits per pixel."""

from __future__ import annotations

import numpy as np
from data import COLOURS, Ids
from numpy.typing import NDArray

Strengths = tuple[float, ...]
TRIED = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def uniform() -> float:
    """Every colour equally likely."""
    return float(np.log2(COLOURS))


class Position:
    """One distribution a position, drawn towards the distribution of all pixels."""

    def __init__(self, ids: Ids, weight: NDArray[np.float64]) -> None:
        """Count the training pictures ``ids`` (N, H, W), each with its weight (mean 1)."""
        flat, mass = ids.reshape(len(ids), -1), np.repeat(weight[:, None], ids[0].size, 1)
        self.counts = np.zeros((flat.shape[1], COLOURS))
        np.add.at(self.counts, (np.arange(flat.shape[1])[None], flat), mass)
        self.colour = (self.counts.sum(0) + 0.5) / (self.counts.sum() + 0.5 * COLOURS)

    def bits(self, ids: Ids, strength: float) -> float:
        """Return bits per pixel of ``ids`` (N, H, W)."""
        total = self.counts.sum(1, keepdims=True)
        chance = (self.counts + strength * self.colour) / (total + strength)
        flat = ids.reshape(len(ids), -1)
        return float(-np.log2(chance[np.arange(flat.shape[1])[None], flat]).mean())


class LeftAbove:
    """p(pixel | left, above), backing off to p(pixel | left), p(pixel | above) mixed, then p(pixel).

    Each level is the counts plus ``strength`` times the level below (interpolated Dirichlet smoothing).
    """

    def __init__(self, ids: Ids, weight: NDArray[np.float64]) -> None:
        """Count the training pictures ``ids`` (N, H, W), each with its weight (mean 1)."""
        pixel, left, above = (a.reshape(-1) for a in neighbours(ids))
        mass = np.repeat(weight, ids[0].size)
        size = COLOURS + 1  # one more for the border
        self.both = np.zeros((size, size, COLOURS))
        np.add.at(self.both, (left, above, pixel), mass)
        self.left, self.above = self.both.sum(1), self.both.sum(0)
        self.colour = (self.left.sum(0) + 0.5) / (self.left.sum() + 0.5 * COLOURS)

    def bits(self, ids: Ids, strengths: tuple[float, float]) -> float:
        """Return bits per pixel of ``ids`` (N, H, W)."""
        pixel, left, above = (a.reshape(-1) for a in neighbours(ids))
        one, two = strengths
        by_left, by_above = (
            (c + one * self.colour) / (c.sum(1, keepdims=True) + one) for c in (self.left, self.above)
        )
        lower = 0.5 * (by_left[left, pixel] + by_above[above, pixel])
        total = self.both.sum(2)[left, above]
        return float(-np.log2((self.both[left, above, pixel] + two * lower) / (total + two)).mean())


def neighbours(ids: Ids) -> tuple[Ids, Ids, Ids]:
    """Return pixels, their left and their above neighbours; ``COLOURS`` stands for the border."""
    left, above = np.full_like(ids, COLOURS), np.full_like(ids, COLOURS)
    left[:, :, 1:], above[:, 1:] = ids[:, :, :-1], ids[:, :-1]
    return ids, left, above


def compare(train: Ids, weight: NDArray[np.float64], dev: Ids, held_out: Ids) -> dict[str, float]:
    """Fit on ``train``, tune the smoothing on ``dev``, return bits per pixel of ``held_out``."""
    position, pair = Position(train, weight), LeftAbove(train, weight)
    strength = min(TRIED, key=lambda s: position.bits(dev, s))
    both = min(((a, b) for a in TRIED for b in TRIED), key=lambda s: pair.bits(dev, s))
    return {
        "uniform": uniform(),
        "per_position": position.bits(held_out, strength),
        "left_and_above": pair.bits(held_out, both),
    }
