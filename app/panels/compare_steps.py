"""What is known of a comparison, token by token: asked for in portions, kept in columns that grow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.state import twins
from app.state.twins import Pair
from core.contract import CompareAnswer, CompareAttentionQuery, CompareQuery

STEPS_SLOT = "compare.steps"
PORTION = 48  # tokens in one question
GRID = 400  # cells of the map of attention, at most


class ComparedSteps:
    """Columns by step, from `start` on, the first position that is compared. NaN where core had no answer."""

    def __init__(self) -> None:
        self.key: object = None
        self.start = 0
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._kl_bits: NDArray[np.float64] = np.empty(256)
        self._probability: NDArray[np.float64] = np.empty((256, 2, 2))

    def follow(self, pair: Pair, final: bool) -> bool:
        """Whether other branches, or another kind of distribution, are compared from now on."""
        key = (pair.key, final)
        if key == self.key:
            return False
        self.key = key
        self._clear()
        parted = twins.first_difference(pair)
        own = min(pair.first.prompt_tokens, pair.second.prompt_tokens)
        self.start = max(1, own if parted is None else min(own, parted))
        return True

    def query(self, pair: Pair, final: bool) -> CompareQuery | None:
        """The next portion, or the few new ones; None where all is known."""
        begin, stop = self.start + self.count, common(pair)
        if begin >= stop:
            return None
        first, second = pair.first, pair.second
        return CompareQuery(
            first.run_id,
            second.branch_id,
            (begin, min(stop, begin + PORTION)),
            final,
            second.row,
            first.row,
            first.branch_id,
        )

    def take(self, answer: CompareAnswer) -> None:
        """Add what was asked for; anything else is left out."""
        begin, stop = answer.positions
        if begin != self.start + self.count:
            return
        self._room(stop - self.start)
        place = slice(self.count, stop - self.start)
        self._kl_bits[place], self._probability[place] = answer.kl_bits, answer.probability
        self.count = stop - self.start

    def skip(self, position: int) -> bool:
        """Begin at this position, because there is nothing to be had before; False where that changes nothing."""
        count = position - self.start
        if count <= self.count:
            return False
        self._room(count)
        self._kl_bits[self.count : count], self._probability[self.count : count] = np.nan, np.nan
        self.count = count
        return True

    def _room(self, count: int) -> None:
        while count > len(self._kl_bits):
            self._kl_bits = np.concatenate([self._kl_bits, np.empty_like(self._kl_bits)])
            self._probability = np.concatenate([self._probability, np.empty_like(self._probability)])

    @property
    def kl_bits(self) -> NDArray[np.float64]:
        """KL(first ‖ second) in bits, infinite where the second rules out what the first keeps."""
        return self._kl_bits[: self.count]

    @property
    def probability(self) -> NDArray[np.float64]:
        """(steps, token of, side): of each side's token in each side's distribution."""
        return self._probability[: self.count]

    @property
    def change(self) -> NDArray[np.float64]:
        """How much likelier the first side's token is in the second side's distribution."""
        return np.asarray(self.probability[:, 0, 1] - self.probability[:, 0, 0])


def common(pair: Pair) -> int:
    """Positions that both have, prompt included."""
    ends = (run.prompt_tokens + run.count for run in (pair.first, pair.second))
    return min(ends)


def map_query(pair: Pair, layer: int, heads: tuple[int, ...] | None, reduce: str | None) -> CompareAttentionQuery:
    """The difference of attention of all positions that both have, in cells as small as there is room for."""
    first, second = pair.first, pair.second
    stop = max(1, common(pair) - 1)
    factor = 1
    while -(-stop // factor) > GRID:
        factor *= 2
    pool = None if factor == 1 else (-(-stop // factor), -(-stop // factor))
    return CompareAttentionQuery(
        first.run_id,
        second.branch_id,
        layer,
        heads,
        reduce,
        (0, stop),
        pool,
        second.row,
        first.row,
        first.branch_id,
    )
