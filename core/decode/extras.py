"""What only Python can bring to a run: functions, which are no plain data and so no part of a `RunSpec`."""

from __future__ import annotations

from dataclasses import dataclass

from core.decode.pipeline import AllowedTokens, Processor
from core.decode.stopping import Criterion


@dataclass(frozen=True)
class Extras:
    """The arguments of `generate()` of the same names; transformers' classes and plain functions will both do.

    logits_processor: called with rows of equal length, without padding: ids (B, T), scores (B, V) → scores.
    stopping_criteria: all are called for each row after each of its tokens.
    prefix_allowed_tokens_fn: number of the prompt, ids (T,) → the ids that may follow.
    """

    logits_processor: tuple[Processor, ...] = ()
    stopping_criteria: tuple[Criterion, ...] = ()
    prefix_allowed_tokens_fn: AllowedTokens | None = None


NONE = Extras()
