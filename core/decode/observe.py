"""From scores to what a step reports: probabilities, entropies, rank, candidates. Exact, from what ran."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.contract.snapshot import Candidates, FloatArray
from core.decode.pipeline import Rows, Stage

_LN2 = math.log(2.0)


@dataclass(frozen=True)
class Processed:
    """One step of all rows after the pipeline. `killed_by` (B, K): first stage that left -inf, -1 for the living."""

    raw: torch.Tensor  # (B, V) float32
    final: torch.Tensor  # (B, V) float32, -inf for killed tokens
    top_ids: torch.Tensor  # (B, K) by raw logit, descending
    killed_by: torch.Tensor  # (B, K) int8
    stages: tuple[Stage, ...]
    normalised: bool = False  # `raw` are log-probabilities


def process(raw: torch.Tensor, rows: Rows, stages: tuple[Stage, ...], top: int, normalised: bool = False) -> Processed:
    """Run the pipeline on raw logits (B, V), noting which stage kills which of the `top` likeliest tokens.

    normalised: they are log-probabilities.
    """
    # Logits that a stage is to repair are shown repaired.
    seen = torch.nan_to_num(raw) if any(stage.name == "remove_invalid_values" for stage in stages) else raw
    top_ids = torch.topk(seen, min(top, raw.shape[-1]), dim=-1).indices
    killed_by = torch.full_like(top_ids, -1, dtype=torch.int8)
    scores = raw
    for index, stage in enumerate(stages):
        scores = stage.fn(rows, scores)
        dead = torch.gather(scores, 1, top_ids).isneginf() & (killed_by < 0)
        killed_by[dead] = index
    return Processed(seen, scores, top_ids, killed_by, stages, normalised)


@dataclass(frozen=True)
class Observation:
    """The numbers of one row's step."""

    logprob: float
    final_logprob: float
    entropy_bits: float
    final_entropy_bits: float
    rank: int
    top: Candidates


def observe(
    processed: Processed, rows: Sequence[int], token_ids: Sequence[int], piece: Callable[[int], str]
) -> list[Observation]:
    """What each lane chose, `token_ids[k]` in row `rows[k]`, and what it chose from: L lanes, K candidates.

    Logarithms are natural, entropies in bits. Few operations, on all rows at once: after a forward pass each one
    finds the processor's caches cold.
    """
    raw, unchanged = processed.raw, processed.final is processed.raw
    logprobs = raw if processed.normalised else torch.log_softmax(raw, dim=-1)  # (B, V)
    finals = logprobs if unchanged else torch.log_softmax(processed.final, dim=-1)
    entropy = _entropy_bits(logprobs)  # B
    final_entropy = entropy if unchanged else _entropy_bits(finals, some_out=True)
    places, chosen = np.array(rows, dtype=np.int64)[:, None], np.array(token_ids, dtype=np.int64)[:, None]  # (L, 1)
    ids = np.concatenate([processed.top_ids.cpu().numpy()[places[:, 0]], chosen], axis=1)  # (L, K + 1)
    scores = _at((raw, logprobs, finals), places, ids)
    killers = processed.killed_by.cpu().numpy()[places[:, 0]]  # (L, K)
    seen = []
    for lane, (row, token_id) in enumerate(zip(rows, token_ids, strict=True)):
        logprob, final_logprob = scores[lane, 1:, -1].tolist()
        seen.append(
            Observation(
                logprob=logprob,
                final_logprob=final_logprob,
                entropy_bits=entropy[row],
                final_entropy_bits=final_entropy[row],
                rank=_rank(raw[row], ids[lane], scores[lane, 0], token_id),
                top=_candidates(ids[lane], scores[lane, 1:], killers[lane], processed.stages, piece),
            )
        )
    return seen


def _entropy_bits(logprobs: torch.Tensor, some_out: bool = False) -> list[float]:
    """Of each row (B, V). some_out: of tokens that are ruled out there are probably some."""
    # Those have -inf; bounded, they add 0 · -1e4 = 0.
    factors = logprobs.clamp(min=-1e4) if some_out else logprobs
    products: list[float] = torch.bmm(logprobs.exp()[:, None], factors[:, :, None]).flatten().tolist()
    if not some_out and any(map(math.isnan, products)):
        return _entropy_bits(logprobs, some_out=True)
    return [product / -_LN2 for product in products]


def _at(parts: Sequence[torch.Tensor], places: NDArray[np.int64], ids: NDArray[np.int64]) -> FloatArray:
    """(L, parts, K + 1) numbers of each part (B, V), in rows `places` (L, 1) at `ids` (L, K + 1)."""
    if parts[0].device.type != "cpu":
        flat = torch.from_numpy(ids + places * parts[0].shape[-1]).to(parts[0].device)
        return torch.stack([part.take(flat) for part in parts], dim=1).cpu().numpy()
    return np.stack([part.numpy()[places, ids] for part in parts], axis=1)  # the same memory, nothing to move


def _rank(raw: torch.Tensor, ids: NDArray[np.int64], values: FloatArray, token_id: int) -> int:
    """Tokens before the chosen one (the last of `ids`) by raw logit, equals by id.

    Among the top ones alone, where these decide it.
    """
    own, top = values[-1], values[:-1]
    if len(top) and own > top[-1]:  # everything larger or equal is among the top ones
        return int(np.count_nonzero(top > own) + np.count_nonzero((top == own) & (ids[:-1] < token_id)))
    own = float(own)
    reached = int(torch.count_nonzero(raw >= own))
    return reached - int(torch.count_nonzero(raw[token_id:] == own)) if reached > 1 else 0


def _candidates(
    ids: NDArray[np.int64],
    scores: FloatArray,
    killed_by: NDArray[np.int8],
    stages: tuple[Stage, ...],
    piece: Callable[[int], str],
) -> Candidates:
    """The top ones; the chosen one, which is the last of `ids` (K + 1,) and `scores` (2, K + 1), once."""
    count = len(ids) - 1
    if count and ids[-1] not in ids[:-1]:
        count, killed_by = len(ids), np.append(killed_by, np.int8(-1))
    arrays = ids[:count], scores[0, :count], scores[1, :count], killed_by
    for array in arrays:
        array.flags.writeable = False
    pieces = tuple(piece(i) for i in arrays[0].tolist())
    return Candidates(arrays[0], pieces, arrays[1], arrays[2], arrays[3], tuple(stage.name for stage in stages))
