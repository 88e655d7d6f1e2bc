"""What only Python can bring to a run: functions, tensors and caches, which are no part of a `RunSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.cache_utils import Cache

from core.decode.pipeline import AllowedTokens, Processor
from core.decode.stopping import Criterion

if TYPE_CHECKING:
    from core.decode.session import Session


@dataclass(frozen=True)
class Extras:
    """The arguments of `generate()` of the same names; transformers' classes and plain functions will both do.

    logits_processor: called with rows of equal length, without padding: ids (B, T), scores (B, V) → scores.
    stopping_criteria: all are called for each row after each of its tokens.
    prefix_allowed_tokens_fn: number of the prompt, ids (T,) → the ids that may follow.
    inputs_embeds: a tensor or array (1, T, E) in the place of a prompt.
    past: a run on the same model, or a cache of transformers, that holds the first positions of the prompt.
    """

    logits_processor: tuple[Processor, ...] = ()
    stopping_criteria: tuple[Criterion, ...] = ()
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    inputs_embeds: object = None
    past: Session | Cache | None = None


NONE = Extras()
