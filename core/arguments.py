"""The arguments that `run`, `stream` and `plan` share, made what a session takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.contract import CacheSpec, ParameterError, Prompt, PromptError, parse_cache
from core.prompts import to_prompts
from core.result import RunResult

# As in `core.api`, torch is imported when a model is first used.
if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from core.decode.extras import Extras
    from core.decode.pipeline import AllowedTokens, Processor
    from core.decode.stopping import Criterion


def to_beginning(past: object, embeds: object, *given: Any) -> tuple[Prompt, ...]:
    """The prompts, of a run that may begin with an earlier one or with embeddings. Raises `PromptError`.

    given: what `to_prompts` takes.
    """
    nothing = all(one is None for one in given)
    if embeds is not None:
        if isinstance(past, RunResult):
            raise PromptError("inputs_embeds begins a text; give it without an earlier run.")
        return () if nothing else to_prompts(*given)
    if nothing and isinstance(past, RunResult):
        return tuple(Prompt(ids=tuple(ids)) for ids in past.sequences)
    return to_prompts(*given)


def to_budget(mebibytes: int) -> int:
    """Bytes. Raises `ParameterError`."""
    if mebibytes < 1:
        raise ParameterError("trace_budget_mb must be at least 1.")
    return mebibytes << 20


def to_extras(
    processors: Sequence[Processor],
    criteria: Sequence[Criterion],
    allowed: AllowedTokens | None,
    past: RunResult | Cache | None,
    embeds: object,
    mask: object,
) -> Extras:
    """What only Python can bring. Raises `ParameterError`."""
    from transformers.cache_utils import Cache

    from core.decode.extras import Extras
    from core.decode.own_code import to_functions

    if past is not None and not isinstance(past, RunResult | Cache):
        raise ParameterError(
            f"past_key_values is an earlier RunResult or a cache of transformers, not a {type(past).__name__}."
        )
    held = past.session if isinstance(past, RunResult) else past
    own = to_functions("logits_processor", processors), to_functions("stopping_criteria", criteria)
    return Extras(*own, allowed, embeds, held, mask)


def to_cache(cache: CacheSpec | str | None) -> CacheSpec:
    """A kind of cache given in words, or left open. Raises `ParameterError`."""
    return parse_cache(cache) if isinstance(cache, str) else CacheSpec() if cache is None else cache
