"""Models from a config alone, with random weights: names such as `new:gpt2?n_layer=4&n_embd=128&seed=1`.

The options are names of the family's config class, verbatim, plus `seed`. What is not named has a small default, so
that `new:llama` is there at once. Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from core.contract.errors import ModelLoadError
from core.domains.byte_tokenizer import BYTE_VOCABULARY, END_OF_TEXT_ID
from core.models.new_families import AUTO, FAMILIES, NewFamily, NewOption, Value
from core.models.rope import rope_problem

__all__ = ["FAMILIES", "NewFamily", "NewModel", "NewOption", "new_model_families", "parse_new", "parse_value"]

PREFIX = "new:"
_LONGEST_JSON = 4096


@dataclass(frozen=True, slots=True)
class NewModel:
    """A new model as asked for; `chosen` holds only what differs from the defaults."""

    family: NewFamily
    chosen: Mapping[str, Value] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name again, options in the family's order, so that equal models have equal names."""
        asked = "&".join(f"{name}={quote(written(value), safe='.,-+')}" for name, value in self.chosen.items())
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
        values = self.values
        config: dict[str, Any] = {"model_type": self.family.name}
        if values.get("rope_parameters") is not None:
            del values["rope_theta"]
        for option in self.family.options:
            if option.name == "seed" or option.name not in values:
                continue
            value = values[option.name]
            if option.kind == "id":
                config[option.name] = self._id(value)
            elif value is not None:
                config[option.name] = json.loads(str(value)) if option.kind == "json" else value
        return config

    @property
    def usual_end(self) -> int | None:
        """The id that begins and ends texts unless another one is named."""
        return END_OF_TEXT_ID if self.types_text else None

    def _id(self, value: Value) -> Any:
        if value == AUTO:
            return self.usual_end
        return json.loads(value) if isinstance(value, str) else value


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
            near = difflib.get_close_matches(key, options, n=1)
            hint = f"the nearest one is “{near[0]}”" if near else f"it has {', '.join(list(options)[:6])} and more"
            raise ModelLoadError(f"{family.title} has no option “{key[:40]}”; {hint}.")
        if key in asked:
            raise ModelLoadError(f"The option {key} is given twice; remove one of the two.")
        asked[key] = parse_value(options[key], text)
    chosen = {o.name: asked[o.name] for o in family.options if o.name in asked and asked[o.name] != o.default}
    model = NewModel(family, chosen)
    for _, problem in shape_problems(model.family, model.values):
        raise ModelLoadError(problem)
    return model


def parse_value(option: NewOption, text: str) -> Value:
    """The value that a text means; lists and objects stay JSON text. Raises `ModelLoadError` saying what it takes."""
    default = option.default
    if text.lower() in ("none", "null") and (default is None or option.kind == "id"):
        return None
    if option.kind != "plain":
        return _parse_json(option, text)
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
            f"{option.name} cannot be “{text[:40]}”; it is a {kind} from {_bound(option.low)} to {_bound(option.high)}."
        )
    return number


def _bound(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and value < 1e7 else f"{value:g}"


def _parse_json(option: NewOption, text: str) -> Value:
    """A token id, `auto`, or JSON of the kind the option takes, written in one way."""
    if option.kind == "id" and text.lower() == AUTO and option.default == AUTO:
        return AUTO
    try:
        content = json.loads(text) if len(text) <= _LONGEST_JSON else None
    except (ValueError, RecursionError):
        content = None
    if option.kind == "json":
        if not isinstance(content, dict | list):
            raise ModelLoadError(f'{option.name} cannot be “{text[:40]}”; it is JSON such as {{"rope_theta": 10000}}.')
        return json.dumps(content)
    ids = content if isinstance(content, list) else [content]
    if not ids or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ModelLoadError(f"{option.name} cannot be “{text[:40]}”; it is a token id, a list of them, or none.")
    return json.dumps(content) if isinstance(content, list) else content


def shape_problems(family: NewFamily, values: Mapping[str, Value]) -> list[tuple[tuple[str, ...], str]]:
    """What the families themselves find out late, or never: the fields concerned, and a sentence."""
    found: list[tuple[tuple[str, ...], str]] = []
    width, heads = int(values[family.width] or 0), int(values[family.heads[0]] or 0)
    if values.get("head_dim") is None and width % heads:
        names = (family.width, family.heads[0])
        found.append((names, f"{names[0]} = {width} cannot be divided among {names[1]} = {heads} heads."))
    elif len(family.heads) > 1:
        head_dim = int(values.get("head_dim") or width // heads)
        if head_dim % 2:
            name = "head_dim" if values.get("head_dim") else family.heads[0]
            found.append(((name,), f"Heads of {head_dim} values cannot be rotated in pairs; choose an even head_dim."))
    if len(family.heads) > 1:
        groups = int(values[family.heads[1]] or 0)
        if heads % groups:
            text = f"{family.heads[0]} = {heads} is no multiple of {family.heads[1]} = {groups}."
            found.append((family.heads, text))
    rope = values.get("rope_parameters")
    if rope is not None and rope != AUTO:
        problem = rope_problem(json.loads(str(rope)))
        found += [] if problem is None else [(("rope_parameters",), problem)]
    kinds = values.get("layer_types")
    if kinds is not None and kinds != AUTO:
        problem = _layer_types_problem(json.loads(str(kinds)), int(values.get("num_hidden_layers") or 0))
        found += [] if problem is None else [(("layer_types",), problem)]
    if not family.text and int(values["vocab_size"] or 0) < 2:
        text = "vocab_size must be at least 2: the last token only starts a picture, and there must be a colour."
        found.append((("vocab_size",), text))
    return found + _id_problems(family, values)


def _layer_types_problem(kinds: Any, layers: int) -> str | None:
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
        return f"layer_types is a list of {' and '.join(known)}, one a layer."
    return None if len(kinds) == layers else f"layer_types names {len(kinds)} layers, but num_hidden_layers = {layers}."


def _id_problems(family: NewFamily, values: Mapping[str, Value]) -> list[tuple[tuple[str, ...], str]]:
    size = int(values["vocab_size"] or 0)
    found: list[tuple[tuple[str, ...], str]] = []
    for option in family.options:
        value = values.get(option.name) if option.kind == "id" else None
        if value is None or value == AUTO:
            continue
        content = json.loads(str(value))
        largest = max(content if isinstance(content, list) else [content])
        if largest >= size:
            text = f"{option.name} = {largest} is no token of a vocabulary of {size:,}; the last one is {size - 1:,}."
            found.append(((option.name, "vocab_size"), text))
    return found


def written(value: Value) -> str:
    """A value as it stands in a name."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
