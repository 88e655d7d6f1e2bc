"""Decoding modes: how the next token is chosen from the final scores. One file a mode."""

from __future__ import annotations

from typing import Protocol

import torch

from core.contract.errors import ParameterError
from core.contract.specs import RunSpec
from core.decode.modes.greedy import Greedy
from core.decode.modes.sample import CounterSample, TorchSample


class Mode(Protocol):
    """Chooses one token a row from the final scores; `positions` are those of the tokens to choose."""

    name: str

    def choose(self, scores: torch.Tensor, positions: list[int]) -> tuple[torch.Tensor, list[float | None]]:
        """scores (B, V) float32, -inf for killed tokens → ids (B,) and the draw of each row, if any."""
        ...


def make_mode(name: str, spec: RunSpec, device: torch.device) -> Mode:
    """The mode called `name`, a `GenerationMode` value. Raises `ParameterError`."""
    if name == "greedy_search":
        return Greedy()
    if name != "sample":
        raise ParameterError(f"The mode “{name}” cannot run here yet; choose greedy_search or sample.")
    return TorchSample(spec.seed, device) if spec.draw_source == "torch" else CounterSample(spec.seed, spec.reroll)
