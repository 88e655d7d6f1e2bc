"""A config class as data: its fields, with types, defaults, aliases and what its docstring says of each."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from core.contract.configs import ConfigField, FieldKind, OutputKey
from core.models.new_families import NewFamily, NewOption

# An entry of an `Args:` section: `    name (`type`, *optional*, defaults to `1`):`, its text indented further.
_ENTRY = re.compile(r"^ {4}(\w+) \(.*\):\s*$")
_KINDS: Mapping[str, FieldKind] = {"int": "int", "float": "float", "bool": "bool", "str": "text"}


def own_fields(kind: type[PretrainedConfig]) -> tuple[dataclasses.Field[Any], ...]:
    """The fields that the family adds to those every config has (labels, dtype and the like)."""
    shared = {field.name for field in dataclasses.fields(PretrainedConfig)}
    return tuple(f for f in dataclasses.fields(kind) if f.name not in shared)


def class_defaults(kind: type[PretrainedConfig]) -> dict[str, object]:
    """The defaults as the class writes them, before it fills in what follows from others."""
    return {
        f.name: f.default_factory() if f.default is dataclasses.MISSING and callable(f.default_factory) else f.default
        for f in own_fields(kind)
    }


def aliases(kind: type[PretrainedConfig]) -> dict[str, tuple[str, ...]]:
    """Field → its other names, from `attribute_map`."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, name in kind.attribute_map.items():
        found[name] = (*found.get(name, ()), alias)
    return found


def documentation(kind: type[PretrainedConfig]) -> dict[str, str]:
    """What the docstring of the class says of each field, in one line; empty where docstrings were stripped."""
    texts: dict[str, list[str]] = {}
    name = None
    for line in (inspect.getdoc(kind) or "").splitlines():
        entry = _ENTRY.match(line)
        if entry is not None:
            name = entry[1]
            texts[name] = []
        elif name is not None and line.startswith(" " * 8):
            texts[name].append(line.strip())
        elif line.strip():
            name = None
    return {name: " ".join(lines) for name, lines in texts.items()}


def describe_fields(
    kind: type[PretrainedConfig], family: NewFamily | None, values: Mapping[str, object], editable: bool
) -> tuple[ConfigField, ...]:
    """Every field with its value. `family`: ours, where models of it can be made."""
    said, named, defaults = documentation(kind), aliases(kind), class_defaults(kind)
    made = []
    for field in own_fields(kind):
        option = family.option(field.name) if family is not None else None
        default, value = defaults[field.name], values.get(field.name, defaults[field.name])
        made.append(
            ConfigField(
                name=field.name,
                kind=_kind(field, option),
                type_name=_type_name(field),
                default=default,
                value=value,
                meaning=option.doc if option is not None else _first_sentence(said.get(field.name, "")),
                documentation=said.get(field.name, ""),
                aliases=named.get(field.name, ()),
                choices=option.choices if option is not None else (),
                nullable="None" in _type_name(field),
                changed=field.name in values and value != default,
                editable=editable and option is not None,
            )
        )
    return tuple(made)


def output_keys(kind: type[PretrainedConfig]) -> tuple[OutputKey, ...]:
    """`keys_to_ignore_at_inference`, and what becomes of those outputs. A test runs each of the callers."""
    uses = (
        ("forward", "returned: with use_cache the output holds it, and the next call can be given it"),
        ("generate", "used: each step feeds the last token and this; returned with return_dict_in_generate only"),
        ("pipeline", "used by the generate inside; what comes out is text alone"),
        ("Trainer", "left out: evaluate and predict gather the outputs of all batches, but not those named here"),
    )
    return tuple(OutputKey(key, uses) for key in kind.keys_to_ignore_at_inference)


def _kind(field: dataclasses.Field[Any], option: NewOption | None) -> FieldKind:
    if option is not None and option.kind != "plain":
        return "ids" if option.kind == "id" else "json"
    if option is not None and option.choices:
        return "choice"
    if option is not None and option.default is not None:
        return _KINDS[type(option.default).__name__]
    first = _type_name(field).split(" | ")[0]
    return _KINDS.get(first, "json")


def _type_name(field: dataclasses.Field[Any]) -> str:
    kind = field.type
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
