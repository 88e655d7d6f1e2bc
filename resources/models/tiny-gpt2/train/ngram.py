"""An interpolated modified Kneser-Ney trigram, the baseline that tiny-gpt2 must beat."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Level(NamedTuple):
    """The counts of one order: of its n-grams and of their contexts."""

    grams: Ints
    counts: Ints
    contexts: Ints
    totals: Floats
    kinds: Floats


class KneserNeyTrigram:
    """Counts of the stories' trigrams, with continuation counts below.

    A story is <eos> text <eos>; a further <eos> in front completes the first context.
    The discounts are a 3 x 3 array: for orders 3, 2, 1 those of the counts 1, 2 and more.
    """

    def __init__(self, stories: list[list[int]], vocab_size: int) -> None:
        """Count the trigrams of the stories and the continuation counts below them."""
        self.vocab_size = vocab_size
        grams, counts = np.unique(self._codes(stories), return_counts=True)
        self.levels = [self._level(grams, counts)]
        for order in (2, 1):
            grams, counts = np.unique(grams % vocab_size**order, return_counts=True)
            self.levels.append(self._level(grams, counts))

    def _codes(self, stories: list[list[int]]) -> Ints:
        """Encode every predicted token with its two-token context as one integer."""
        parts = []
        for story in stories:
            ids = np.array([story[0], *story], dtype=np.int64)
            parts.append((ids[:-2] * self.vocab_size + ids[1:-1]) * self.vocab_size + ids[2:])
        return np.concatenate(parts)

    def _level(self, grams: Ints, counts: Ints) -> Level:
        """Sum the counts by context, and count each context's n-grams seen 1, 2, 3+ times."""
        contexts, where = np.unique(grams // self.vocab_size, return_inverse=True)
        kinds = [
            np.bincount(where, np.minimum(counts, 3) == kind, len(contexts)) for kind in (1, 2, 3)
        ]
        totals = np.bincount(where, counts, len(contexts))
        return Level(grams, counts, contexts, totals.astype(float), np.stack(kinds, axis=1))

    def _features(self, stories: list[list[int]]) -> list[tuple[Floats, Floats, Floats]]:
        """Look up every predicted token: its count, context total and context kinds."""
        codes = self._codes(stories)
        found = []
        for level, order in zip(self.levels, (3, 2, 1), strict=True):
            grams = codes % self.vocab_size**order
            at = np.minimum(np.searchsorted(level.grams, grams), len(level.grams) - 1)
            counts = np.where(level.grams[at] == grams, level.counts[at], 0).astype(float)
            contexts = grams // self.vocab_size
            at = np.minimum(np.searchsorted(level.contexts, contexts), len(level.contexts) - 1)
            known = level.contexts[at] == contexts
            totals = np.where(known, level.totals[at], 0.0)
            found.append((counts, totals, level.kinds[at]))
        return found

    def _loss(self, features: list[tuple[Floats, Floats, Floats]], discounts: Floats) -> float:
        """Interpolate from the uniform distribution up to the trigram; mean of -log p."""
        p = np.full(len(features[0][0]), 1.0 / self.vocab_size)
        for (counts, totals, kinds), discount in zip(features[::-1], discounts[::-1], strict=True):
            cut = np.concatenate([[0.0], discount])[np.minimum(counts, 3).astype(int)]
            mixed = (counts - cut + kinds @ discount * p) / np.maximum(totals, 1.0)
            p = np.where(totals > 0, mixed, p)
        return float(-np.log(p).mean())

    def loss(self, stories: list[list[int]], discounts: Floats) -> float:
        """Return nats per token over the stories' text and final <eos>."""
        return self._loss(self._features(stories), discounts)

    def tune(self, stories: list[list[int]], rounds: int = 4) -> Floats:
        """Find the discounts with the least loss on these stories, one at a time."""
        features = self._features(stories)
        discounts = np.array([[0.6, 1.0, 1.3]] * 3)
        for _ in range(rounds):
            for order, kind in np.ndindex(3, 3):
                losses = []
                values = np.linspace(0.05, kind + 1.0, 20 * (kind + 1))
                for value in values:
                    discounts[order, kind] = value
                    losses.append(self._loss(features, discounts))
                discounts[order, kind] = values[int(np.argmin(losses))]
        return discounts
