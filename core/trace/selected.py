"""Only the heads that are asked for: the family's arithmetic on a few query heads, each with its own keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.trace.record import AttentionSite


class _Ungrouped:
    """An attention module as its eager function sees it once every query head has keys of its own."""

    num_key_value_groups = 1

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def can_narrow(site: AttentionSite) -> bool:
    """Whether heads do not know of each other: nothing per head (sinks, biases) beside queries and keys."""
    own = next(site.module.parameters(recurse=False), None)
    return own is None and not any(isinstance(value, torch.Tensor) for value in site.extras.values())


def narrowed(module: nn.Module, count: int, keys: torch.Tensor, heads: list[int]) -> tuple[Any, torch.Tensor]:
    """The module's stand-in and the keys (1, H', T, D) of the chosen ones among `count` query heads."""
    group = count // keys.shape[1]
    if group == 1 and heads == list(range(count)):
        return _Ungrouped(module), keys
    return _Ungrouped(module), keys[:, [head // group for head in heads]]
