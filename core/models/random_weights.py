"""A model of random weights: what an architecture does before it has learnt anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from core.models.blueprint import Blueprint
from core.models.load_control import LoadControl, stop_if_cancelled

_INITIALISERS = frozenset({"normal_", "uniform_", "trunc_normal_", "zero_", "fill_"})


def build_random(blueprint: Blueprint, seed: int, dtype: torch.dtype, control: LoadControl) -> PreTrainedModel:
    """Weights as the family initialises them, on the CPU; a function of config and seed alone.

    They are drawn in fp32 and then rounded, so that bf16 shows the same model. The process's own random state stays as
    it is. Raises `LoadCancelledError`.
    """
    with torch.random.fork_rng(devices=[]), _Watched(control, blueprint.parameters):
        torch.manual_seed(seed)
        module = blueprint.kind(deepcopy(blueprint.config))
    for parameter in module.parameters():
        stop_if_cancelled(control)
        parameter.data = parameter.data.to(dtype)
    return module


class _Watched(TorchFunctionMode):
    """Sees every torch function that is called: a place to report how much was drawn, and to stop."""

    def __init__(self, control: LoadControl, total: int) -> None:
        super().__init__()
        self._control, self._total, self._done = control, total, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        stop_if_cancelled(self._control)
        named = kwargs or {}
        result = func(*args, **named)
        filled = args[0] if args else named.get("tensor")
        if func.__name__ in _INITIALISERS and isinstance(filled, torch.nn.Parameter):
            before, self._done = self._done, self._done + filled.numel()
            if self._done * 100 // self._total > before * 100 // self._total:
                self._control.progress("Drawing weights", min(1.0, self._done / self._total))
        return result
