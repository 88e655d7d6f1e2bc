"""Models from a config alone, with random weights: names such as `new:gpt2?n_layer=4&n_embd=128&seed=1`.

The options are names of the family's config class, verbatim, plus `seed`. What is not named has a small default, so
that `new:llama` is there at once. Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from core.contract.errors import ModelLoadError
from core.domains.byte_tokenizer import BYTE_VOCABULARY, END_OF_TEXT_ID

PREFIX = "new:"
_ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh")
Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class NewOption:
    """One option of a family. Numbers have inclusive bounds, texts choices; None is allowed where it is the default."""

    name: str
    default: Value
    doc: str
    low: float = 0
    high: float = 1
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewFamily:
    """A family of which new models can be made."""

    name: str  # config.model_type
    title: str
    options: tuple[NewOption, ...]
    heads: tuple[str, ...]  # the width must be a multiple of the first, the first a multiple of the second
    width: str
    text: bool = True


@dataclass(frozen=True, slots=True)
class NewModel:
    """A new model as asked for; `chosen` holds only what differs from the defaults."""

    family: NewFamily
    chosen: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name again, options in the family's order, so that equal models have equal names."""
        asked = "&".join(f"{name}={_written(value)}" for name, value in self.chosen.items())
        return f"{PREFIX}{self.family.name}" + (f"?{asked}" if asked else "")

    @property
    def title(self) -> str:
        """How the model is called in sentences."""
        return f"New {self.family.title}"

    @property
    def values(self) -> dict[str, Value]:
        """Every option with its value."""
        return {option.name: self.chosen.get(option.name, option.default) for option in self.family.options}

    @property
    def seed(self) -> int:
        """Seed of the weights."""
        return int(self.values["seed"] or 0)

    @property
    def types_text(self) -> bool:
        """Whether every byte has an id, so that text can be typed; otherwise prompts are given as ids."""
        return self.family.text and int(self.values["vocab_size"] or 0) >= BYTE_VOCABULARY

    @property
    def notices(self) -> tuple[str, ...]:
        """What should be known about it."""
        how = (
            "one id a byte"
            if self.types_text
            else f"no text: it takes {BYTE_VOCABULARY} ids, one a byte and an end"
            if self.family.text
            else "ids are colours"
        )
        return (f"The weights are random (seed {self.seed}); {how}.",)

    def config(self) -> dict[str, Any]:
        """What its config.json would say."""
        sizes = {name: value for name, value in self.values.items() if name != "seed" and value is not None}
        ends = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID} if self.types_text else {}
        none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        return {"model_type": self.family.name, **none, **ends, **sizes}


def new_model_families() -> tuple[NewFamily, ...]:
    """Architectures that can be made with random weights, with every option, its default and its bounds."""
    return tuple(FAMILIES.values())


def parse_new(name: str) -> NewModel:
    """The model that a name beginning with `new:` asks for. Raises `ModelLoadError`."""
    kind, _, query = name.removeprefix(PREFIX).partition("?")
    family = FAMILIES.get(kind.strip().lower())
    if family is None:
        known = ", ".join(f"{PREFIX}{known}" for known in FAMILIES)
        raise ModelLoadError(f"There is no new model “{kind[:40]}”; choose {known}.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=100)
    except ValueError as error:
        raise ModelLoadError(
            f"The options of “{name[:80]}” are not of the form n_layer=4&seed=1.", detail=str(error)
        ) from error
    options = {option.name: option for option in family.options}
    asked: dict[str, Value] = {}
    for key, text in pairs:
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1, cutoff=0.0)[0]
            raise ModelLoadError(f"{family.title} has no option “{key[:40]}”; the nearest one is “{near}”.")
        if key in asked:
            raise ModelLoadError(f"The option {key} is given twice; remove one of the two.")
        asked[key] = _parse(options[key], text)
    chosen = {o.name: asked[o.name] for o in family.options if o.name in asked and asked[o.name] != o.default}
    model = NewModel(family, chosen)
    _check_shape(model)
    return model


def _parse(option: NewOption, text: str) -> Value:
    default = option.default
    if text.lower() in ("none", "null") and default is None:
        return None
    if option.choices:
        if text not in option.choices:
            raise ModelLoadError(f"{option.name} cannot be “{text[:40]}”; choose {', '.join(option.choices)}.")
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ModelLoadError(f"{option.name} cannot be “{text[:40]}”; it is true or false.")
        return text.lower() == "true"
    whole = not isinstance(default, float)
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.nan
    if not option.low <= number <= option.high:
        kind = "whole number" if whole else "number"
        raise ModelLoadError(
            f"{option.name} cannot be “{text[:40]}”; it is a {kind} from {option.low:g} to {option.high:g}."
        )
    return number


def _check_shape(model: NewModel) -> None:
    """What the families themselves find out late, or never."""
    values, family = model.values, model.family
    width, heads = int(values[family.width] or 0), int(values[family.heads[0]] or 0)
    if values.get("head_dim") is None and width % heads:
        raise ModelLoadError(f"{family.width} = {width} cannot be divided among {family.heads[0]} = {heads} heads.")
    if len(family.heads) > 1:
        groups = int(values[family.heads[1]] or 0)
        if heads % groups:
            raise ModelLoadError(f"{family.heads[0]} = {heads} is no multiple of {family.heads[1]} = {groups}.")
        head_dim = int(values.get("head_dim") or width // heads)
        if head_dim % 2:
            raise ModelLoadError(f"Heads of {head_dim} values cannot be rotated in pairs; choose an even head_dim.")


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _seed() -> NewOption:
    return NewOption("seed", 0, "Seed of the random weights.", 0, (1 << 63) - 1)


def _std() -> NewOption:
    return NewOption(
        "initializer_range", 0.02, "Standard deviation of the weights; 0.3 gives sharp distributions.", 0.0, 10.0
    )


def _size(name: str, default: int | None, doc: str, high: int) -> NewOption:
    return NewOption(name, default, doc, 1, high)


def _gpt(vocab_size: int, positions: int, activation: str, tied: bool) -> tuple[NewOption, ...]:
    return (
        _size("vocab_size", vocab_size, "Tokens.", 1 << 20),
        _size("n_positions", positions, "Positions the model has embeddings for.", 1 << 20),
        _size("n_embd", 128, "Width of the residual stream.", 65_536),
        _size("n_layer", 4, "Layers.", 512),
        _size("n_head", 4, "Attention heads of a layer.", 1024),
        _size("n_inner", None, "Width inside the feed-forward layers; four times n_embd when none.", 1 << 20),
        NewOption("activation_function", activation, "Activation in the feed-forward layers.", choices=_ACTIVATIONS),
        NewOption("layer_norm_epsilon", 1e-5, "Added to the variance in layer norms.", 0.0, 1.0),
        NewOption("scale_attn_weights", True, "Divide attention scores by the root of the head dim."),
        NewOption("scale_attn_by_inverse_layer_idx", False, "Divide them by the number of the layer, too."),
        NewOption("tie_word_embeddings", tied, "The head uses the weights of the embedding."),
        _std(),
        _seed(),
    )


def _rotary(*more: NewOption, tied: bool = False) -> tuple[NewOption, ...]:
    return (
        _size("vocab_size", BYTE_VOCABULARY, "Tokens.", 1 << 20),
        _size("max_position_embeddings", 512, "Positions.", 1 << 20),
        _size("hidden_size", 128, "Width of the residual stream.", 65_536),
        _size("intermediate_size", 352, "Width inside the feed-forward layers.", 1 << 20),
        _size("num_hidden_layers", 4, "Layers.", 512),
        _size("num_attention_heads", 4, "Attention heads of a layer.", 1024),
        _size("num_key_value_heads", 2, "Key/value heads, shared by groups of attention heads.", 1024),
        NewOption("hidden_act", "silu", "Activation in the feed-forward layers.", choices=_ACTIVATIONS),
        NewOption("rms_norm_eps", 1e-6, "Added to the mean square in norms.", 0.0, 1.0),
        NewOption("rope_theta", 10_000.0, "Base of the rotary frequencies.", 1.0, 1e12),
        *more,
        NewOption("tie_word_embeddings", tied, "The head uses the weights of the embedding."),
        _std(),
        _seed(),
    )


FAMILIES: Mapping[str, NewFamily] = {
    family.name: family
    for family in (
        NewFamily("gpt2", "GPT-2", _gpt(BYTE_VOCABULARY, 512, "gelu_new", True), ("n_head",), "n_embd"),
        NewFamily(
            "llama",
            "Llama",
            _rotary(
                _size("head_dim", None, "Values of a head; hidden_size / num_attention_heads when none.", 8192),
                NewOption("attention_bias", False, "Biases in the attention projections."),
                NewOption("mlp_bias", False, "Biases in the feed-forward layers."),
            ),
            ("num_attention_heads", "num_key_value_heads"),
            "hidden_size",
        ),
        NewFamily(
            "qwen2",
            "Qwen2",
            _rotary(
                NewOption("use_sliding_window", False, "The upper layers see a window only."),
                _size("sliding_window", 64, "Positions of that window.", 1 << 20),
                NewOption("max_window_layers", 2, "So many lower layers see everything.", 0, 512),
                tied=True,
            ),
            ("num_attention_heads", "num_key_value_heads"),
            "hidden_size",
        ),
        NewFamily("imagegpt", "ImageGPT", _gpt(513, 1024, "quick_gelu", False), ("n_head",), "n_embd", text=False),
    )
}
