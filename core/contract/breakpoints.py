"""Breakpoints: conditions that are looked at between two tokens and stop the run, their words and their notation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from core.contract.errors import ParameterError

LONGEST_PATTERN = 1000  # characters


@dataclass(frozen=True, slots=True)
class EntropyAbove:
    """The distribution before the pipeline has more than so many bits of entropy."""

    bits: float


@dataclass(frozen=True, slots=True)
class ProbabilityBelow:
    """The chosen token had a lower probability before the pipeline."""

    probability: float


@dataclass(frozen=True, slots=True)
class RankAbove:
    """More than so many tokens were likelier than the chosen one (0 = likeliest)."""

    rank: int


@dataclass(frozen=True, slots=True)
class TextMatches:
    """A match of a regular expression ends in the text that the token completed.

    Python syntax, searched in the last 2,000 characters of the generated text; see `core.decode.breakpoints` for what
    happens to a pattern that takes too long.
    """

    pattern: str


@dataclass(frozen=True, slots=True)
class TokenIn:
    """The token is one of these."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttentionAbove:
    """The query that chose the token paid more attention than `weight` to a position, in one head."""

    layer: int
    head: int
    position: int
    weight: float


@dataclass(frozen=True, slots=True)
class CacheAbove:
    """The KV cache came to hold more than so many bytes (used ones); once, when it does."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class EveryTokens:
    """Every so many tokens of a row."""

    count: int


Breakpoint = (
    EntropyAbove | ProbabilityBelow | RankAbove | TextMatches | TokenIn | AttentionAbove | CacheAbove | EveryTokens
)


def condition(one: Breakpoint) -> str:
    """The condition for people, in a few words."""
    match one:
        case EntropyAbove(bits):
            return f"entropy > {bits:g} bits"
        case ProbabilityBelow(probability):
            return f"probability < {probability:g}"
        case RankAbove(rank):
            return f"rank > {rank}"
        case TextMatches(pattern):
            return f"text matches {pattern}"
        case TokenIn(token_ids):
            return f"token is {' or '.join(map(str, token_ids))}"
        case AttentionAbove(layer, head, position, weight):
            return f"attention of head {layer}.{head} on position {position} > {weight:g}"
        case CacheAbove(nbytes):
            return f"KV cache > {_bytes(nbytes)}"
        case EveryTokens(count):
            return "every token" if count == 1 else f"every {count} tokens"


def hit_words(one: Breakpoint, value: float | int | str) -> str:
    """What was seen against what was asked, such as `entropy 5.2 bits > 5`."""
    match one:
        case EntropyAbove(bits):
            return f"entropy {value:.3g} bits > {bits:g}"
        case ProbabilityBelow(probability):
            return f"probability {value:.3g} < {probability:g}"
        case RankAbove(rank):
            return f"rank {value} > {rank}"
        case TextMatches():
            return f"the text matches: “{value}”"
        case TokenIn():
            return f"the token is “{value}”"
        case AttentionAbove(layer, head, position, weight):
            return f"head {layer}.{head} pays {value:.3g} > {weight:g} to position {position}"
        case CacheAbove(nbytes):
            return f"KV cache {_bytes(int(value))} > {_bytes(nbytes)}"
        case EveryTokens(count):
            return f"{value} tokens, a multiple of {count}" if count > 1 else "every token"


_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def _bytes(count: int) -> str:
    name, size = next(((n, s) for n, s in _UNITS if count >= s), ("bytes", 1))
    return f"{count / size:.4g} {name}"


def break_notation(one: Breakpoint) -> str:
    """The short notation that `parse_breakpoint` reads."""
    match one:
        case EntropyAbove(bits):
            return f"entropy>{bits!r}"
        case ProbabilityBelow(probability):
            return f"probability<{probability!r}"
        case RankAbove(rank):
            return f"rank>{rank}"
        case TextMatches(pattern):
            return f"text~{pattern}"
        case TokenIn(token_ids):
            return f"token={','.join(map(str, token_ids))}"
        case AttentionAbove(layer, head, position, weight):
            return f"attention {layer}.{head}@{position}>{weight!r}"
        case CacheAbove(nbytes):
            return f"cache>{nbytes}"
        case EveryTokens(count):
            return f"every={count}"


_NUMBER = r"\s*([-+.\deE]+)\s*"
_NOTATIONS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Breakpoint]], ...] = (
    (re.compile(rf"entropy\s*>{_NUMBER}"), lambda m: EntropyAbove(float(m[1]))),
    (re.compile(rf"prob(?:ability)?\s*<{_NUMBER}"), lambda m: ProbabilityBelow(float(m[1]))),
    (re.compile(rf"rank\s*>{_NUMBER}"), lambda m: RankAbove(int(m[1]))),
    (re.compile(r"text\s*~(.*)", re.DOTALL), lambda m: TextMatches(m[1])),
    (re.compile(r"token\s*=\s*(\d+(?:\s*,\s*\d+)*)"), lambda m: TokenIn(tuple(map(int, m[1].split(","))))),
    (
        re.compile(rf"attention\s+(\d+)\.(\d+)\s*@\s*(\d+)\s*>{_NUMBER}"),
        lambda m: AttentionAbove(int(m[1]), int(m[2]), int(m[3]), float(m[4])),
    ),
    (
        re.compile(r"cache\s*>\s*([.\d]+)\s*(GB|MB|kB)?"),
        lambda m: CacheAbove(round(float(m[1]) * dict(_UNITS).get(m[2] or "", 1))),
    ),
    (re.compile(r"every\s*=?\s*(\d+)"), lambda m: EveryTokens(int(m[1]))),
)
BREAK_EXAMPLES = (
    "entropy>5, probability<0.01, rank>10, text~REGEX, token=13,198, attention 3.1@0>0.5, cache>1MB, every=16"
)


def parse_breakpoint(text: str) -> Breakpoint:
    """A breakpoint out of its notation, such as `entropy>5`, checked. Raises `ParameterError` with one sentence."""
    stripped = text.lstrip()  # blanks at its end may belong to a pattern
    for pattern, make in _NOTATIONS:
        found = pattern.fullmatch(stripped) or pattern.fullmatch(stripped.rstrip())
        if found:
            try:
                made = make(found)
            except (ValueError, OverflowError):
                break
            check_breakpoint(made)
            return made
    shown = text if len(text) <= 100 else text[:99] + "…"
    raise ParameterError(f"“{shown}” is no breakpoint; write one such as {BREAK_EXAMPLES}.")


def check_breakpoint(one: Breakpoint, layers: int | None = None, heads: int | None = None) -> None:
    """Raises `ParameterError` with one sentence for a breakpoint that makes no sense (in a model of these sizes)."""
    problem = _problem(one, layers, heads)
    if problem:
        raise ParameterError(problem)


def _problem(one: Breakpoint, layers: int | None, heads: int | None) -> str:
    match one:
        case EntropyAbove(bits):
            return "" if math.isfinite(bits) and bits >= 0 else "An entropy is at least 0 bits."
        case ProbabilityBelow(probability):
            return "" if 0 < probability <= 1 else "A probability to fall below lies above 0 and is at most 1."
        case RankAbove(rank):
            return "" if rank >= 0 else "Ranks are counted from 0, the likeliest token."
        case TextMatches(pattern):
            if not pattern:
                return "The regular expression is empty; write one."
            most = f"The regular expression is longer than {LONGEST_PATTERN:,} characters; shorten it."
            return "" if len(pattern) <= LONGEST_PATTERN else most
        case TokenIn(token_ids):
            return "" if token_ids and min(token_ids) >= 0 else "Name at least one token id, from 0 on."
        case AttentionAbove():
            return _attention_problem(one, layers, heads)
        case CacheAbove(nbytes):
            return "" if nbytes >= 0 else "A number of bytes is at least 0."
        case EveryTokens(count):
            return "" if count >= 1 else "Every so many tokens means at least 1."


def _attention_problem(one: AttentionAbove, layers: int | None, heads: int | None) -> str:
    if one.layer < 0 or (layers is not None and one.layer >= layers):
        return f"There is no layer {one.layer}; the model has {layers or 0}, counted from 0."
    if one.head < 0 or (heads is not None and one.head >= heads):
        return f"There is no head {one.head}; a layer has {heads or 0}, counted from 0."
    if one.position < 0:
        return "Positions are counted from 0, the first token of the prompt."
    return "" if 0 <= one.weight < 1 else "A weight to exceed is at least 0 and below 1."
