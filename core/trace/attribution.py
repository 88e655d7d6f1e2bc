"""Direct logit attribution: a logit as a sum over embedding, heads and MLPs, under the final norm's scale.

The residual stream is a sum, and with the scale of the final norm held at what it was, norm and head are linear:
logit = Σ parts · direction + bias. Elhage et al. 2021, https://transformer-circuits.pub/2021/framework
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import nn

from core.contract.errors import ViewUnavailableError
from core.contract.looking import AttributionAnswer, AttributionQuery
from core.contract.snapshot import FloatArray
from core.trace.contributions import Contributions, contributions
from core.trace.recording import Recording

_EPSILONS = ("eps", "variance_epsilon", "epsilon", "norm_eps")
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class LinearNorm:
    """A final norm at one input: norm(x) = (x - mean, if centred) · gain + shift. gain, shift: (E,) float32."""

    centred: bool
    gain: torch.Tensor
    shift: torch.Tensor


def derive_attribution(recording: Recording, query: AttributionQuery) -> Generator[None, None, AttributionAnswer]:
    """The parts of one logit. Raises `ViewUnavailableError` for a head or a norm that is not linear."""
    recording.require("distribution")
    strand = recording.strand(query)
    position, _ = recording.span(strand, (query.position, query.position + 1))
    anatomy = recording.anatomy
    weight = getattr(anatomy.head, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise ViewUnavailableError(f"The head of {recording.info.title} is no matrix, so its logits have no parts.")
    if not 0 <= query.token_id < len(weight):
        raise ViewUnavailableError(f"There is no logit of token {query.token_id}; ids end at {len(weight) - 1}.")
    found = contributions(recording, strand, position)
    yield
    stream = found.residuals
    dtype = next(iter(anatomy.head.parameters())).dtype
    norm = linear_norm(anatomy.final_norm, stream[-1], dtype)
    to_logit = weight[query.token_id].float() * anatomy.logit_factor  # (E,)
    direction = to_logit * norm.gain
    if norm.centred:
        direction = direction - direction.mean()  # the mean of every part goes the same way
    own_bias = getattr(anatomy.head, "bias", None)
    bias = float(norm.shift @ to_logit)
    if isinstance(own_bias, torch.Tensor):
        bias += float(own_bias[query.token_id]) * anatomy.logit_factor
    logit = _logit(recording, stream[-1].to(dtype), query.token_id)
    return _answer(recording, query, found, direction, bias, logit)


def linear_norm(norm: nn.Module | None, x: torch.Tensor, dtype: torch.dtype) -> LinearNorm:
    """What the norm does to x (E,) float32, checked against the module itself. Raises `ViewUnavailableError`."""
    ones = torch.ones_like(x)
    if norm is None:
        return LinearNorm(False, ones, torch.zeros_like(x))
    expected = norm(x.to(dtype)).float()
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    gain = weight.float() if isinstance(weight, torch.Tensor) else ones
    shift = bias.float() if isinstance(bias, torch.Tensor) else torch.zeros_like(x)
    epsilon = next((float(getattr(norm, name)) for name in _EPSILONS if hasattr(norm, name)), 1e-6)
    best, least = LinearNorm(False, ones, shift), float("inf")
    for centred in (False, True):
        moved = x - x.mean() if centred else x
        scale = torch.rsqrt(moved.square().mean() + epsilon)
        for factor in (gain, 1.0 + gain):
            error = float((moved * scale * factor + shift - expected).abs().max())
            if error < least:
                best, least = LinearNorm(centred, scale * factor, shift), error
    if least > _TOLERANCE.get(dtype, 1e-4) * float(expected.abs().max().clamp(min=1.0)):
        raise ViewUnavailableError(
            f"The final norm ({type(norm).__name__}) is neither a LayerNorm nor an RMSNorm, so logits have no parts."
        )
    return best


def _logit(recording: Recording, residual: torch.Tensor, token_id: int) -> float:
    """As the model computes it, before a soft cap."""
    anatomy = recording.anatomy
    normed = residual if anatomy.final_norm is None else anatomy.final_norm(residual)
    return float(anatomy.head(normed)[token_id].float() * anatomy.logit_factor)


def _answer(
    recording: Recording,
    query: AttributionQuery,
    found: Contributions,
    direction: torch.Tensor,
    bias: float,
    logit: float,
) -> AttributionAnswer:
    stream, layers, heads = found.residuals, recording.info.layers, recording.info.heads
    attention, mlp = (_dots(parts, direction) for parts in (found.attention, found.mlp))
    added = (stream[1:] - stream[:-1]) @ direction  # (L,)
    between = added - attention - mlp
    by_head = torch.full((layers, heads), float("nan"))
    for layer, (parts, merged) in enumerate(zip(found.parts, found.merged, strict=True)):
        back = None if merged is None else _through(parts.projection, direction)
        if merged is not None and back is not None and len(merged) % heads == 0:
            by_head[layer] = (merged * back).view(heads, -1).sum(1).cpu()
    embedding = float(stream[0] @ direction)
    total = embedding + float(added.double().sum()) + bias
    return AttributionAnswer(
        query,
        recording.piece(query.token_id),
        logit,
        embedding,
        _plain(attention),
        _plain(by_head),
        _plain(mlp),
        _plain(between),
        bias,
        logit - total,
    )


def _through(projection: nn.Module | None, direction: torch.Tensor) -> torch.Tensor | None:
    """The direction seen from before an output projection, (H · D,); None where it is no plain matrix."""
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    if isinstance(projection, nn.Linear):
        return weight.float().T @ direction  # (E, H · D) transposed
    return weight.float() @ direction if weight.shape[1] == len(direction) else None  # Conv1D: (H · D, E)


def _dots(parts: list[torch.Tensor | None], direction: torch.Tensor) -> torch.Tensor:
    """(L,); what was not found counts as 0 and appears among `between`."""
    return torch.stack([direction.new_zeros(()) if part is None else part @ direction for part in parts])


def _plain(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.float().cpu().numpy()
    array.flags.writeable = False
    return array
