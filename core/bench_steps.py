"""What a token costs in `generate()` and in our engine: seconds from the first token to the last one, a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from core.contract import Prompt, RunSpec
from core.decode.session import Session
from core.models.loaded import LoadedModel


def prompt_ids(loaded: LoadedModel, context: int) -> tuple[int, ...]:
    """Token ids drawn from the vocabulary, the same each time."""
    generator = torch.Generator().manual_seed(context)
    return tuple(torch.randint(0, loaded.info.output_size, (context,), generator=generator).tolist())


class _Stamps(StoppingCriteria):  # type: ignore[misc]
    """Notes when how many tokens are there; stops nothing."""

    def __init__(self) -> None:
        self.there: list[tuple[float, int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self.there.append((perf_counter(), input_ids.shape[1]))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate_s(
    loaded: LoadedModel,
    ids: Sequence[int],
    tokens: int,
    params: Mapping[str, Any],
    attention: str = "sdpa",
    everything: bool = False,
) -> float:
    """Seconds a token of `generate()`; `everything`: with attentions, hidden states and scores. EOS is off."""
    model, stamps = loaded.module, _Stamps()
    wanted = ("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate")
    config = GenerationConfig(
        **{"do_sample": False, "max_new_tokens": tokens, "pad_token_id": 0, **params},
        **dict.fromkeys(wanted, everything),
    )
    # The model's own defaults (its EOS, its sampling) would be merged into any config given.
    own_config, own_attention = model.generation_config, model.config._attn_implementation
    model.generation_config = GenerationConfig()
    changes = model._can_set_attn_implementation()  # ImageGPT has only its own
    if changes:
        model.set_attn_implementation(attention)
    try:
        prompt = torch.tensor([list(ids)], device=loaded.device)
        # Called as everybody calls it; `generate()` itself works under `no_grad`.
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stamps]),
        )
    finally:
        model.generation_config = own_config
        if changes:
            model.set_attn_implementation(own_attention)
    assert stamps.there[-1][1] == len(ids) + tokens
    return _seconds_a_token(stamps.there)


def _seconds_a_token(there: Sequence[tuple[float, int]]) -> float:
    """From the first pass that gave tokens to the last."""
    (begun, first), (ended, last) = there[0], there[-1]
    return (ended - begun) / (last - first)


def bare_spec(ids: Sequence[int], tokens: int, params: Mapping[str, Any], **kwargs: Any) -> RunSpec:
    """A run of so many tokens, EOS off, the prompt fed at once."""
    chosen = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": [], **params}
    return RunSpec((Prompt(ids=tuple(ids)),), chosen, prefill_chunk=len(ids), **kwargs)


def engine_s(loaded: LoadedModel, ids: Sequence[int], tokens: int, params: Mapping[str, Any]) -> float:
    """Seconds a token of our engine, nothing recorded, no candidates."""
    session = Session(loaded, bare_spec(ids, tokens, params, top_logprobs=0, trace=False))
    there: list[tuple[float, int]] = []
    with session.attached():
        while not session.finished:
            session.advance()
            if session.new_tokens:
                there.append((perf_counter(), session.new_tokens))
    session.close()
    assert there[-1][1] == tokens
    return _seconds_a_token(there)
