"""Hypotheses: the beams of a search that ended, of which the best are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

from core.contract.params import GenerationParams
from core.decode.rows import Row


def length_score(log_probability: float, length: int, penalty: float) -> float:
    """The sum of log-probabilities divided by length ** penalty, its limits where that is out of range."""
    try:
        return float(log_probability / length**penalty)
    except OverflowError:
        return -0.0
    except ZeroDivisionError:
        return log_probability * math.inf


class Pool:
    """The best `size` hypotheses so far; `done` once the search that fills it is over."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: list[Row] = []
        self.done = False

    @property
    def full(self) -> bool:
        """Whether there are as many as are kept."""
        return len(self.rows) == self.size

    @property
    def worst(self) -> float:
        """The lowest score of those kept."""
        return min(map(_score, self.rows))

    def add(self, row: Row) -> bool:
        """Keep this hypothesis, and forget the worst one where there are too many; whether it was kept."""
        if self.full and not _score(row) > self.worst:
            return False
        self.rows.append(row)
        if len(self.rows) > self.size:
            del self.rows[min(range(len(self.rows)), key=lambda place: _score(self.rows[place]))]
        return True

    def cannot_improve(self, best: float, length: int, longest: int, params: GenerationParams) -> bool:
        """Whether the search is over, judged as `BeamSearchScorer` (transformers 4.51) does.

        best: sum of log-probabilities of the likeliest continuation, of `length` tokens; it may grow to `longest`.
        """
        if not self.full:
            return False
        if params.early_stopping is True:
            return True
        return self.worst >= attainable(best, length, longest, params)


def attainable(best: float, length: int, longest: int, params: GenerationParams) -> float:
    """The score that a running beam is taken to reach: at its present length, or with “never” the most there can be."""
    far = params.early_stopping == "never" and params.length_penalty > 0
    return length_score(best, longest if far else length, params.length_penalty)


def best_first(pools: Iterable[Pool]) -> list[Row]:
    """All kept hypotheses; of equal ones the later."""
    return sorted((row for pool in pools for row in pool.rows), key=_score)[::-1]


def _score(row: Row) -> float:
    assert row.score is not None
    return row.score
