"""What an intervention would change at one position, and tokens watched over many."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import torch

from core.contract.acting import (
    WATCHED_AT_ONCE,
    InterventionAnswer,
    InterventionQuery,
    WatchAnswer,
    WatchQuery,
)
from core.contract.errors import TokenglassError, ViewUnavailableError
from core.contract.snapshot import FloatArray
from core.trace.reading import residuals
from core.trace.recording import Recording, Strand

SLICE_LOGITS = 1 << 19  # computed between two looks at the clock: some milliseconds


def derive_intervention(recording: Recording, query: InterventionQuery) -> Generator[None, None, InterventionAnswer]:
    """Before as it was recorded, after from one more pass. Raises `ViewUnavailableError`."""
    recording.require("distribution")
    strand = recording.strand(query)
    position, stop = recording.span(strand, (query.position, query.position + 1))
    try:
        read = residuals(recording.recorded(), strand, recording.info.layers, position, stop)[0]  # (E,)
    except ViewUnavailableError as problem:
        if not problem.can_recompute:
            raise
        trace, again = recording.recompute(strand, position, stop)
        read = residuals(trace, again, recording.info.layers, position, stop)[0]
    logits = recording.anatomy.read_out(read)  # (V,)
    yield
    changed = recording.preview(strand, position, query.interventions)
    yield
    before, after = (torch.log_softmax(scores, dim=-1) for scores in (logits, changed))
    larger = torch.maximum(before, after)
    ids = torch.topk(larger, min(query.top, larger.shape[-1])).indices  # (K,)
    finals = _finals(recording, strand, position, (logits, changed))
    known = (before.exp() * (before.clamp(min=-1e4) - after.clamp(min=-1e4))).sum()
    host = ids.cpu().numpy()
    host.flags.writeable = False
    return InterventionAnswer(
        query,
        host,
        tuple(map(recording.piece, host.tolist())),
        _plain(before[ids]),
        _plain(after[ids]),
        None if finals is None else _plain(finals[0][ids]),
        None if finals is None else _plain(finals[1][ids]),
        _entropy_bits(before),
        _entropy_bits(after),
        max(0.0, float(known)) / math.log(2.0),
    )


def _finals(
    recording: Recording, strand: Strand, position: int, both: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ...] | None:
    try:
        scores = [recording.final_scores(strand, position, logits) for logits in both]
    except TokenglassError:  # a stage that depends on more than the tokens, or a mode that chooses beams together
        return None
    return tuple(torch.log_softmax(one, dim=-1) for one in scores)


def _entropy_bits(logprobs: torch.Tensor) -> float:
    return float(torch.special.entr(logprobs.exp()).sum()) / math.log(2.0)


def derive_watch(recording: Recording, query: WatchQuery) -> Generator[None, None, WatchAnswer]:
    """Read out of the recorded residuals, some positions at a time. Raises `ViewUnavailableError`."""
    recording.require("distribution")
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.positions)
    stop = min(stop, start + WATCHED_AT_ONCE)
    width = recording.info.output_size
    token_ids = tuple(_token(recording, one, width) for one in query.tokens)
    if not token_ids:
        raise ViewUnavailableError("No token is watched; name one by its text or its id.")
    at_once, trace = max(1, SLICE_LOGITS // width), recording.recorded()
    logprob: list[FloatArray] = []
    rank = []
    for begin in range(start, stop, at_once):
        end = min(begin + at_once, stop)
        stream = residuals(trace, strand, recording.info.layers, begin, end)  # (n, E)
        logprobs = torch.log_softmax(recording.anatomy.read_out(stream), dim=-1)  # (n, V)
        own = logprobs[:, list(token_ids)]  # (n, K)
        logprob.append(own.T.cpu().numpy())
        rank.append(torch.stack([_rank(logprobs, own[:, k], i) for k, i in enumerate(token_ids)]).cpu().numpy())
        yield
    joined, ranks = np.concatenate(logprob, axis=1), np.concatenate(rank, axis=1)
    joined.flags.writeable = ranks.flags.writeable = False
    return WatchAnswer(query, token_ids, tuple(map(recording.piece, token_ids)), (start, stop), joined, ranks)


def _token(recording: Recording, one: int | str, width: int) -> int:
    """The id that is meant. Raises `ViewUnavailableError` where there is none."""
    if isinstance(one, str):
        ids = recording.encode(one)
        if not ids:
            raise ViewUnavailableError(f"“{one}” is no token of {recording.info.title}; write another text or an id.")
        return ids[0]
    if not 0 <= one < width:
        raise ViewUnavailableError(f"There is no token {one}; ids of {recording.info.title} end at {width - 1}.")
    return one


def _rank(logprobs: torch.Tensor, own: torch.Tensor, token_id: int) -> torch.Tensor:
    """(n,): tokens before this one by probability, equals by id, as in snapshots."""
    above = torch.count_nonzero(logprobs > own[:, None], dim=-1)
    return above + torch.count_nonzero(logprobs[:, :token_id] == own[:, None], dim=-1)


def _plain(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.float().cpu().numpy()
    array.flags.writeable = False
    return array
