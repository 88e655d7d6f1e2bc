"""Explicit randomness: u = f(seed, row, position, purpose, k, reroll), nothing else.

Counter-based (Philox 4×64, Salmon et al. 2011, in numpy), so a fork or a replay draws the same numbers, rows
differ, and "another try" is reroll + 1. The token is the inverse of the cumulative distribution, in float64,
over kept tokens by descending probability, ties by id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

HEAD = 256  # the likeliest tokens, searched first
_MOST_SELECTED = 16  # selecting more than one in so many takes longer than sorting all
_SORTED_AT_ONCE = 1 << 14  # scores; of fewer, sorting all is faster than looking for the likeliest
_LEAST_LEFT = 1e-6
_BLOCK = 4  # numbers that Philox makes of one counter


class Purpose(IntEnum):
    """What a draw is for; different purposes never share a number."""

    TOKEN = 0
    DRAFT = 1
    ACCEPT = 2
    BEAM = 3


def uniform(seed: int, row: int, position: int, purpose: Purpose = Purpose.TOKEN, k: int = 0, reroll: int = 0) -> float:
    """A number in [0, 1), float64, the same on every machine."""
    counter = [row, position, (int(purpose) << 32) | k, reroll]
    bits = np.random.Philox(key=seed & (2**128 - 1), counter=np.array(counter, dtype=np.uint64)).random_raw()
    return float((int(bits) >> 11) * 2.0**-53)


def uniforms(seed: int, row: int, position: int, purpose: Purpose, count: int, reroll: int = 0) -> list[float]:
    """Several numbers as `uniform` gives one: number k is output k mod 4 of the block whose k is k div 4."""
    numbers: list[float] = []
    for k in range(-(-count // _BLOCK)):
        counter = [row, position, (int(purpose) << 32) | k, reroll]
        bits = np.random.Philox(key=seed & (2**128 - 1), counter=np.array(counter, dtype=np.uint64)).random_raw(_BLOCK)
        numbers += ((bits >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers[:count]


def inverse_cdf(scores: torch.Tensor, u: float) -> int:
    """The token that `u` falls on, for processed scores (V,) with -inf for killed tokens."""
    if scores.shape[0] > _SORTED_AT_ONCE:
        return _of_a_large_vocabulary(scores, u)
    order = _descending(scores)
    weights = _weights(scores, order)
    cumulative = np.cumsum(weights)
    place = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return int(order[min(place, int(np.count_nonzero(weights)) - 1)])


def _of_a_large_vocabulary(scores: torch.Tensor, u: float) -> int:
    """The same where sorting takes long: among the likeliest tokens, unless `u` falls behind those."""
    probabilities = torch.softmax(scores.double(), dim=-1)  # (V,)
    values = torch.topk(probabilities, HEAD).values
    if u < float(values[:-1].sum()):
        # All tokens at least as likely as the head's last, so that ties are complete.
        ids = torch.nonzero(probabilities >= values[-1]).squeeze(-1)
    else:
        ids = torch.nonzero(probabilities > 0).squeeze(-1)
    order = _descending(scores[ids])
    cumulative = np.cumsum(probabilities[ids].cpu().numpy()[order])
    place = int(np.searchsorted(cumulative, u, side="right"))
    return int(ids[int(order[min(place, len(order) - 1)])])


def _weights(scores: torch.Tensor, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of scores (N,) in descending order, the first one's 1."""
    ordered: NDArray[np.float64] = scores.double().cpu().numpy()[order]
    weights: NDArray[np.float64] = np.exp(ordered - ordered[0])
    return weights


def _descending(scores: torch.Tensor) -> NDArray[np.int64]:
    """The places (N,) of scores (N,) in descending order, equal ones in the order they have.

    float32 goes through one sort of whole numbers, score above place: five times as fast as a stable sort.
    """
    if scores.dtype != torch.float32:
        return np.argsort(-scores.double().cpu().numpy(), kind="stable")
    bits = (0.0 - scores.cpu().numpy()).view(np.int32)  # 0 - x, since -x keeps two zeros apart
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # negative floats count downwards
    keys = (ascending.astype(np.int64) << 32) | np.arange(len(bits))
    keys.sort()
    return keys & 0xFFFFFFFF


def draw_without_replacement(scores: torch.Tensor, draws: Sequence[float]) -> list[int]:
    """The places that `draws` fall on, one after the other, each from the distribution of those not taken before.

    scores: (N,), -inf for what cannot be taken. The distribution of the result is that of `torch.multinomial` without
    replacement: successive sampling (Plackett and Luce). Where nothing of any weight is left, the first free place is
    taken.
    """
    size = scores.shape[0]
    if size <= _SORTED_AT_ONCE:
        if not math.isfinite(float(scores.max())):
            return list(range(len(draws)))
        order = _descending(scores)
        taken = _successive(_weights(scores, order), draws, True)
        assert taken is not None  # nothing can fall behind what is complete
        at_once: list[int] = order[taken].tolist()
        return at_once
    return _of_many(scores, draws)


def _of_many(scores: torch.Tensor, draws: Sequence[float]) -> list[int]:
    """The same where sorting takes long: the likeliest ones first, more of them where a draw falls behind those."""
    whole = torch.logsumexp(scores.double(), dim=-1)
    if not math.isfinite(whole):
        return list(range(len(draws)))
    count, size = HEAD, scores.shape[0]
    while True:
        everything = max(count + len(draws), 0 if count == HEAD else count * _MOST_SELECTED) >= size
        looked = scores
        if not everything:
            # Ties are complete, so that their order does not depend on how many are looked at.
            ids = torch.nonzero(scores >= torch.topk(scores, count + len(draws)).values[-1]).squeeze(-1)
            looked = scores[ids]
        order = _descending(looked)
        probabilities = torch.exp(looked.double() - whole).cpu().numpy()
        taken = _successive(probabilities[order], draws, everything)
        if taken is not None:
            places = order[taken]
            found: list[int] = (places if everything else ids.cpu().numpy()[places]).tolist()
            return found
        count *= 8


def _successive(probabilities: NDArray[np.float64], draws: Sequence[float], complete: bool) -> list[int] | None:
    """The places in descending `probabilities`, or None where a draw falls behind them and they are not `complete`.

    What was taken weighs nothing from then on. A draw looks for its block, then within it, so that a draw costs the
    square root of what there is, however many were drawn before.
    """
    size = len(probabilities)
    width = math.isqrt(size) + 1
    weights = np.zeros(width * width)
    weights[:size] = probabilities
    blocks = weights.reshape(width, width)  # rows in turn
    sums = blocks.sum(axis=1)
    left = float(sums.sum()) if complete else 1.0
    free, taken, result = 0, set[int](), list[int]()
    for u in draws:
        ends = np.cumsum(sums)
        at = u * (float(ends[-1]) if complete else left)
        block = int(np.searchsorted(ends, at, side="right"))
        if block == width and not complete:
            return None
        place = size
        if block < width:
            before = float(ends[block - 1]) if block else 0.0
            inner = int(np.searchsorted(np.cumsum(blocks[block]), at - before, side="right"))
            place = block * width + min(inner, width - 1)
        if place >= size or place in taken:  # rounding, or nothing of any weight is left
            while free in taken:
                free += 1
            place = free
        taken.add(place)
        result.append(place)
        left -= float(weights[place])
        if left < _LEAST_LEFT and not complete and len(result) < len(draws):
            return None  # what is left is known too roughly as a difference
        blocks[divmod(place, width)] = 0.0
        sums[place // width] = blocks[place // width].sum()
    return result
