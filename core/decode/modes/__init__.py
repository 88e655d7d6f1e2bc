"""Decoding modes: how positions are fed and the next token is chosen. One file a mode."""

from __future__ import annotations

import torch

from core.contract.errors import ParameterError
from core.contract.specs import RunSpec
from core.decode.modes.greedy import Greedy
from core.decode.modes.mode import Choice, Mode
from core.decode.modes.sample import CounterSample, TorchSample

__all__ = ["Choice", "Mode", "make_mode"]

PLAIN = ("greedy_search", "sample")  # a run may change from one to the other


def make_mode(name: str, spec: RunSpec, device: torch.device) -> Mode:
    """The mode called `name`, a `GenerationMode` value. Raises `ParameterError`."""
    match name:
        case "greedy_search":
            return Greedy()
        case "sample":
            return TorchSample(spec.seed, device) if spec.draw_source == "torch" else CounterSample()
    raise ParameterError(f"The mode “{name}” cannot run here yet; choose greedy_search or sample.")
