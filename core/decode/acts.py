"""Interventions at work: hooks on the unmodified model for the time of one forward pass.

Heads are scaled in front of the output projection, parts are skipped behind themselves, the steering vector is added in
front of a layer, before the record is taken: what is recorded is what ran. Muted and deleted positions go into the
attention mask, and the deleted ones leave the cache before the pass (`forward.py`). The model itself is never changed;
between two passes no hook is left.

H heads, D head dim, E hidden size, B lanes, n positions of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from core.contract.interventions import Intervention

_NOBODY: Mapping[int, tuple[int, ...]] = MappingProxyType({})
_NOTHING: Mapping[int, frozenset[int]] = MappingProxyType({})


@dataclass(frozen=True)
class Acts:
    """Interventions made ready for one model.

    heads: output projections with a factor for each of their inputs, (H · D,). skipped: parts. steered: layers with
    what is added in front of them, (E,). muted: positions hidden from later queries, by row; deleted: those of
    them that leave the cache.
    """

    asked: tuple[Intervention, ...] = ()
    heads: tuple[tuple[nn.Module, torch.Tensor], ...] = ()
    skipped: tuple[nn.Module, ...] = ()
    steered: tuple[tuple[nn.Module, torch.Tensor], ...] = ()
    muted: Mapping[int, tuple[int, ...]] = field(default_factory=lambda: _NOBODY)
    deleted: Mapping[int, frozenset[int]] = field(default_factory=lambda: _NOTHING)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The hooks, in front of all others, for the time of the block."""
        with ExitStack() as stack:
            for layer, vector in self.steered:
                hook = _adds(vector)
                stack.callback(layer.register_forward_pre_hook(hook, prepend=True, with_kwargs=True).remove)
            for projection, factors in self.heads:
                stack.callback(projection.register_forward_pre_hook(_scales(factors), prepend=True).remove)
            for part in self.skipped:
                stack.callback(part.register_forward_hook(_nothing, prepend=True).remove)
            yield


NO_ACTS = Acts()


def _adds(vector: torch.Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (args[0] + vector.to(args[0].dtype), *args[1:]), kwargs
        states = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": states + vector.to(states.dtype)}

    return hook


def _scales(factors: torch.Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
        # A head is muted by selecting, not by 0 · x, which is NaN where x is infinite.
        merged = args[0].flatten(2) if args[0].ndim == 4 else args[0]  # (B, n, H · D)
        scaled = torch.where(factors == 0, 0.0, merged * factors.to(merged.dtype)).to(merged.dtype)
        return (scaled.view_as(args[0]), *args[1:])

    return hook


def _nothing(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)
