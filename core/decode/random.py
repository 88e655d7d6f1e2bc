"""Explicit randomness: u = f(seed, row, position, purpose, k, reroll), nothing else.

Counter-based (Philox 4×64, Salmon et al. 2011, in numpy), so a fork or a replay draws the same numbers, rows
differ, and "another try" is reroll + 1. The token is the inverse of the cumulative distribution, in float64,
over kept tokens by descending probability, ties by id.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

HEAD = 256  # the likeliest tokens, searched first


class Purpose(IntEnum):
    """What a draw is for; different purposes never share a number."""

    TOKEN = 0
    DRAFT = 1
    ACCEPT = 2


def uniform(seed: int, row: int, position: int, purpose: Purpose = Purpose.TOKEN, k: int = 0, reroll: int = 0) -> float:
    """A number in [0, 1), float64, the same on every machine."""
    counter = [row, position, (int(purpose) << 32) | k, reroll]
    bits = np.random.Philox(key=seed & (2**128 - 1), counter=np.array(counter, dtype=np.uint64)).random_raw()
    return float((int(bits) >> 11) * 2.0**-53)


def inverse_cdf(scores: torch.Tensor, u: float) -> int:
    """The token that `u` falls on, for processed scores (V,) with -inf for killed tokens."""
    probabilities = torch.softmax(scores.double(), dim=-1)  # (V,)
    head = min(HEAD, probabilities.shape[0])
    values = torch.topk(probabilities, head).values
    if u < float(values[:-1].sum()):
        # All tokens at least as likely as the head's last, so that ties are complete.
        ids = torch.nonzero(probabilities >= values[-1]).squeeze(-1)
    else:
        ids = torch.nonzero(probabilities > 0).squeeze(-1)
    return _pick(ids.cpu().numpy(), probabilities[ids].cpu().numpy(), u)


def _pick(ids: NDArray[np.int64], probabilities: NDArray[np.float64], u: float) -> int:
    order = np.lexsort((ids, -probabilities))
    cumulative = np.cumsum(probabilities[order])
    place = int(np.searchsorted(cumulative, u, side="right"))
    return int(ids[order[min(place, len(order) - 1)]])
