"""From scores to what a step reports: probabilities, entropies, rank, candidates. Exact, from what ran."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from core.contract.snapshot import Candidates, FloatArray
from core.decode.pipeline import Stage

_LN2 = math.log(2.0)


@dataclass(frozen=True)
class Processed:
    """One step of all rows after the pipeline. `killed_by` (B, K): first stage that left -inf, -1 for the living."""

    raw: torch.Tensor  # (B, V) float32
    final: torch.Tensor  # (B, V) float32, -inf for killed tokens
    top_ids: torch.Tensor  # (B, K) by raw logit, descending
    killed_by: torch.Tensor  # (B, K) int8
    stages: tuple[Stage, ...]


def process(raw: torch.Tensor, ids: torch.Tensor, stages: tuple[Stage, ...], top: int) -> Processed:
    """Run the pipeline on raw logits (B, V), noting which stage kills which of the `top` likeliest tokens."""
    top_ids = torch.topk(raw, min(top, raw.shape[-1]), dim=-1).indices
    killed_by = torch.full_like(top_ids, -1, dtype=torch.int8)
    scores = raw
    for index, stage in enumerate(stages):
        scores = stage.fn(ids, scores)
        dead = torch.gather(scores, 1, top_ids).isneginf() & (killed_by < 0)
        killed_by[dead] = index
    return Processed(raw, scores, top_ids, killed_by, stages)


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
    """What row `row` chose and what it chose from. Logarithms are natural, entropies in bits."""
    raw = processed.raw[row]  # (V,)
    logprobs = torch.log_softmax(raw, dim=-1)
    entropy = _entropy_bits(logprobs)
    unchanged = processed.final is processed.raw
    finals = logprobs if unchanged else torch.log_softmax(processed.final[row], dim=-1)
    final_entropy = entropy if unchanged else _entropy_bits(finals)
    own = raw[token_id]
    rank = torch.count_nonzero(raw > own) + torch.count_nonzero(raw[:token_id] == own)
    ids, killed_by = _with_chosen(processed, row, token_id)
    # One copy to the host for everything.
    scalars = torch.stack([logprobs[token_id], finals[token_id], entropy, final_entropy, rank.float()])
    packed = torch.cat([scalars, logprobs[ids], finals[ids]]).cpu().numpy()
    columns = packed[5:].reshape(2, -1)
    return Observation(
        logprob=float(packed[0]),
        final_logprob=float(packed[1]),
        entropy_bits=float(packed[2]),
        final_entropy_bits=float(packed[3]),
        rank=int(packed[4]),  # exact: fp32 holds whole numbers up to 2^24
        top=_candidates(ids, columns[0], columns[1], killed_by, processed.stages, piece),
    )


def _entropy_bits(logprobs: torch.Tensor) -> torch.Tensor:
    # Killed tokens have -inf; bounded, they add 0 · -1e4 = 0. No second logarithm over the vocabulary.
    return torch.dot(logprobs.exp(), logprobs.clamp(min=-1e4)) / -_LN2


def _with_chosen(processed: Processed, row: int, token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row's top ids and killers, the chosen token appended if it is not among them."""
    ids, killed_by = processed.top_ids[row], processed.killed_by[row]
    if ids.numel() == 0 or bool((ids == token_id).any()):
        return ids, killed_by
    return torch.cat([ids, ids.new_tensor([token_id])]), torch.cat([killed_by, killed_by.new_tensor([-1])])


def _candidates(
    ids: torch.Tensor,
    logprob: FloatArray,
    final_logprob: FloatArray,
    killed_by: torch.Tensor,
    stages: tuple[Stage, ...],
    piece: Callable[[int], str],
) -> Candidates:
    host_ids = ids.cpu().numpy()
    killers = killed_by.cpu().numpy()
    for array in (host_ids, logprob, final_logprob, killers):
        array.flags.writeable = False
    pieces = tuple(piece(i) for i in host_ids.tolist())
    return Candidates(host_ids, pieces, logprob, final_logprob, killers, tuple(stage.name for stage in stages))
