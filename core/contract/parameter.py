"""What the table knows of one generation parameter, and how a value given for it is checked and made plain data.

Clean values are hashable: numbers, texts, None and tuples of them. Lists, and mappings where `GenerationConfig`
takes them, are accepted on the way in, so that JSON round-trips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.contract.errors import ParameterError

Kind = Literal[
    "float", "int", "bool", "choice", "id", "ids", "strings",
    "phrases", "constraints", "biases", "layers", "decay", "watermark",
]  # fmt: skip
Group = Literal["mode", "beams", "assistant", "sampling", "penalties", "constraints", "length", "stopping"]
Need = Literal["sampling", "beams", "groups", "contrastive", "assistant", "lookup"]

MOST_ITEMS = 10_000  # in a list; more is a mistake, and would be read at every token


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the table knows of one parameter. Bounds are inclusive; `soft_*` are the ends of a slider.

    optional: None is a value, and means off. choices: the values of a `choice`, or the words a `layers` takes.
    needs: where it acts; any of them is enough, none means everywhere. advanced: a window may fold it away.
    """

    kind: Kind
    group: Group
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    soft_minimum: float | None = None
    soft_maximum: float | None = None
    decimals: int = 2
    log_scale: bool = False
    optional: bool = False
    choices: tuple[str | bool, ...] = ()
    needs: tuple[Need, ...] = ()
    advanced: bool = False
    name: str = ""

    @property
    def needs_sampling(self) -> bool:
        """Whether it has an effect when do_sample is on, and in greedy search has none."""
        return "sampling" in self.needs


def clean(parameter: Parameter, value: object) -> Any:
    """The value as plain data. Raises `ParameterError` with one sentence."""
    if value is None and parameter.optional:
        return None
    try:
        found = _READ[parameter.kind](parameter, value)
    except (TypeError, ValueError, OverflowError):
        expected = expected_words(parameter)
        raise ParameterError(f"{parameter.name} cannot be {_short(value)}; it takes {expected}.") from None
    if isinstance(found, int | float) and not isinstance(found, bool) and parameter.kind in ("int", "float"):
        check_bounds(parameter, found)
    return found


def check_bounds(parameter: Parameter, value: float) -> None:
    """Raises `ParameterError` outside the inclusive bounds."""
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ParameterError(f"{parameter.name} cannot be {value:g}; it must be {bounds}.")


def expected_words(parameter: Parameter) -> str:
    """What values of this parameter look like, for an error or a tooltip."""
    words = _EXPECTED[parameter.kind]
    if parameter.choices:
        words += ", ".join(str(c).lower() if isinstance(c, bool) else f"“{c}”" for c in parameter.choices)
    return words + (" or null" if parameter.optional else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _number(parameter: Parameter, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    if parameter.kind == "float":
        return float(value)
    return _whole(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    return int(value)


def _bool(parameter: Parameter, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _choice(parameter: Parameter, value: object) -> object:
    # By type too: 1 == True.
    for choice in parameter.choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise ValueError


def _items(value: object) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > MOST_ITEMS:
        raise TypeError
    return list(value)


def _id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _ids(value: object, *, empty: bool = False) -> tuple[int, ...]:
    found = tuple(_id(v) for v in _items(value))
    if not found and not empty:
        raise ValueError
    return found


def _one_or_ids(parameter: Parameter, value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    return _ids([value] if isinstance(value, int) else value, empty=True)


def _strings(parameter: Parameter, value: object) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else _items(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError
    return tuple(texts)


def _phrases(parameter: Parameter, value: object) -> tuple[tuple[int, ...], ...]:
    return () if value is None else tuple(_ids(phrase) for phrase in _items(value))


def _constraints(parameter: Parameter, value: object) -> tuple[object, ...]:
    """Phrases (lists of ids), or lists of alternative phrases."""
    found: list[object] = []
    for item in [] if value is None else _items(value):
        parts = _items(item)
        nested = bool(parts) and all(isinstance(part, list | tuple) for part in parts)
        found.append(tuple(_ids(part) for part in parts) if nested else _ids(parts))
    return tuple(found)


def _biases(parameter: Parameter, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    """A mapping of id tuples to biases, or pairs of ids and a bias."""
    pairs = [] if value is None else list(value.items()) if isinstance(value, Mapping) else _items(value)
    found: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        ids, bias = _items(pair)
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not math.isfinite(bias):
            raise TypeError
        found[_ids(ids)] = float(bias)
    return tuple(found.items())


def _layers(parameter: Parameter, value: object) -> object:
    if isinstance(value, str):
        return _choice(parameter, value)
    return _ids(value)


def _decay(parameter: Parameter, value: object) -> tuple[int, float] | tuple[()]:
    if value is None or value in ((), []):
        return ()
    start, factor = _items(value)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 0:
        raise ValueError
    return _id(_whole(start)), float(factor)


def _whole_within(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and low <= v <= high, f"a whole number between {low:,} and {high:,}"


# What a key takes, and the same in words. Keys of hashes are int64 in torch.
_Checks = dict[str, tuple[Callable[[Any], bool], str]]
_BOOL: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, bool), "true or false")
_INT64 = _whole_within(-(2**63), 2**63 - 1)
_WATERMARK: _Checks = {
    "greenlist_ratio": (lambda v: 0.0 < v < 1.0, "above 0 and below 1"),
    "bias": (math.isfinite, "a finite number"),
    "hashing_key": _INT64,
    "seeding_scheme": (lambda v: v in ("lefthash", "selfhash"), "“lefthash” or “selfhash”"),
    "context_width": _whole_within(1, 2**20),
}
_SYNTHID: _Checks = {
    "ngram_len": _whole_within(2, 1024),
    "keys": (
        lambda v: isinstance(v, list | tuple) and 0 < len(v) <= 1024 and all(map(_INT64[0], v)),
        "a list of up to 1,024 whole numbers of at most 64 bits",
    ),
    "context_history_size": _whole_within(1, 2**20),
    "sampling_table_seed": _whole_within(0, 2**63 - 1),
    "sampling_table_size": _whole_within(1, 2**24),
    "skip_first_ngram_calls": _BOOL,
    "debug_mode": _BOOL,
}


def _takes(check: Callable[[Any], bool], value: object) -> bool:
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _watermark(parameter: Parameter, value: object) -> tuple[tuple[str, object], ...]:
    """The keys of `WatermarkingConfig`, or of `SynthIDTextWatermarkingConfig` (which has `keys`), by name."""
    if value is None:
        return ()
    pairs: dict[str, object] = dict(value) if isinstance(value, Mapping) else dict(_items(value))
    known = _SYNTHID if "keys" in pairs else _WATERMARK
    for name, one in pairs.items():
        if name not in known:
            raise ValueError
        if not _takes(known[name][0], one) or (isinstance(one, bool) and known is _WATERMARK):
            raise ParameterError(f"{parameter.name} cannot be {_short(value)}; {name} must be {known[name][1]}.")
    if known is _SYNTHID and "ngram_len" not in pairs:
        raise ValueError
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(pairs.items()))


_READ: dict[Kind, Callable[[Parameter, object], Any]] = {
    "float": _number,
    "int": _number,
    "bool": _bool,
    "choice": _choice,
    "id": lambda _, value: _id(value),
    "ids": _one_or_ids,
    "strings": _strings,
    "phrases": _phrases,
    "constraints": _constraints,
    "biases": _biases,
    "layers": _layers,
    "decay": _decay,
    "watermark": _watermark,
}

_EXPECTED: dict[Kind, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "choice": "one of ",
    "id": "a token id",
    "ids": "a list of token ids",
    "strings": "a list of texts that are not empty",
    "phrases": "a list of phrases, each a list of token ids",
    "constraints": "a list of phrases (lists of token ids) or of lists of alternative phrases",
    "biases": "a list of pairs of token ids and a bias, such as [[[15, 7], -2.0]]",
    "layers": "a list of layer numbers, ",
    "decay": "a start (in new tokens) and a factor above 0, such as [20, 1.05]",
    "watermark": (
        "the keys of a WatermarkingConfig (greenlist_ratio, bias, hashing_key, seeding_scheme, context_width) or of a "
        "SynthIDTextWatermarkingConfig (keys, ngram_len, …) with values it allows"
    ),
}
