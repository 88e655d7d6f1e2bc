"""Where drafted tokens come from: a smaller model, the model's own first layers, or an earlier place in the text.

A draft proposes what may follow; the model then checks all of it in one pass. Whatever it proposes, the result is
what the model would have said alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from core.contract.errors import ParameterError
from core.contract.params import GenerationParams
from core.decode.forward import Forward
from core.decode.kv import RunCache, cache_length, crop_cache, fork_cache, new_cache
from core.models.loaded import LoadedModel
from core.models.vocabulary import same_vocabulary

if TYPE_CHECKING:
    from core.decode.session import Session

# Logits (1, V), place → token, its distribution (V,); None where the pipeline leaves no token.
Pick = Callable[[torch.Tensor, int], tuple[int, torch.Tensor] | None]


@dataclass(frozen=True)
class Drafted:
    """Tokens proposed to follow the sequence.

    distributions: what each was drawn from, (V,) probabilities; empty where nothing was drawn.
    match: [start, stop) positions of the earlier tokens they were copied from, the matching ones before them included.
    matched: how many tokens of it matched the end of the sequence.
    """

    token_ids: tuple[int, ...] = ()
    distributions: tuple[torch.Tensor, ...] = ()
    match: tuple[int, int] | None = None
    matched: int = 0


class Draft(Protocol):
    """A source of drafted tokens. cache: of its own model; None where it has none."""

    source: str

    @property
    def cache(self) -> RunCache | None: ...

    def propose(self, run: Session, most: int, pick: Pick) -> Drafted:
        """At most `most` tokens to follow `run.ids`. `pick` processes and chooses as the run does."""
        ...

    def attached(self) -> AbstractContextManager[None]:
        """Its model's hooks, for the time of the loop."""
        ...

    def continue_from(self, other: Draft, slots: int) -> None:
        """What another draft of this kind has read of the first `slots` slots need not be read again."""
        ...


class LookupDraft:
    """Prompt lookup (Saxena 2023): what followed the last few tokens the first time they occurred."""

    source = "prompt lookup"
    cache = None

    def propose(self, run: Session, most: int, pick: Pick) -> Drafted:
        """The longest match of up to `max_matching_ngram_size` tokens; the earliest of equals, as in transformers."""
        ids: list[int] = run.ids[0, run.lanes[0].padding :].tolist()
        params = run.params
        count = min(most, params.prompt_lookup_num_tokens or 0)
        for size in range(min(params.max_matching_ngram_size, len(ids) - 1), 0, -1):
            start = _first(ids, ids[-size:])
            if start is not None and count:
                found = ids[start + size : start + size + count]
                for place, token in enumerate(found):
                    if token in params.eos_token_id:
                        found = found[:place]
                        break
                if found:
                    return Drafted(tuple(found), match=(start, start + size + len(found)), matched=size)
        return Drafted()

    def attached(self) -> AbstractContextManager[None]:
        """It has no model."""
        return nullcontext()

    def continue_from(self, other: Draft, slots: int) -> None:
        """It looks at all tokens each time."""


def _first(ids: list[int], wanted: list[int]) -> int | None:
    """Where `wanted` begins for the first time with something after it other than the end."""
    size = len(wanted)
    for start in range(len(ids) - size):
        if ids[start : start + size] == wanted:
            return start
    return None


class EarlyExitDraft:
    """The model's own first layers and its head (Elhoushi et al. 2024). They share the model's cache.

    The pass is left by a hook before the next layer: nothing about the model or its config is changed.
    """

    source = "early exit"
    cache = None

    def __init__(self, loaded: LoadedModel, layers: int) -> None:
        if layers >= loaded.info.layers:
            raise ParameterError(
                f"assistant_early_exit cannot be {layers}; {loaded.info.title} has {loaded.info.layers} layers, and a "
                "draft must leave some of them out."
            )
        self.layers = layers

    def propose(self, run: Session, most: int, pick: Pick) -> Drafted:
        """Token by token; the first layers' keys and values of it are forgotten again."""
        level = cache_length(run.cache)

        def logits(ids: torch.Tensor, start: int) -> torch.Tensor:
            return run.forward.early(ids, run.cache, start, self.layers)

        try:
            return _drafted(run, most, pick, run.ids[:, level:], level, logits)
        finally:
            crop_cache(run.cache, level)

    def attached(self) -> AbstractContextManager[None]:
        """The run's own hooks do."""
        return nullcontext()

    def continue_from(self, other: Draft, slots: int) -> None:
        """Its cache is the run's."""


class ModelDraft:
    """Another model with the same vocabulary, with a cache of its own (Leviathan et al. 2023)."""

    def __init__(self, target: LoadedModel, assistant: LoadedModel, cancelled: Callable[[], bool]) -> None:
        _check_vocabulary(target, assistant)
        self.source = assistant.info.title
        self.device = assistant.device
        self.positions = assistant.info.max_positions
        self.forward = Forward(assistant, [0], cancelled)
        self.cache: RunCache = new_cache(len(self.forward.anatomy.layers))

    def propose(self, run: Session, most: int, pick: Pick) -> Drafted:
        """Token by token, after what it has not seen yet of the sequence."""
        seen = min(cache_length(self.cache), run.ids.shape[1] - 1)
        crop_cache(self.cache, seen)
        most = min(most, self.positions - run.ids.shape[1])

        def logits(ids: torch.Tensor, start: int) -> torch.Tensor:
            return self.forward(ids, self.cache, None).to(run.ids.device)

        try:
            drafted = _drafted(run, most, pick, run.ids[:, seen:].to(self.device), seen, logits)
        finally:
            # What is refused is unknown yet; the next proposal begins before it.
            crop_cache(self.cache, min(cache_length(self.cache), run.ids.shape[1] - 1))
        return drafted

    def attached(self) -> AbstractContextManager[None]:
        """Hooks on the draft model."""
        return self.forward.attached()

    def continue_from(self, other: Draft, slots: int) -> None:
        """The cache, copy on write."""
        if isinstance(other, ModelDraft) and other.forward.model is self.forward.model:
            self.cache = fork_cache(other.cache, min(slots, cache_length(other.cache)))


def _drafted(
    run: Session,
    most: int,
    pick: Pick,
    ids: torch.Tensor,
    start: int,
    logits: Callable[[torch.Tensor, int], torch.Tensor],
) -> Drafted:
    """Feed `ids` (1, n) from slot `start` on, then token by token what is picked, until the draft is unsure."""
    tokens: list[int] = []
    distributions: list[torch.Tensor] = []
    params: GenerationParams = run.params
    while len(tokens) < most:
        picked = pick(logits(ids, start), len(tokens))
        if picked is None:
            break  # if the model comes here, it says who left nothing
        token, distribution = picked
        start += ids.shape[1]
        tokens.append(token)
        distributions.append(distribution)
        if token in params.eos_token_id or float(distribution[token]) < params.assistant_confidence_threshold:
            break
        ids = ids.new_tensor([[token]])
    return Drafted(tuple(tokens), tuple(distributions))


def _check_vocabulary(target: LoadedModel, assistant: LoadedModel) -> None:
    """Raises `ParameterError`: drafted ids must mean the same tokens to both."""
    if not same_vocabulary(target, assistant):
        raise ParameterError(
            f"{assistant.info.title} cannot draft for {target.info.title}, because their vocabularies differ; choose "
            "a smaller model of the same family, or assistant_early_exit."
        )
