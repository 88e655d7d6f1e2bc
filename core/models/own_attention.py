"""Attention modules that know no attention interface: they are seen at work, and their arithmetic is their own.

ImageGPT computes attention in a method of its module, after the cache has given the keys. While a run advances, a
wrapper of that method stands in the instance, which calls it and tells what went in and came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

_MOST_POSITIONS = 8192  # beyond, the table would take more than 256 MB


MaskOf = Callable[[nn.Module, torch.Tensor, torch.Tensor | None], torch.Tensor | None]


@dataclass(frozen=True)
class Attended:
    """One call: query (B, H, T, D), key and value (B, H, K, D), output (B, T, H, D)."""

    module: nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    output: torch.Tensor


def attends_itself(model: PreTrainedModel) -> bool:
    """Whether it has modules without attention interface that are seen at work."""
    return any(isinstance(module, ImageGPTAttention) for module in model.modules())


@contextmanager
def own_attention_seen(
    model: PreTrainedModel, see: Callable[[Attended], None], mask_of: MaskOf = lambda module, query, mask: mask
) -> Iterator[None]:
    """Tell `see` of every call in such modules, layers in order, for the time of the block; blocks may be nested.

    mask_of: gives the mask of a call, from the one that the model made.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ImageGPTAttention) and not module.is_cross_attention:
                stack.enter_context(_wrapped(module, see, mask_of))
        yield


@contextmanager
def _wrapped(module: Any, see: Callable[[Attended], None], mask_of: MaskOf) -> Iterator[None]:
    name = _method(module)
    method, outer = getattr(module, name), vars(module).get(name)
    plain = name == "_attn" and outer is None and module.scale_attn_weights
    plain = plain and not module.scale_attn_by_inverse_layer_idx
    walked = module.attn_dropout._forward_hooks  # not empty while somebody walks through the modules

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = mask_of(module, query, mask)
        result: tuple[torch.Tensor, torch.Tensor | None]
        result = (
            _of_one(module, query, key, value)
            if plain and mask is None and query.shape[2] == 1 and not walked
            else method(query, key, value, mask)
        )
        see(Attended(module, query, key, value, mask, _scaling(module), result[0].transpose(1, 2)))
        return result

    setattr(module, name, attend)
    try:
        yield
    finally:
        if outer is None:
            delattr(module, name)
        else:
            setattr(module, name, outer)


def _of_one(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`ImageGPTAttention._attn` of a single position without what does nothing then: a fifth of a small model's time.

    A single query sees every key, so the causal table hides nothing. float32 goes through one operation, equal within
    rounding, without the weights: nobody reads them here. Narrower numbers are computed as the method does, to the bit,
    since there rounding decides between tokens. Who walks through the modules, with hooks in each, sees the method.
    """
    if query.dtype == torch.float32:
        return scaled_dot_product_attention(query, key, value, scale=value.size(-1) ** -0.5), None
    weights = torch.matmul(query, key.transpose(-1, -2)) / value.size(-1) ** 0.5
    weights = module.attn_dropout(torch.softmax(weights, dim=-1))
    return torch.matmul(weights, value), weights


def _method(module: Any) -> str:
    return "_upcast_and_reordered_attn" if module.reorder_and_upcast_attn else "_attn"


def _scaling(module: Any) -> float:
    scaling = module.head_dim**-0.5 if module.scale_attn_weights else 1.0
    return scaling / (module.layer_idx + 1) if module.scale_attn_by_inverse_layer_idx else scaling


def widen_causal_tables(model: PreTrainedModel) -> None:
    """One table of who sees whom for all layers, wide enough for batches whose rows begin with padding.

    The module keeps a table of its positions, but looks up slots, padding included: without this a batch fails where
    its longest padding and the last position meet.
    """
    modules: list[Any] = [m for m in model.modules() if isinstance(m, ImageGPTAttention) and not m.is_cross_attention]
    if not modules or modules[0].bias.shape[-1] > _MOST_POSITIONS:
        return
    slots = 2 * modules[0].bias.shape[-1]
    table = torch.ones(slots, slots, dtype=torch.bool, device=modules[0].bias.device).tril()[None, None]
    for module in modules:
        module.bias = table


def own_arithmetic(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the module itself computes, called like an `eager_attention_forward`.

    The module scales by the width of the values, and masks by its own causal table and by `attention_mask`. `value`
    narrower than the heads stands for “no output wanted”: then the keys take its place.
    """
    attend = getattr(ImageGPTAttention, _method(module))  # not the wrapper of a run in progress
    values = value if value.shape[-1] == query.shape[-1] else key
    output: tuple[torch.Tensor, torch.Tensor | None] = attend(module, query, key, values, attention_mask)
    return output
