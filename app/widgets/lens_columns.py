"""What is known of the logit lens: one column a position, kept as it arrives. No Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.state.texts import tr
from app.theme.colormaps import indices
from core.contract import LensAnswer

LensColour = Literal["probability", "rank", "KL"]
COLOURS: tuple[LensColour, ...] = ("probability", "rank", "KL")
RANK_TOP, KL_TOP_BITS = 1000.0, 12.0  # the dark ends of the scales


def stream_name(row: int, layers: int) -> str:
    """What a row of the lens is called: row 0 is the stream before any layer, row k that after layer k - 1."""
    return tr("in") if row == 0 else tr("out") if row == layers else str(row - 1)


def stream_words(row: int, layers: int) -> str:
    """The same in a sentence."""
    if row == 0:
        return tr("the input, before layer 0")
    return tr("the output, after layer {0}").format(row - 1) if row == layers else tr("after layer {0}").format(row - 1)


@dataclass(frozen=True, slots=True, eq=False)
class LensColumn:
    """One position; arrays as in `LensAnswer` without its first axis."""

    token_ids: NDArray[np.int64]  # (L + 1, K)
    logprob: NDArray[np.float32]
    rank: NDArray[np.int64]  # (L + 1,)
    final_logprob: NDArray[np.float32]
    kl_bits: NDArray[np.float32]
    commit: int

    def levels(self, by: LensColour) -> NDArray[np.intp]:
        """(L + 1,) indices of the token map; bright is certain, or close to the final layer."""
        if by == "probability":
            return indices(np.exp(self.logprob[:, 0]))
        if by == "rank":
            return indices(1.0 - np.log1p(self.rank) / math.log1p(RANK_TOP))
        return indices(1.0 - self.kl_bits / KL_TOP_BITS)


class LensColumns:
    """Columns by position, and the text of every token id among them."""

    def __init__(self) -> None:
        self.by_position: dict[int, LensColumn] = {}
        self.pieces: dict[int, str] = {}
        self.version = 0  # grows with every change

    def clear(self) -> None:
        """Nothing is known."""
        self.by_position.clear()
        self.pieces.clear()
        self.version += 1

    def take(self, answer: LensAnswer) -> None:
        """Keep the columns of an answer."""
        self.pieces.update(answer.pieces)
        for i, position in enumerate(range(*answer.positions)):
            self.by_position[position] = LensColumn(
                answer.token_ids[i],
                answer.logprob[i],
                answer.rank[i],
                answer.final_logprob[i],
                answer.kl_bits[i],
                int(answer.commit[i]),
            )
        self.version += 1

    def missing(self, start: int, stop: int, most: int) -> tuple[int, int] | None:
        """The first positions in [start, stop) that are not there, at most so many in a row."""
        first = next((p for p in range(start, stop) if p not in self.by_position), None)
        if first is None:
            return None
        last = first
        while last < min(stop, first + most) and last not in self.by_position:
            last += 1
        return first, last


def colour_ends(by: LensColour) -> tuple[str, str]:
    """The values at the dark and the bright end of the legend."""
    return {"probability": ("0", "1"), "rank": (f"≥ {RANK_TOP:g}", "0"), "KL": (f"≥ {KL_TOP_BITS:g} bits", "0")}[by]
