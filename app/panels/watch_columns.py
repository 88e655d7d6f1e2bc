"""What is known of the watched tokens, step by step, and what is asked for next. No Qt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.state import select
from app.state.acting_state import Pin
from app.state.run import RunView
from core.contract import WatchAnswer, WatchQuery

PORTION_LIVE, PORTION_IDLE = 16, 256  # positions of one answer


class WatchColumn:
    """One token: probability and rank at each step, NaN where nothing is known yet; the first `done` steps are."""

    def __init__(self, pin: Pin) -> None:
        self.pin = pin
        self.piece = pin.piece
        self.token_id: int | None = pin.token if isinstance(pin.token, int) else None
        self.done = 0
        self._probability = np.full(64, np.nan)
        self._rank = np.full(64, np.nan)

    def probability(self, count: int) -> NDArray[np.float64]:
        """(count,), in [0, 1]."""
        self._fit(count)
        return self._probability[:count]

    def rank(self, count: int) -> NDArray[np.float64]:
        """(count,), 0 = likeliest."""
        self._fit(count)
        return self._rank[:count]

    def _fit(self, count: int) -> None:
        if count > len(self._probability):
            more = np.full(max(count, 2 * len(self._probability)) - len(self._probability), np.nan)
            self._probability = np.concatenate([self._probability, more])
            self._rank = np.concatenate([self._rank, more])

    def take(self, first: int, logprob: NDArray[np.float32], rank: NDArray[np.int64]) -> None:
        """Steps from `first` on."""
        stop = first + len(logprob)
        self._fit(stop)
        self._probability[first:stop] = np.exp(logprob.astype(np.float64))
        self._rank[first:stop] = rank
        self.done = max(self.done, stop)

    def skip(self, first: int) -> None:
        """Steps before `first` can't be known any more."""
        self.done = max(self.done, first)


class WatchColumns:
    """The columns of all watched tokens of one sequence."""

    def __init__(self) -> None:
        self.columns: list[WatchColumn] = []
        self.version = 0
        self._turn = 0

    def restart(self, pins: tuple[Pin, ...]) -> None:
        """Another sequence: nothing is known."""
        self.columns = [WatchColumn(pin) for pin in pins]
        self.version += 1

    def follow(self, pins: tuple[Pin, ...]) -> None:
        """Other tokens of the same sequence; those that stay keep what is known."""
        if [column.pin for column in self.columns] == list(pins):
            return
        known = {column.pin: column for column in self.columns}
        self.columns = [known.get(pin) or WatchColumn(pin) for pin in pins]
        self.version += 1

    def take(self, run: RunView, answer: WatchAnswer) -> None:
        """An answer about some of them."""
        first = answer.positions[0] - select.query_position(run, 0)
        by_token = {column.pin.token: column for column in self.columns}
        for k, token in enumerate(answer.query.tokens):
            column = by_token.get(token)
            if column is not None:
                column.take(first, answer.logprob[k], answer.rank[k])
                column.token_id, column.piece = answer.token_ids[k], answer.pieces[k]
        self.version += 1

    def skip(self, tokens: tuple[int | str, ...], first: int) -> None:
        """The records of steps before `first` were dropped."""
        for column in self.columns:
            if column.pin.token in tokens:
                column.skip(first)

    def query(self, run: RunView, live: bool) -> WatchQuery | None:
        """The steps that are missing: in turn those of the tokens that lag behind, and of the others the newest."""
        missing = sorted({column.done for column in self.columns if column.done < run.count})
        if not missing:
            return None
        self._turn += 1
        done = missing[0] if self._turn % 2 else missing[-1]
        tokens = tuple(column.pin.token for column in self.columns if column.done == done)
        start = select.query_position(run, done)
        stop = min(start + (PORTION_LIVE if live else PORTION_IDLE), select.query_position(run, run.count))
        return WatchQuery(run.run_id, tokens, (start, stop), **run.place.named)
