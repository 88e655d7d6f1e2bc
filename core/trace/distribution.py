"""The distribution after any fed position: the model's own read-out on a recorded residual, nothing stored."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch

from core.contract.views import DistributionAnswer, DistributionQuery
from core.trace.recording import Recording


def derive_distribution(recording: Recording, query: DistributionQuery) -> Generator[None, None, DistributionAnswer]:
    """The `top` likeliest tokens after a position, from any layer's residual. Raises `ViewUnavailableError`."""
    recording.require("distribution")
    strand = recording.strand(query)
    start, stop = recording.span(strand, (query.position, query.position + 1))
    layer = recording.info.layers if query.layer is None else recording.layer(query.layer)
    residual = recording.residuals(layer, strand, start, stop)[-1]  # (E,)
    logits = recording.anatomy.read_out(residual)  # (V,)
    if query.final:
        logits = recording.final_scores(strand, start, logits)
    yield
    logprobs = torch.log_softmax(logits, dim=-1)
    top = torch.topk(logprobs, min(query.top, logprobs.shape[-1]))
    entropy = torch.special.entr(logprobs.exp()).sum() / math.log(2.0)
    ids, values = top.indices.cpu().numpy(), top.values.cpu().numpy()
    ids.flags.writeable = values.flags.writeable = False
    pieces = tuple(recording.piece(i) for i in ids.tolist())
    return DistributionAnswer(query, ids, pieces, values, float(entropy))
