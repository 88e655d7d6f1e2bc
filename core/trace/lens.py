"""The logit lens: every layer's residual stream read out as if it were the last one.

nostalgebraist 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import torch

from core.contract.errors import ViewUnavailableError
from core.contract.looking import LensAnswer, LensQuery
from core.contract.snapshot import IntArray
from core.trace.reading import feed_again, residuals
from core.trace.record import Trace
from core.trace.recording import Recording, Strand

SLICE_LOGITS = 1 << 20  # computed between two looks at the clock: ten milliseconds or so; the head is read for each

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def derive_lens(recording: Recording, query: LensQuery) -> Generator[None, None, LensAnswer]:
    """One position after the other, a few layers at a time. Raises `ViewUnavailableError`."""
    recording.require("distribution")
    if query.top < 1:
        raise ViewUnavailableError(f"The lens names at least 1 token a layer, not {query.top}.")
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.positions)
    trace, strand = _trace_for(recording, query, strand, start, stop)
    layers = recording.info.layers
    slices = -(-(layers + 1) * recording.info.vocab_size // SLICE_LOGITS)
    at_once = -(-(layers + 1) // min(layers + 1, slices))
    columns: list[list[Rows]] = []
    for position in range(start, stop):
        stack = torch.stack(
            [residuals(trace, strand, n, position, position + 1)[0] for n in range(layers + 1)]
        )  # (L + 1, E)
        parts: list[Rows] = []
        final: torch.Tensor | None = None
        for stop_at in range(layers + 1, 0, -at_once):  # from the last layer down: all are compared with it
            logprobs = torch.log_softmax(recording.anatomy.read_out(stack[max(0, stop_at - at_once) : stop_at]), dim=-1)
            final = logprobs[-1].clone() if final is None else final  # (V,)
            parts.insert(0, _read(logprobs, final, query.top))
            yield
        columns.append(parts)
    ids, logprob, rank, final_logprob, kl_bits = (
        np.stack([torch.cat([part[i] for part in parts]).cpu().numpy() for parts in columns]) for i in range(5)
    )
    commit = commit_depth(ids[:, :, 0])
    for array in (ids, logprob, rank, final_logprob, kl_bits, commit):
        array.flags.writeable = False
    pieces = {i: recording.piece(i) for i in np.unique(ids).tolist()}
    return LensAnswer(query, (start, stop), ids, logprob, pieces, rank, final_logprob, kl_bits, commit)


def commit_depth(top_ids: IntArray) -> IntArray:
    """(P,) from (P, L + 1): the first layer from which on the likeliest token is the final one."""
    same = top_ids == top_ids[:, -1:]
    staying = np.flip(np.cumprod(np.flip(same, axis=1), axis=1), axis=1)
    return np.asarray(same.shape[1] - staying.sum(axis=1), np.int64)


def _trace_for(recording: Recording, query: LensQuery, strand: Strand, start: int, stop: int) -> tuple[Trace, Strand]:
    """The run's records, or where they were dropped and the user wants it, those of the same positions fed again."""
    trace = recording.recorded()
    try:
        residuals(trace, strand, 0, start, stop)
    except ViewUnavailableError as problem:
        if query.recompute and problem.can_recompute:
            return feed_again(recording, strand, start, stop)
        raise
    return trace, strand


def _read(logprobs: torch.Tensor, final: torch.Tensor, top: int) -> Rows:
    """From (n, V): top ids and logprobs (n, K), rank and logprob of the final top token (n,), KL in bits (n,)."""
    best = torch.topk(logprobs, min(top, logprobs.shape[-1]), dim=-1)
    chosen = int(final.argmax())
    own = logprobs[:, chosen]
    rank = torch.count_nonzero(logprobs > own[:, None], dim=-1)
    # KL(final ‖ layer); tokens that the final layer rules out (-inf) add nothing.
    share = final.exp()
    known = final.clamp(min=-1e4)
    kl = torch.mv(-logprobs.clamp(min=-1e4), share) + torch.dot(known, share)
    return best.indices, best.values, rank, own, kl.clamp(min=0.0) / math.log(2.0)
