"""How long a run may and must be: the conflicts between the four length parameters, resolved as `generate()` does.

The rules are those of `GenerationMixin._prepare_generated_length` and `_validate_generated_length` of transformers
5.23. One default differs: where nothing is asked for, this engine takes 256 new tokens, `generate()` 20.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.contract.errors import ParameterError
from core.contract.params import GenerationParams
from core.decode.room import Feeding, check_room

if TYPE_CHECKING:
    from core.decode.session import Session


@dataclass(frozen=True)
class Lengths:
    """The parameters with lengths that agree, which of them decided, and what the user should know.

    In `params`, max_new_tokens always holds what ends the run, max_length is None or prompt plus that, and
    min_length is 0 where min_new_tokens replaced it.
    """

    params: GenerationParams
    governed_by: str
    warnings: tuple[str, ...]


OWN = "MaxLengthCriteria"  # governed_by where the caller's own decides


def settle_lengths(
    params: GenerationParams, chosen: Set[str], prompt_slots: int, own_new: int | None = None
) -> Lengths:
    """Which length counts. Raises `ParameterError` where nothing could be generated.

    chosen: the parameters that somebody set (user, front end or model); the rest are defaults.
    prompt_slots: T of the prompts, padding included, which is what `generate()` counts.
    own_new: the new tokens that a `MaxLengthCriteria` of the caller's allows, which takes the place of the default. EOS
    is forced where it ends the run, too.
    """
    warnings: list[str] = []
    governed_by = "max_new_tokens"
    new = params.max_new_tokens
    if params.max_length is not None:
        if "max_new_tokens" in chosen:
            warnings.append(
                f"Both max_new_tokens ({new:,}) and max_length ({params.max_length:,}) are set; "
                "max_new_tokens takes precedence."
            )
        else:
            governed_by, new = "max_length", params.max_length - prompt_slots
            if new <= 0:
                raise ParameterError(
                    f"max_length is {params.max_length:,}, but the prompt already has {prompt_slots:,} tokens; raise "
                    "max_length or set max_new_tokens instead."
                )
    elif "max_new_tokens" not in chosen:
        governed_by = "default"
    if own_new is not None:
        governed_by, new = OWN, max(1, own_new)  # criteria are asked after a token
        warnings.append(f"Your MaxLengthCriteria ends the run after {new:,} new tokens, whatever max_new_tokens says.")
    longest = prompt_slots + new
    least = params.min_length
    if "min_new_tokens" in chosen:
        if params.min_length > 0:
            warnings.append(
                f"Both min_new_tokens ({params.min_new_tokens:,}) and min_length ({params.min_length:,}) are set; "
                "min_new_tokens takes precedence."
            )
        least = 0
    if least > longest:
        warnings.append(
            f"min_length ({least:,}) is more than the longest possible text ({longest:,} tokens with the prompt); the "
            "run ends there."
        )
    if params.min_new_tokens > new:
        warnings.append(
            f"min_new_tokens ({params.min_new_tokens:,}) is more than the {new:,} tokens that can be generated; the "
            "run ends there."
        )
    settled = dataclasses.replace(
        params, max_new_tokens=new, max_length=None if params.max_length is None else longest, min_length=least
    )
    return Lengths(settled, governed_by, tuple(warnings))


def settled(run: Session, asked: GenerationParams, changes: Iterable[str] = ()) -> Lengths:
    """Lengths of a run that agree; what nobody has set or sets now is the library's default."""
    spec, model = run.spec, run.loaded.info.from_generation_config
    chosen = run.changed.union(spec.params, spec.host_defaults, model, changes)
    own, known = run.extras.longest, run.prompt_slots - run.unseen
    return settle_lengths(asked, chosen, run.prompt_slots, None if own is None else own - known)


def slots_at_most(run: Session, params: GenerationParams) -> int:
    """How many slots the longest row can come to."""
    return min(run.prompt_slots + params.max_new_tokens, run.loaded.info.max_positions + max(run.padding))


def room_for(run: Session, params: GenerationParams) -> int:
    """The same, where there is room for it, and for what is tried at once.

    Raises `OutOfMemoryError`, or `ParameterError` where too much would be tried.
    """
    limit = slots_at_most(run, params)
    tried, now = run.mode.tried(run, params), run.mode.tried(run, run.params)
    if limit > run.limit or tried > now:
        feeding = Feeding(max(limit, run.limit), run.prompt_slots, run.spec.prefill_chunk, max(run.padding))
        check_room(run.loaded, run.mode.cache_rows(run) // now, feeding, run.spec.cache, tried)
    return limit


def reach(run: Session, limit: int) -> None:
    """The caches of a run go on up to so many slots."""
    if limit > run.limit:
        run.limit = limit
        run.cache.reach(limit)
    if run.guidance is not None:
        run.guidance.reach(run)
