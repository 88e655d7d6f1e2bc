"""Attention rollout: where information at a position may have come from, through all layers.

Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928: with A the mean of a layer's heads, the layer passes on
(A + I) / 2, the half of I for the residual connection; the product over the layers is the rollout.
"""

from __future__ import annotations

from collections.abc import Generator

import torch

from core.contract.errors import ViewUnavailableError
from core.contract.looking import RolloutAnswer, RolloutQuery
from core.trace.reading import keys_of, records, row_slices, weights
from core.trace.recording import Recording

MOST_ELEMENTS = 1 << 24  # R × T of one answer


def derive_rollout(recording: Recording, query: RolloutQuery) -> Generator[float, None, RolloutAnswer]:
    """The rows asked for, from the last layer down, so that nothing of T × T is held; yields how far it is.

    Raises `ViewUnavailableError`.
    """
    recording.require("attention")
    strand = recording.strand(query)
    start, stop = recording.span(strand, query.rows)
    if (stop - start) * stop > MOST_ELEMENTS:
        raise ViewUnavailableError(f"Rollout of {stop - start} rows over {stop} positions is too large; ask for fewer.")
    held = records(recording, strand, 0, stop, query.recompute)
    flow: torch.Tensor | None = None  # (R, stop): what each query takes from the positions below the layers done
    for layer in reversed(range(recording.info.layers)):
        keys = keys_of(recording, held, layer, stop, None)
        first = 0
        if flow is None:
            flow, first = torch.eye(stop - start, stop, device=keys.keys.device).roll(start, 1), start
        passed = 0.5 * flow
        for begin, end in row_slices(first, stop, recording.info.heads):
            taken = flow[:, begin:end]
            if not taken.any():
                continue  # nothing reaches these positions: behind a window, say
            passed[:, :end] += 0.5 * taken @ weights(recording, held, keys, begin, end).mean(0)
            yield (recording.info.layers - 1 - layer + (end / stop) ** 2) / recording.info.layers
        flow = passed
    assert flow is not None  # a model has layers
    found = flow.cpu().numpy()
    found.flags.writeable = False
    return RolloutAnswer(query, found, (start, stop))
