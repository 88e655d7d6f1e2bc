"""Generation parameters: `GenerationConfig` names verbatim, one table for engine, command line and window.

A parameter is declared once, as a field of `GenerationParams` with a `Parameter` in its metadata; the
validation, the sliders, the tooltips and the "nearest known name" all read that table. What several of them
say together is judged in `together.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from core.contract.errors import ParameterError
from core.contract.parameter import Parameter, clean

Phrase = tuple[int, ...]


def _parameter(default: object, **kwargs: Any) -> Any:
    return field(default=default, metadata={"parameter": Parameter(**kwargs)})


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One resolved set of parameters. Defaults are those in force in `generate()` (top_k = 50 included).

    Where `GenerationConfig` says None and a neutral number exists, it stands here (min_p 0, guidance_scale 1, …);
    None where there is none; the empty tuple for lists.
    """

    do_sample: bool = _parameter(
        False,
        kind="bool",
        group="mode",
        doc="Draw the next token at random; off takes the likeliest (greedy).",
    )
    temperature: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, soft_maximum=2.0, needs=("sampling",),
        doc="Divides the logits. Below 1 sharpens the distribution, above 1 flattens it; 0 means greedy.",
    )  # fmt: skip
    top_k: int = _parameter(
        50, kind="int", group="sampling", minimum=0, soft_maximum=200, needs=("sampling", "contrastive"),
        doc="Keep only the k likeliest tokens. 0 keeps all. Contrastive search compares the k likeliest.",
    )  # fmt: skip
    top_p: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs=("sampling",),
        doc="Nucleus: keep the smallest set of likeliest tokens whose probabilities reach p. 1 keeps all.",
    )  # fmt: skip
    min_p: float = _parameter(
        0.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs=("sampling",),
        doc="Keep tokens at least min_p times as likely as the likeliest one. 0 keeps all.",
    )  # fmt: skip
    typical_p: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs=("sampling",),
        doc="Keep the tokens whose surprisal is closest to the entropy, up to this mass. 1 keeps all.",
    )  # fmt: skip
    top_h: float = _parameter(
        0.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs=("sampling",), advanced=True,
        doc="Keep the likeliest tokens (of the first 100) up to this part of the entropy. 0 is off.",
    )  # fmt: skip
    epsilon_cutoff: float = _parameter(
        0.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, soft_maximum=0.01, decimals=4,
        needs=("sampling",), advanced=True,
        doc="Keep tokens of at least this probability. 0 and 1 are off.",
    )  # fmt: skip
    eta_cutoff: float = _parameter(
        0.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, soft_maximum=0.01, decimals=4,
        needs=("sampling",), advanced=True,
        doc="Like epsilon_cutoff, but lower where the entropy is high: min(eta, √eta · exp(−entropy)). 0 is off.",
    )  # fmt: skip
    renormalize_logits: bool = _parameter(
        False, kind="bool", group="sampling", advanced=True,
        doc="Make the scores log-probabilities again after the last stage; beams add them up.",
    )  # fmt: skip
    repetition_penalty: float = _parameter(
        1.0, kind="float", group="penalties", minimum=0.01, maximum=100.0, soft_minimum=0.5, soft_maximum=2.0,
        doc="Divides positive and multiplies negative logits of tokens already in the sequence. 1 is off.",
    )  # fmt: skip
    no_repeat_ngram_size: int = _parameter(
        0, kind="int", group="penalties", minimum=0, soft_maximum=10,
        doc="No sequence of this many tokens may occur twice. 0 is off.",
    )  # fmt: skip
    encoder_repetition_penalty: float = _parameter(
        1.0, kind="float", group="penalties", minimum=0.01, maximum=100.0, soft_minimum=0.5, soft_maximum=2.0,
        advanced=True,
        doc="Above 1 favours the tokens of the prompt, below 1 avoids them. 1 is off.",
    )  # fmt: skip
    encoder_no_repeat_ngram_size: int = _parameter(
        0, kind="int", group="penalties", minimum=0, soft_maximum=10, advanced=True,
        doc="No sequence of this many tokens of the prompt may be said again. 0 is off.",
    )  # fmt: skip
    exponential_decay_length_penalty: tuple[int, float] | tuple[()] = _parameter(
        (), kind="decay", group="penalties", advanced=True,
        doc="From so many new tokens on, raise the end-of-sequence score by a growing factor: [start, factor].",
    )  # fmt: skip
    sequence_bias: tuple[tuple[Phrase, float], ...] = _parameter(
        (), kind="biases", group="constraints", advanced=True,
        doc="Adds a bias to the score of a token, or of the token that completes a sequence: [[[ids], bias], …].",
    )  # fmt: skip
    bad_words_ids: tuple[Phrase, ...] = _parameter(
        (), kind="phrases", group="constraints", advanced=True,
        doc="Sequences of token ids that must not be generated: [[ids], …].",
    )  # fmt: skip
    suppress_tokens: tuple[int, ...] = _parameter(
        (), kind="ids", group="constraints", advanced=True,
        doc="Token ids that are never generated.",
    )  # fmt: skip
    begin_suppress_tokens: tuple[int, ...] = _parameter(
        (), kind="ids", group="constraints", advanced=True,
        doc="Token ids that are not generated as the first token.",
    )  # fmt: skip
    forced_bos_token_id: int | None = _parameter(
        None, kind="id", group="constraints", optional=True, advanced=True,
        doc="The token forced behind a prompt that is a single token.",
    )  # fmt: skip
    forced_eos_token_id: tuple[int, ...] = _parameter(
        (), kind="ids", group="constraints", advanced=True,
        doc="The tokens of which the last one must be one when the length is reached.",
    )  # fmt: skip
    remove_invalid_values: bool = _parameter(
        False, kind="bool", group="constraints", advanced=True,
        doc="Replace logits that are not finite: NaN by 0, infinite ones by the largest or smallest number.",
    )  # fmt: skip
    watermarking_config: tuple[tuple[str, object], ...] = _parameter(
        (), kind="watermark", group="constraints", advanced=True,
        doc="Favour a green list of tokens drawn from the tokens before: the keys of a WatermarkingConfig.",
    )  # fmt: skip
    max_new_tokens: int = _parameter(
        256, kind="int", group="length", minimum=1, soft_maximum=2048, log_scale=True,
        doc="Generate at most this many tokens.",
    )  # fmt: skip
    min_new_tokens: int = _parameter(
        0, kind="int", group="length", minimum=0, soft_maximum=256,
        doc="Forbid end-of-sequence tokens until this many tokens were generated.",
    )  # fmt: skip
    max_length: int | None = _parameter(
        None, kind="int", group="length", minimum=1, soft_maximum=2048, log_scale=True, optional=True, advanced=True,
        doc="At most this many tokens in all, the prompt included.",
    )  # fmt: skip
    min_length: int = _parameter(
        0, kind="int", group="length", minimum=0, soft_maximum=512, advanced=True,
        doc="Forbid end-of-sequence tokens until there are this many tokens in all, the prompt included.",
    )  # fmt: skip
    eos_token_id: tuple[int, ...] = _parameter(
        (),
        kind="ids",
        group="stopping",
        doc="Token ids that end the sequence. Empty: only the length ends it.",
    )
    stop_strings: tuple[str, ...] = _parameter(
        (), kind="strings", group="stopping", doc="Texts that end the generation, found across token borders."
    )
    max_time: float | None = _parameter(
        None, kind="float", group="stopping", minimum=0.0, soft_maximum=60.0, optional=True, advanced=True,
        doc="End after this many seconds, with the token then in work.",
    )  # fmt: skip
    num_return_sequences: int = _parameter(
        1, kind="int", group="mode", minimum=1, maximum=64, soft_maximum=8, needs=("sampling", "beams"),
        doc="How many continuations of each prompt: independent ones when sampling, the best ones of the beams.",
    )  # fmt: skip
    guidance_scale: float = _parameter(
        1.0, kind="float", group="mode", minimum=0.0, soft_minimum=1.0, soft_maximum=5.0, advanced=True,
        doc="Classifier-free guidance: how far to go away from what the negative prompt would say. 1 is off.",
    )  # fmt: skip
    penalty_alpha: float = _parameter(
        0.0, kind="float", group="mode", minimum=0.0, maximum=1.0, advanced=True,
        doc="Contrastive search: weight of the penalty for likeness to what was said. Above 0 chooses that mode.",
    )  # fmt: skip
    dola_layers: str | tuple[int, ...] | None = _parameter(
        None, kind="layers", group="mode", choices=("low", "high"), optional=True, advanced=True,
        doc="DoLa: the layers contrasted with the last one, low, high or their numbers. Chooses that mode.",
    )  # fmt: skip
    num_beams: int = _parameter(
        1, kind="int", group="beams", minimum=1, maximum=64, soft_maximum=8,
        doc="How many continuations are followed at once. 1 is no beam search.",
    )  # fmt: skip
    length_penalty: float = _parameter(
        1.0, kind="float", group="beams", soft_minimum=-2.0, soft_maximum=2.0, needs=("beams",), advanced=True,
        doc="A beam's score is divided by its length to this power: above 0 favours long beams, below 0 short ones.",
    )  # fmt: skip
    early_stopping: bool | str = _parameter(
        False, kind="choice", group="beams", choices=(False, True, "never"), needs=("beams",), advanced=True,
        doc="When beams end: true at num_beams finished ones, false when none better is likely, never if it can be.",
    )  # fmt: skip
    num_beam_groups: int = _parameter(
        1, kind="int", group="beams", minimum=1, maximum=64, soft_maximum=8, needs=("beams",), advanced=True,
        doc="Diverse beam search: groups of beams that are kept apart. 1 is off.",
    )  # fmt: skip
    diversity_penalty: float = _parameter(
        0.0, kind="float", group="beams", minimum=0.0, soft_maximum=2.0, needs=("groups",), advanced=True,
        doc="Taken from the score of a token as often as the groups before chose it at this step.",
    )  # fmt: skip
    force_words_ids: tuple[tuple[int, ...] | tuple[Phrase, ...], ...] = _parameter(
        (), kind="constraints", group="beams", advanced=True,
        doc="Phrases that beams must say; a list of phrases instead of one asks for any of them. Chooses that mode.",
    )  # fmt: skip
    prompt_lookup_num_tokens: int | None = _parameter(
        None, kind="int", group="assistant", minimum=1, soft_maximum=20, optional=True, advanced=True,
        doc="Draft this many tokens from where the last ones occurred before. Chooses assisted generation.",
    )  # fmt: skip
    max_matching_ngram_size: int = _parameter(
        2, kind="int", group="assistant", minimum=1, soft_maximum=10, needs=("lookup",), advanced=True,
        doc="The longest sequence of last tokens that is looked up in the text before.",
    )  # fmt: skip
    assistant_early_exit: int | None = _parameter(
        None, kind="int", group="assistant", minimum=1, soft_maximum=32, optional=True, advanced=True,
        doc="Draft with the model's own first layers, this many, and its head. Chooses assisted generation.",
    )  # fmt: skip
    num_assistant_tokens: int = _parameter(
        20, kind="int", group="assistant", minimum=1, soft_maximum=32, needs=("assistant",), advanced=True,
        doc="How many tokens the draft model proposes at once.",
    )  # fmt: skip
    num_assistant_tokens_schedule: str = _parameter(
        "constant", kind="choice", group="assistant", choices=("constant", "heuristic", "heuristic_transient"),
        needs=("assistant",), advanced=True,
        doc="Whether num_assistant_tokens grows by 2 when all are accepted and shrinks by 1 otherwise.",
    )  # fmt: skip
    assistant_confidence_threshold: float = _parameter(
        0.4, kind="float", group="assistant", minimum=0.0, maximum=1.0, needs=("assistant",), advanced=True,
        doc="The draft ends where the probability of its token is below this. 0 is off.",
    )  # fmt: skip

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: temperature 0 means greedy."""
        return self.do_sample and self.temperature > 0

    @property
    def mode(self) -> str:
        """The `GenerationMode` name `generate()` would infer from these values."""
        return self.infer_mode()

    def infer_mode(self, assisted: bool = False) -> str:
        """The same where an assistant model is there. As `GenerationConfig.get_generation_mode` (4.51)."""
        if self.force_words_ids:
            return "constrained_beam_search"
        if self.num_beams > 1:
            if self.num_beam_groups > 1:
                return "group_beam_search"
            return "beam_sample" if self.samples else "beam_search"
        if not self.samples and self.penalty_alpha > 0 and self.top_k > 1:
            return "contrastive_search"
        if assisted or self.prompt_lookup_num_tokens is not None or self.assistant_early_exit is not None:
            return "assisted_generation"
        if self.dola_layers is not None:
            return "dola_generation"
        return "sample" if self.samples else "greedy_search"

    def replace(self, changes: Mapping[str, object]) -> GenerationParams:
        """A copy with `changes` (validated). Raises `ParameterError`."""
        return dataclasses.replace(self, **validate(changes))


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {f.name: dataclasses.replace(f.metadata["parameter"], name=f.name) for f in dataclasses.fields(GenerationParams)}
)
MODES = (
    "greedy_search",
    "sample",
    "beam_search",
    "beam_sample",
    "group_beam_search",
    "constrained_beam_search",
    "contrastive_search",
    "dola_generation",
    "assisted_generation",
)
SMALLEST_TEMPERATURE = 1e-4  # below it fp32 logits overflow; 0 itself means greedy


def validate(changes: Mapping[str, object]) -> dict[str, Any]:
    """Check names, types and bounds; return clean values. Raises `ParameterError` with one sentence."""
    return {name: _validate_one(name, value) for name, value in changes.items()}


def _validate_one(name: str, value: object) -> Any:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        near = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.0)
        raise ParameterError(f"Unknown parameter “{name}”; the nearest known name is “{near[0]}”.")
    found = clean(parameter, value)
    if name == "temperature" and 0 < found < SMALLEST_TEMPERATURE:
        raise ParameterError(
            f"temperature cannot be {found:g}; take 0 for greedy or at least {SMALLEST_TEMPERATURE:g}."
        )
    return found


def as_generation_config(params: GenerationParams) -> dict[str, Any]:
    """What differs from the defaults as JSON, in the shapes of `GenerationConfig`; `validate` reads it back."""
    defaults = GenerationParams()
    changed = {n: getattr(params, n) for n in PARAMETERS if getattr(params, n) != getattr(defaults, n)}
    return {n: dict(v) if n == "watermarking_config" else v for n, v in _lists(changed).items()}


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, tuple) else value
