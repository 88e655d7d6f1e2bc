"""What a pipeline is built for, besides the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from core.decode.pipeline.stage import Processor, Stage

# Number of the prompt and the row's ids (T,) without padding → the ids that may follow.
AllowedTokens = Callable[[int, torch.Tensor], list[int]]


@dataclass(frozen=True)
class PipelineContext:
    """The run and what its caller brought.

    prompt_slots: slots of the padded prompt; what follows was generated.
    vocab_size: tokens the model can choose; ids beyond it are refused.
    custom: the caller's processors, after those of the parameters. One of a type that the parameters ask for takes
        its place, as in `generate()`. Its attribute `replayable`, if it is true, allows to run it on past steps.
    opening: stages that others make, which come first: of the mode, then guidance.
    diversity, grammar: others that stand where `generate()` puts them (a grammar where it puts
        `prefix_allowed_tokens_fn`, diversity between groups of beams where 4.51 put it).
    """

    prompt_slots: int
    vocab_size: int
    device: torch.device
    custom: tuple[Processor, ...] = ()
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    opening: tuple[Stage, ...] = ()
    diversity: Stage | None = None
    grammar: Stage | None = None
