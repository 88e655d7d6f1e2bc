"""From scores to what a step reports: probabilities, entropies, rank, candidates. Exact, from what ran."""

from __future__ import annotations

import math
from collections.abc import Callable
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


def process(raw: torch.Tensor, rows: Rows, stages: tuple[Stage, ...], top: int) -> Processed:
    """Run the pipeline on raw logits (B, V), noting which stage kills which of the `top` likeliest tokens."""
    # Logits that a stage is to repair are shown repaired.
    seen = torch.nan_to_num(raw) if any(stage.name == "remove_invalid_values" for stage in stages) else raw
    top_ids = torch.topk(seen, min(top, raw.shape[-1]), dim=-1).indices
    killed_by = torch.full_like(top_ids, -1, dtype=torch.int8)
    scores = raw
    for index, stage in enumerate(stages):
        scores = stage.fn(rows, scores)
        dead = torch.gather(scores, 1, top_ids).isneginf() & (killed_by < 0)
        killed_by[dead] = index
    return Processed(seen, scores, top_ids, killed_by, stages)


@dataclass(frozen=True)
class Observation:
    """The numbers of one row's step."""

    logprob: float
    final_logprob: float
    entropy_bits: float
    final_entropy_bits: float
    rank: int
    top: Candidates


def observe(processed: Processed, row: int, token_id: int, piece: Callable[[int], str]) -> Observation:
    """What row `row` chose and what it chose from. Logarithms are natural, entropies in bits.

    Few and small operations: after a forward pass each one finds the processor's caches cold.
    """
    raw = processed.raw[row]  # (V,)
    unchanged = processed.final is processed.raw
    logprobs = torch.log_softmax(raw, dim=-1)
    entropy = _entropy_bits(logprobs)
    finals = logprobs if unchanged else torch.log_softmax(processed.final[row], dim=-1)
    final_entropy = entropy if unchanged else _entropy_bits(finals)
    ids, killed_by = _with_chosen(processed, row, token_id)  # (K,)
    # One copy to the host for everything.
    gathered = [raw[ids], logprobs[ids], finals[ids], entropy[None], final_entropy[None]]
    packed = torch.cat(gathered).cpu().numpy()
    columns = packed[:-2].reshape(3, -1)
    host_ids = ids.cpu().numpy()
    chosen = int(np.flatnonzero(host_ids == token_id)[0])
    shown = slice(None) if processed.top_ids.shape[1] else slice(0)
    return Observation(
        logprob=float(columns[1, chosen]),
        final_logprob=float(columns[2, chosen]),
        entropy_bits=float(packed[-2]),
        final_entropy_bits=float(packed[-1]),
        rank=_rank(raw, host_ids, columns[0], chosen),
        top=_candidates(
            host_ids[shown], columns[1, shown], columns[2, shown], killed_by[shown], processed.stages, piece
        ),
    )


def _entropy_bits(logprobs: torch.Tensor) -> torch.Tensor:
    # Tokens ruled out have -inf; bounded, they add 0 · -1e4 = 0.
    return torch.dot(logprobs.exp(), logprobs.clamp(min=-1e4)) / -_LN2


def _rank(raw: torch.Tensor, ids: NDArray[np.int64], values: FloatArray, chosen: int) -> int:
    """Tokens before the chosen one by raw logit, equals by id; among the top ones alone where these decide it."""
    own, token_id = values[chosen], int(ids[chosen])
    if own > values[-1]:  # everything larger or equal is among the top ones
        return int(np.count_nonzero(values > own) + np.count_nonzero((values == own) & (ids < token_id)))
    return int(torch.count_nonzero(raw > raw[token_id]) + torch.count_nonzero(raw[:token_id] == raw[token_id]))


def _with_chosen(processed: Processed, row: int, token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row's top ids and killers, the chosen token appended if it is not among them."""
    ids, killed_by = processed.top_ids[row], processed.killed_by[row]
    if bool((ids == token_id).any()):
        return ids, killed_by
    return torch.cat([ids, ids.new_tensor([token_id])]), torch.cat([killed_by, killed_by.new_tensor([-1])])


def _candidates(
    ids: NDArray[np.int64],
    logprob: FloatArray,
    final_logprob: FloatArray,
    killed_by: torch.Tensor,
    stages: tuple[Stage, ...],
    piece: Callable[[int], str],
) -> Candidates:
    killers = killed_by.cpu().numpy()
    for array in (ids, logprob, final_logprob, killers):
        array.flags.writeable = False
    pieces = tuple(piece(i) for i in ids.tolist())
    return Candidates(ids, pieces, logprob, final_logprob, killers, tuple(stage.name for stage in stages))
