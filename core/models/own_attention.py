"""Attention modules that know no attention interface: their query is read by a hook, their arithmetic is their own.

ImageGPT computes attention in a method of its module. What stands in front of it, one projection to query, key and
value at once, is hooked while a run advances; positions are embedded long before, so that its query part is the query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

_MOST_POSITIONS = 8192  # beyond, the table would take more than 256 MB
TakeQuery = Callable[[nn.Module, torch.Tensor], None]


@contextmanager
def queries_read(model: PreTrainedModel, take: TakeQuery) -> Iterator[None]:
    """Hand the query (B, H, T, D) of every such module to `take`, layers in order, for the time of the block."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ImageGPTAttention) and not module.is_cross_attention:
                stack.callback(module.c_attn.register_forward_hook(_reader(module, take)).remove)
        yield


def _reader(attention: Any, take: TakeQuery) -> Callable[..., None]:
    def read(_projection: nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
        query = output[..., : attention.split_size]  # (B, T, E) of (B, T, 3 E)
        heads = query.view(*query.shape[:-1], attention.num_heads, attention.head_dim)  # (B, T, H, D)
        take(attention, heads.transpose(1, 2))

    return read


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
    attend = module._upcast_and_reordered_attn if module.reorder_and_upcast_attn else module._attn
    values = value if value.shape[-1] == query.shape[-1] else key
    output: tuple[torch.Tensor, torch.Tensor | None] = attend(query, key, values, attention_mask)
    return output
