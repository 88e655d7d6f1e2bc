"""Generation parameters: `GenerationConfig` names verbatim, one table for engine, command line and window.

A parameter is declared once, as a field of `GenerationParams` with a `Parameter` in its metadata; the
validation, the sliders, the tooltips and the "nearest known name" all read that table.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from core.contract.errors import ParameterError

Kind = Literal["float", "int", "bool", "ids", "strings"]
Group = Literal["mode", "sampling", "penalties", "length", "stopping"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the table knows of one parameter. Bounds are inclusive; `soft_*` are the ends of a slider."""

    kind: Kind
    group: Group
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    soft_minimum: float | None = None
    soft_maximum: float | None = None
    decimals: int = 2
    log_scale: bool = False
    needs_sampling: bool = False  # has an effect only when do_sample is on
    name: str = ""


def _parameter(default: object, **kwargs: Any) -> Any:
    return field(default=default, metadata={"parameter": Parameter(**kwargs)})


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One resolved set of parameters. Defaults are those of `GenerationConfig` (top_k = 50 included)."""

    do_sample: bool = _parameter(
        False,
        kind="bool",
        group="mode",
        doc="Draw the next token at random; off takes the likeliest (greedy).",
    )
    temperature: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, soft_maximum=2.0, needs_sampling=True,
        doc="Divides the logits. Below 1 sharpens the distribution, above 1 flattens it; 0 means greedy.",
    )  # fmt: skip
    top_k: int = _parameter(
        50, kind="int", group="sampling", minimum=0, soft_maximum=200, needs_sampling=True,
        doc="Keep only the k likeliest tokens. 0 keeps all.",
    )  # fmt: skip
    top_p: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs_sampling=True,
        doc="Nucleus: keep the smallest set of likeliest tokens whose probabilities reach p. 1 keeps all.",
    )  # fmt: skip
    min_p: float = _parameter(
        0.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs_sampling=True,
        doc="Keep tokens at least min_p times as likely as the likeliest one. 0 keeps all.",
    )  # fmt: skip
    typical_p: float = _parameter(
        1.0, kind="float", group="sampling", minimum=0.0, maximum=1.0, needs_sampling=True,
        doc="Keep the tokens whose surprisal is closest to the entropy, up to this mass. 1 keeps all.",
    )  # fmt: skip
    repetition_penalty: float = _parameter(
        1.0, kind="float", group="penalties", minimum=0.01, maximum=100.0, soft_minimum=0.5, soft_maximum=2.0,
        doc="Divides positive and multiplies negative logits of tokens already in the sequence. 1 is off.",
    )  # fmt: skip
    no_repeat_ngram_size: int = _parameter(
        0, kind="int", group="penalties", minimum=0, soft_maximum=10,
        doc="No sequence of this many tokens may occur twice. 0 is off.",
    )  # fmt: skip
    max_new_tokens: int = _parameter(
        256, kind="int", group="length", minimum=1, soft_maximum=2048, log_scale=True,
        doc="Generate at most this many tokens.",
    )  # fmt: skip
    min_new_tokens: int = _parameter(
        0, kind="int", group="length", minimum=0, soft_maximum=256,
        doc="Forbid end-of-sequence tokens until this many tokens were generated.",
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
    num_return_sequences: int = _parameter(
        1, kind="int", group="mode", minimum=1, maximum=64, soft_maximum=8, needs_sampling=True,
        doc="How many independent continuations to generate from each prompt.",
    )  # fmt: skip

    @property
    def mode(self) -> str:
        """The `GenerationMode` name `generate()` would infer from these values."""
        return "sample" if self.do_sample and self.temperature > 0 else "greedy_search"

    def replace(self, changes: Mapping[str, object]) -> GenerationParams:
        """A copy with `changes` (validated). Raises `ParameterError`."""
        return dataclasses.replace(self, **validate(changes))


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {f.name: dataclasses.replace(f.metadata["parameter"], name=f.name) for f in dataclasses.fields(GenerationParams)}
)
MODES = ("greedy_search", "sample")
SMALLEST_TEMPERATURE = 1e-4  # below it fp32 logits overflow; 0 itself means greedy


def validate(changes: Mapping[str, object]) -> dict[str, Any]:
    """Check names, types and bounds; return clean values. Raises `ParameterError` with one sentence."""
    return {name: _validate_one(name, value) for name, value in changes.items()}


def _validate_one(name: str, value: object) -> Any:
    parameter = PARAMETERS.get(name)
    if parameter is None:
        near = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.0)
        raise ParameterError(f"Unknown parameter “{name}”; the nearest known name is “{near[0]}”.")
    clean = _coerce(name, parameter.kind, value)
    if isinstance(clean, int | float) and not isinstance(clean, bool):
        _check_bounds(name, parameter, clean)
    return clean


def _coerce(name: str, kind: Kind, value: object) -> Any:
    wrong = ParameterError(f"{name} cannot be {value!r}; it takes {_EXPECTED[kind]}.")
    if kind == "bool":
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind in ("int", "float"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong
        if kind == "int" and value != int(value):
            raise wrong
        return int(value) if kind == "int" else float(value)
    one: type = int if kind == "ids" else str
    values = [] if value is None else [value] if isinstance(value, int | str) else value
    if not isinstance(values, list | tuple):
        raise wrong
    if not all(isinstance(v, one) and not isinstance(v, bool) and v not in ("",) for v in values):
        raise wrong
    return tuple(values)


_EXPECTED: dict[Kind, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "ids": "a list of token ids",
    "strings": "a list of texts that are not empty",
}


def _check_bounds(name: str, parameter: Parameter, value: float) -> None:
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ParameterError(f"{name} cannot be {value:g}; it must be {bounds}.")
    if name == "temperature" and 0 < value < SMALLEST_TEMPERATURE:
        raise ParameterError(
            f"temperature cannot be {value:g}; take 0 for greedy or at least {SMALLEST_TEMPERATURE:g}."
        )
