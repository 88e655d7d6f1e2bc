"""The stages before temperature: what may, must or should not be said. transformers' classes do the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import pad as pad_to_the_right
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from core.contract.params import GenerationParams
from core.decode.own_code import own_tokens
from core.decode.pipeline.context import AllowedTokens, PipelineContext
from core.decode.pipeline.stage import Processor, Rows, StageFn, on_batch, on_rows


@dataclass(frozen=True)
class Parts:
    """What a stage does and the transformers class that does it."""

    fn: StageFn
    kind: type


Make = Callable[[GenerationParams, PipelineContext], Parts | None]


def _by_row(processor: LogitsProcessor) -> Parts:
    return Parts(on_rows(processor), type(processor))


def _by_batch(processor: LogitsProcessor) -> Parts:
    return Parts(on_batch(processor), type(processor))


def sequence_bias(params: GenerationParams, context: PipelineContext) -> Parts | None:
    """A bias for tokens that complete a sequence."""
    return _by_row(SequenceBiasLogitsProcessor(dict(params.sequence_bias))) if params.sequence_bias else None


def _encoder_repetition_penalty(params: GenerationParams, context: PipelineContext) -> Parts | None:
    penalty, kind = params.encoder_repetition_penalty, EncoderRepetitionPenaltyLogitsProcessor
    if penalty == 1.0:
        return None
    return Parts(_on_prompts(lambda prompt: kind(penalty, prompt), context.prompt_slots), kind)


def _encoder_no_repeat_ngram_size(params: GenerationParams, context: PipelineContext) -> Parts | None:
    size, kind = params.encoder_no_repeat_ngram_size, EncoderNoRepeatNGramLogitsProcessor
    if size == 0:
        return None

    def make(prompt: torch.Tensor) -> Processor:
        # Of a prompt that is shorter there is nothing to repeat; the class would make as many lists as it is told to.
        processor: Processor = kind(min(size, prompt.shape[-1] + 1), prompt)
        return processor

    return Parts(_on_prompts(make, context.prompt_slots), kind)


def _on_prompts(make: Callable[[torch.Tensor], Processor], prompt_slots: int) -> StageFn:
    """A processor that is made from the prompts, which are the first slots of the rows that are there now."""

    def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(scores)
        for pad, places in rows.groups():
            ids = rows.ids[places, pad:]
            # A prompt may hold what cannot be chosen, as the start token of an image: it gets a score for the time.
            more = max(0, int(ids.max()) + 1 - scores.shape[-1]) if ids.numel() else 0
            wide = pad_to_the_right(scores[places], (0, more))
            result[places] = make(ids[:, : prompt_slots - pad])(ids, wide)[:, : scores.shape[-1]]
        return result

    return fn


def _repetition_penalty(params: GenerationParams, context: PipelineContext) -> Parts | None:
    penalty = params.repetition_penalty
    return None if penalty == 1.0 else _by_row(RepetitionPenaltyLogitsProcessor(penalty))


def _no_repeat_ngram_size(params: GenerationParams, context: PipelineContext) -> Parts | None:
    size = params.no_repeat_ngram_size
    return _by_row(NoRepeatNGramLogitsProcessor(size)) if size > 0 else None


def _bad_words_ids(params: GenerationParams, context: PipelineContext) -> Parts | None:
    if not params.bad_words_ids:
        return None
    words = [list(ids) for ids in params.bad_words_ids]
    return _by_row(NoBadWordsLogitsProcessor(words, list(params.eos_token_id)))


def _min_length(params: GenerationParams, context: PipelineContext) -> Parts | None:
    if params.min_length == 0 or not params.eos_token_id:
        return None
    eos = list(params.eos_token_id)
    return _by_row(MinLengthLogitsProcessor(params.min_length, eos, device=context.device))


def _min_new_tokens(params: GenerationParams, context: PipelineContext) -> Parts | None:
    if params.min_new_tokens == 0 or not params.eos_token_id:
        return None
    eos = list(params.eos_token_id)
    least = params.min_new_tokens
    return _by_batch(MinNewTokensLengthLogitsProcessor(context.prompt_slots, least, eos, device=context.device))


def prefix_allowed(allowed: AllowedTokens) -> StageFn:
    """Only what the caller's function allows may follow. All rows of a prompt are its beams."""

    def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        places_of: dict[int, list[int]] = {}
        for place in range(len(rows.padding)):
            places_of.setdefault(rows.owner(place), []).append(place)
        result = torch.empty_like(scores)
        for owner, places in places_of.items():
            asking = _asking(allowed, owner, scores.shape[-1])
            processor = PrefixConstrainedLogitsProcessor(asking, len(places))
            ids = rows.ids[places, rows.padding[places[0]] :]
            result[places] = processor(ids, scores[places])
        return result

    return fn


def _asking(allowed: AllowedTokens, owner: int, vocabulary: int) -> AllowedTokens:
    return lambda _, ids: own_tokens(allowed, owner, ids, vocabulary)


def _forced_bos_token_id(params: GenerationParams, context: PipelineContext) -> Parts | None:
    token = params.forced_bos_token_id
    return None if token is None else _by_row(ForcedBOSTokenLogitsProcessor(token))


def _forced_eos_token_id(params: GenerationParams, context: PipelineContext) -> Parts | None:
    if not params.forced_eos_token_id:
        return None
    length = context.prompt_slots + params.max_new_tokens
    return _by_batch(ForcedEOSTokenLogitsProcessor(length, list(params.forced_eos_token_id), device=context.device))


def _remove_invalid_values(params: GenerationParams, context: PipelineContext) -> Parts | None:
    return _by_batch(InfNanRemoveLogitsProcessor()) if params.remove_invalid_values else None


def _exponential_decay_length_penalty(params: GenerationParams, context: PipelineContext) -> Parts | None:
    decay = params.exponential_decay_length_penalty
    if not decay or not params.eos_token_id:
        return None
    return _by_batch(ExponentialDecayLengthPenalty(decay, list(params.eos_token_id), context.prompt_slots))


def _suppress_tokens(params: GenerationParams, context: PipelineContext) -> Parts | None:
    tokens = params.suppress_tokens
    return _by_batch(SuppressTokensLogitsProcessor(tokens, device=context.device)) if tokens else None


def _begin_suppress_tokens(params: GenerationParams, context: PipelineContext) -> Parts | None:
    tokens, kind = params.begin_suppress_tokens, SuppressTokensAtBeginLogitsProcessor
    if not tokens:
        return None

    def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(scores)
        for pad, places in rows.groups():
            # A forced BOS behind a prompt of one token belongs to the beginning.
            forced = params.forced_bos_token_id is not None and context.prompt_slots - pad <= 1
            begin = context.prompt_slots + forced
            result[places] = kind(tokens, begin, device=context.device)(rows.ids[places], scores[places])
        return result

    return Parts(fn, kind)


BEFORE_PREFIX: Mapping[str, Make] = {
    "encoder_repetition_penalty": _encoder_repetition_penalty,
    "repetition_penalty": _repetition_penalty,
    "no_repeat_ngram_size": _no_repeat_ngram_size,
    "encoder_no_repeat_ngram_size": _encoder_no_repeat_ngram_size,
    "bad_words_ids": _bad_words_ids,
    "min_length": _min_length,
    "min_new_tokens": _min_new_tokens,
}
AFTER_PREFIX: Mapping[str, Make] = {
    "forced_bos_token_id": _forced_bos_token_id,
    "forced_eos_token_id": _forced_eos_token_id,
    "remove_invalid_values": _remove_invalid_values,
    "exponential_decay_length_penalty": _exponential_decay_length_penalty,
    "suppress_tokens": _suppress_tokens,
    "begin_suppress_tokens": _begin_suppress_tokens,
}
