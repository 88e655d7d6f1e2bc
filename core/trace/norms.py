"""How large the residual stream is in each layer, how it turns, and how much attention and MLP add to it."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch.nn.functional import cosine_similarity

from core.contract.errors import ViewUnavailableError
from core.contract.looking import KeyNormsAnswer, KeyNormsQuery, NormsAnswer, NormsQuery
from core.contract.snapshot import FloatArray
from core.trace.contributions import contributions
from core.trace.reading import feed_again, residuals
from core.trace.record import Trace
from core.trace.recording import Recording, Strand


def derive_norms(recording: Recording, query: NormsQuery) -> Generator[None, None, NormsAnswer]:
    """From the records alone, or with the position fed once more. Raises `ViewUnavailableError`."""
    strand = recording.strand(query)
    position, _ = recording.span(strand, (query.position, query.position + 1))
    attention = mlp = None
    if query.contributions:
        found = contributions(recording, strand, position)
        stream = found.residuals
        attention, mlp = _norms(found.attention), _norms(found.mlp)
    else:
        trace, strand = _records(recording, strand, position, query.recompute)
        rows = range(recording.info.layers + 1)
        stream = torch.stack([residuals(trace, strand, n, position, position + 1)[0] for n in rows]).float()
    yield
    update = (stream[1:] - stream[:-1]).norm(dim=-1)
    cosine = cosine_similarity(stream[1:], stream[:-1], dim=-1)
    return NormsAnswer(query, _plain(stream.norm(dim=-1)), _plain(update), _plain(cosine), attention, mlp)


def _records(recording: Recording, strand: Strand, position: int, recompute: bool) -> tuple[Trace, Strand]:
    """The run's records, or those of the position fed again where they were dropped."""
    trace = recording.recorded()
    try:
        residuals(trace, strand, 0, position, position + 1)
    except ViewUnavailableError as problem:
        if recompute and problem.can_recompute:
            return feed_again(recording, strand, position, position + 1)
        raise
    return trace, strand


def derive_key_norms(recording: Recording, query: KeyNormsQuery) -> Generator[None, None, KeyNormsAnswer]:
    """Of the keys as the cache holds them. Raises `ViewUnavailableError`."""
    layer, strand = recording.layer(query.layer), recording.strand(query)
    _, stop = recording.span(strand, (0, None))
    trace = recording.recorded()
    norms = recording.keys(trace, layer, strand, stop).float().norm(dim=-1)  # (H_kv, T)
    held = recording.held(trace, layer, strand, stop)
    yield
    return KeyNormsAnswer(query, _plain(norms if held is None else norms.masked_fill(~held, torch.nan)))


def _norms(parts: list[torch.Tensor | None]) -> FloatArray:
    """(L,), NaN for what was not found."""
    return _plain(torch.tensor([float("nan") if part is None else float(part.norm()) for part in parts]))


def _plain(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.cpu().numpy()
    array.flags.writeable = False
    return array
