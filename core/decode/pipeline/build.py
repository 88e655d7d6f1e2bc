"""From parameters to stages, in the order of `GenerationMixin._get_logits_processor` of transformers 5.23.

Guidance first, then what is asked of the tokens, the caller's own processors, temperature and the filters where the
mode samples, the watermark, and normalisation last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from core.contract.errors import ParameterError
from core.contract.params import GenerationParams
from core.decode.own_code import name_of, own_scores
from core.decode.pipeline import processors, warpers
from core.decode.pipeline.context import PipelineContext
from core.decode.pipeline.stage import Processor, Stage, on_rows


@dataclass(frozen=True)
class Made:
    """A stage and the transformers class in it, by which a caller's own processor takes its place."""

    stage: Stage
    kind: type | None = None


def build_pipeline(params: GenerationParams, context: PipelineContext) -> tuple[Stage, ...]:
    """The stages that `params` ask for. Raises `ParameterError` for token ids that the model does not know.

    Every row is treated as `generate()` treats it alone, where `generate()` itself counts a row's padding as tokens.
    """
    _check_ids(params, context.vocab_size)
    asked = list(_asked(params, context))
    stages = _with_custom(asked, context.custom)
    if params.samples:
        stages += warpers.warpers(params, context.device)
    stages += warpers.last(params, context.vocab_size, context.prompt_slots, context.device)
    return tuple(stages)


def _asked(params: GenerationParams, context: PipelineContext) -> Iterator[Made]:
    """Everything before the caller's own processors."""

    def made(name: str, make: processors.Make) -> Iterator[Made]:
        parts = make(params, context)
        if parts is not None:
            yield Made(Stage(name, {name: getattr(params, name)}, parts.fn), parts.kind)

    yield from map(Made, context.opening)
    yield from made("sequence_bias", processors.sequence_bias)
    if context.diversity is not None:
        yield Made(context.diversity)
    for name, make in processors.BEFORE_PREFIX.items():
        yield from made(name, make)
    if context.prefix_allowed_tokens_fn is not None:
        fn = processors.prefix_allowed(context.prefix_allowed_tokens_fn)
        yield Made(Stage("prefix_allowed_tokens_fn", {}, fn, replayable=False))
    if context.grammar is not None:
        yield Made(context.grammar)
    for name, make in processors.AFTER_PREFIX.items():
        yield from made(name, make)


def _with_custom(asked: Sequence[Made], custom: Sequence[Processor]) -> list[Stage]:
    """As `GenerationMixin._merge_criteria_processor_list`: the caller's of a type takes the place of the default."""
    left, stages = list(custom), []
    for made in asked:
        own = next((c for c in custom if type(c) is made.kind), None)
        stages.append(made.stage if own is None else _custom_stage(own))
        left = [c for c in left if c is not own]
    return stages + [_custom_stage(c) for c in left]


def _custom_stage(processor: Processor) -> Stage:
    fn = on_rows(partial(own_scores, processor))
    return Stage(name_of(processor), {}, fn, bool(getattr(processor, "replayable", False)))


def _check_ids(params: GenerationParams, vocab_size: int) -> None:
    given: dict[str, Sequence[int]] = {
        "sequence_bias": [i for ids, _ in params.sequence_bias for i in ids],
        "bad_words_ids": [i for ids in params.bad_words_ids for i in ids],
        "suppress_tokens": params.suppress_tokens,
        "begin_suppress_tokens": params.begin_suppress_tokens,
        "forced_bos_token_id": () if params.forced_bos_token_id is None else (params.forced_bos_token_id,),
        "forced_eos_token_id": params.forced_eos_token_id,
    }
    for name, ids in given.items():
        wrong = next((i for i in ids if i >= vocab_size), None)
        if wrong is not None:
            raise ParameterError(
                f"{name} has the token id {wrong}, but this model knows ids 0 to {vocab_size - 1} only."
            )
