"""What only Python can bring to a run: functions, tensors and caches, which are no part of a `RunSpec`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria
from transformers.cache_utils import Cache

from core.decode.pipeline import AllowedTokens, Processor
from core.decode.stopping import Criterion

if TYPE_CHECKING:
    from core.decode.session import Session


# Of each parameter the class that `generate()` makes of it; one of the caller's own takes its place.
DEFAULTS = {"eos_token_id": EosTokenCriteria, "stop_strings": StopStringCriteria, "max_time": MaxTimeCriteria}


@dataclass(frozen=True)
class Extras:
    """The arguments of `generate()` of the same names; transformers' classes and plain functions will both do.

    logits_processor: called with rows of equal length, without padding: ids (B, T), scores (B, V) → scores.
    stopping_criteria: all are called for each row after each of its tokens, without padding.
    prefix_allowed_tokens_fn: number of the prompt, ids (T,) → the ids that may follow.
    inputs_embeds: a tensor or array (B, T, E), fed in the place of the prompts. attention_mask: (B, T), 0 for padding.
    past: a run on the same model, or a cache of transformers, that holds the first positions of the prompts.
    """

    logits_processor: tuple[Processor, ...] = ()
    stopping_criteria: tuple[Criterion, ...] = ()
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    inputs_embeds: object = None
    past: Session | Cache | None = None
    attention_mask: object = None

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """Those that are called; a `MaxLengthCriteria` is a number, which takes the place of ours."""
        return tuple(one for one in self.stopping_criteria if not _is_plain(one))

    @property
    def longest(self) -> int | None:
        """Of a `MaxLengthCriteria`: tokens of the longest sequence, prompt and padding included."""
        given: Iterable[Any] = (one for one in self.stopping_criteria if _is_plain(one))
        return min((int(one.max_length) for one in given), default=None)

    @property
    def replaced(self) -> frozenset[str]:
        """The parameters that end no row, because a criterion of the class that `generate()` makes of each is given."""
        given = {type(one) for one in self.stopping_criteria}
        return frozenset(name for name, kind in DEFAULTS.items() if kind in given)


def _is_plain(criterion: object) -> bool:
    return type(criterion) is MaxLengthCriteria


NONE = Extras()
