"""A pipeline that can be run again on one past step: what the session hands to a view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from core.contract.params import GenerationParams


@dataclass(frozen=True)
class ReplayStage:
    """One stage for one row: scores (1, V) → scores (1, V)."""

    name: str
    params: Mapping[str, object]
    fn: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Replay:
    """The pipeline of one step, ready to run again.

    start: the scores (1, V) it begins with. stages: up to the first that cannot be replayed; reason: why it cannot.
    choose: final scores (V,) → the token that is chosen from them and the draw, each None where that is not known, and
        then why.
    """

    params: GenerationParams
    mode: str
    start: torch.Tensor
    stages: tuple[ReplayStage, ...]
    choose: Callable[[torch.Tensor], tuple[int | None, float | None, str]]
    reason: str = ""


class ReadOut:
    """The logits of the position asked for last: while a slider is dragged, the same one is asked for again and again.

    A read-out reads the whole head, which is most of the work.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._logits: torch.Tensor | None = None

    def get(self, key: object, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The logits (V,) for `key`, computed unless they are the last ones."""
        if self._logits is None or key != self._key:
            self._key, self._logits = key, compute()
        return self._logits
