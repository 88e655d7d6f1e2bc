"""Interventions: changes to what the model computes, as plain values, their words and their short notation.

They act on every position that is fed while they are in force: from the first one on (`RunSpec.interventions`), from
the next step on (`SetInterventions`), or on one position only, to see what would follow (`InterventionQuery`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import index
from typing import Literal

from core.contract.errors import ParameterError

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, ...] = ("attention", "mlp")
LARGEST_FACTOR = 1e4  # of a head or a steering vector; more only overflows


@dataclass(frozen=True, slots=True)
class ScaleHeads:
    """Multiply what heads of a layer hand to the output projection by `factor`; 0 mutes them.

    What transformers once called head_mask, with other numbers than 0 and 1. The keys and values stay.
    """

    layer: int
    heads: tuple[int, ...]
    factor: float = 0.0


@dataclass(frozen=True, slots=True)
class SkipPart:
    """What a layer's attention or MLP returns becomes 0, so that the residual stream passes it unchanged."""

    layer: int
    part: Part


@dataclass(frozen=True, slots=True)
class Steer:
    """Add `scale` × a vector to the residual stream entering `layer`, at every position fed.

    The vector is the difference of the residuals of two prompts at that layer, each at its last token (a text or token
    ids; an empty `away` is 0), or is given by itself (E,). Turner et al. 2023, https://arxiv.org/abs/2308.10248.
    """

    layer: int
    scale: float
    toward: str | tuple[int, ...] = ""
    away: str | tuple[int, ...] = ""
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class MutePositions:
    """Hide positions of a row from every query fed from now on, by the attention mask; their keys stay cached.

    A position that is itself fed from now on is hidden from its own query, too.

    To delete them computes the same, but then rows of the past that saw them cannot be derived from the cache any more.
    """

    row: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeletePositions:
    """Drop keys and values of positions of a row from every layer of the cache; the others keep their positions.

    What comes later is computed as if they were muted. It cannot be taken back in a run: only a branch that parts
    before has the keys. One that is not fed yet is dropped as soon as it was. In a batch of several rows the storage
    shrinks by the slots that no row holds any more; the others are emptied.
    """

    row: int
    positions: tuple[int, ...]


Hides = MutePositions | DeletePositions  # positions of a row that later queries do not see
Intervention = ScaleHeads | SkipPart | Steer | MutePositions | DeletePositions


def words(one: Intervention) -> str:
    """One intervention for people, in a few words."""
    match one:
        case ScaleHeads(layer, heads, factor):
            named = f"{'head' if len(heads) == 1 else 'heads'} {', '.join(f'{layer}.{head}' for head in heads)}"
            named = f"heads {position_ranges(heads)} of layer {layer}" if len(heads) > 2 else named
            return f"{named} muted" if factor == 0 else f"{named} × {factor:g}"
        case SkipPart(layer, part):
            return f"{_PART_WORDS[part]} of layer {layer} skipped"
        case Steer(layer, scale, toward, away, vector):
            if vector is not None:
                return f"a vector × {scale:g} added before layer {layer}"
            difference = _named(toward) if away in ("", ()) else f"{_named(toward)} − {_named(away)}"
            return f"{difference} × {scale:g} added before layer {layer}"
        case MutePositions(row, positions):
            what = "position" if len(positions) == 1 else "positions"
            return f"{what} {position_ranges(positions)} muted" + (f" in row {row}" if row else "")
        case DeletePositions(row, positions):
            what = "position" if len(positions) == 1 else "positions"
            where = f" of row {row}" if row else ""
            return f"{what} {position_ranges(positions)}{where} deleted from the cache"


_PART_WORDS: dict[Part, str] = {"attention": "attention", "mlp": "MLP"}


def _named(prompt: str | tuple[int, ...]) -> str:
    return f"“{prompt}”" if isinstance(prompt, str) else f"ids {' '.join(map(str, prompt))}"


def notation(one: Intervention) -> str:
    """The short notation that `parse_intervention` reads."""
    match one:
        case ScaleHeads(layer, heads, factor):
            return f"heads {layer}.{','.join(map(str, heads))} * {factor:g}"
        case SkipPart(layer, part):
            return f"skip {layer}.{part}"
        case Steer(layer, scale, toward, away, vector):
            if vector is not None:
                return f"steer {layer} * {scale:g} = {json.dumps(list(vector))}"
            texts = [json.dumps(t if isinstance(t, str) else list(t), ensure_ascii=False) for t in (toward, away)]
            return f"steer {layer} * {scale:g} = {' - '.join(texts)}"
        case MutePositions(row, positions):
            return f"mute {row}: {position_ranges(positions)}"
        case DeletePositions(row, positions):
            return f"delete {row}: {position_ranges(positions)}"


_HEADS = re.compile(r"heads?\s+(\d+)\.([\d,\s-]*\d)(?:\s*\*\s*(\S+))?")
_SKIP = re.compile(r"skip\s+(\d+)\.(attention|mlp)")
_STEER = re.compile(r"steer\s+(\d+)\s*\*\s*(\S+)\s*=\s*(.*)", re.DOTALL)
_HIDE = re.compile(r"(mute|delete)\s+(?:(\d+)\s*:\s*)?([\d,\s-]+)")
EXAMPLES = 'heads 3.1,4 * 0, skip 5.mlp, steer 6 * 4 = "love" - "hate", mute 3-5, delete 7'


def parse_intervention(text: str) -> Intervention:
    """An intervention out of its notation, such as `heads 3.1`. Raises `ParameterError` with one sentence."""
    stripped = text.strip()
    try:
        if found := _HEADS.fullmatch(stripped):
            return ScaleHeads(int(found[1]), parse_positions(found[2]), float(found[3] or 0))
        if found := _SKIP.fullmatch(stripped):
            return SkipPart(int(found[1]), "mlp" if found[2] == "mlp" else "attention")
        if found := _STEER.fullmatch(stripped):
            return _steer(int(found[1]), float(found[2]), found[3])
        if found := _HIDE.fullmatch(stripped):
            kind = MutePositions if found[1] == "mute" else DeletePositions
            return kind(int(found[2] or 0), parse_positions(found[3]))
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise ParameterError(f"“{_short(text)}” is no intervention; write one such as {EXAMPLES}.")


def _steer(layer: int, scale: float, prompts: str) -> Steer:
    """`"a" - "b"`, `"a"`, or the numbers of a vector."""
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(prompts.strip())
    rest = prompts.strip()[end:].strip()
    if isinstance(first, list) and not rest and any(isinstance(value, float) for value in first):
        return Steer(layer, scale, vector=tuple(map(float, first)))
    second: object = ""
    if rest:
        if not rest.startswith("-"):
            raise ValueError
        second = json.loads(rest[1:])
    toward, away = (tuple(map(index, p)) if isinstance(p, list) else p for p in (first, second))
    if not isinstance(toward, str | tuple) or not isinstance(away, str | tuple):
        raise TypeError
    return Steer(layer, scale, toward, away)


MOST_NAMED = 1_000_000  # positions in one text, those named twice counted twice


def parse_positions(text: str) -> tuple[int, ...]:
    """`3, 5-7` → (3, 5, 6, 7). Raises `ValueError`."""
    found: set[int] = set()
    named = 0
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        start, stop = int(first), int(last if dash else first) + 1
        named += stop - start  # not len(range(…)), which fails beyond 2^63
        if stop <= start or named > MOST_NAMED:
            raise ValueError(part)
        found.update(range(start, stop))
    return tuple(sorted(found))


def position_ranges(positions: Iterable[int]) -> str:
    """(3, 5, 6, 7) → `3, 5-7`."""
    parts: list[list[int]] = []
    for position in sorted(set(positions)):
        if parts and position == parts[-1][1] + 1:
            parts[-1][1] = position
        else:
            parts.append([position, position])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"


def of_row(asked: tuple[Intervention, ...], row: int) -> tuple[Intervention, ...]:
    """What of it concerns one row, for a run of that row alone."""
    kept = (one for one in asked if not isinstance(one, Hides) or one.row == row)
    return tuple(replace(one, row=0) if isinstance(one, Hides) else one for one in kept)


def deleted_positions(asked: tuple[Intervention, ...], row: int) -> frozenset[int]:
    """The positions of a row that these delete."""
    return frozenset(p for one in asked if isinstance(one, DeletePositions) and one.row == row for p in one.positions)


def with_deletions(asked: tuple[Intervention, ...], made: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    """`asked`, and what `made` deletes, which cannot be taken back."""
    left = []
    for row in dict.fromkeys(one.row for one in made if isinstance(one, DeletePositions)):
        positions = deleted_positions(made, row) - deleted_positions(asked, row)
        left += [DeletePositions(row, tuple(sorted(positions)))] if positions else []
    return (*asked, *left)


def without_deletions(asked: tuple[Intervention, ...], made: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    """`asked` without what `made` deletes."""
    kept: list[Intervention] = []
    for one in asked:
        if not isinstance(one, DeletePositions):
            kept.append(one)
        elif left := set(one.positions) - deleted_positions(made, one.row):
            kept.append(replace(one, positions=tuple(sorted(left))))
    return tuple(kept)


def from_row(asked: tuple[Intervention, ...], row: int) -> tuple[Intervention, ...]:
    """What a run of one row is under, as rows of the run that it parted from are numbered: the inverse of `of_row`."""
    return tuple(replace(one, row=row) if isinstance(one, Hides) else one for one in asked)


def check_interventions(
    asked: tuple[Intervention, ...], title: str, layers: int, heads: int, hidden_size: int, rows: int
) -> None:
    """Raises `ParameterError` for what does not exist in a model `title` of these sizes and a run of so many rows."""
    for one in asked:
        problem = _CHECKS[type(one)](one, title, heads, hidden_size, rows)
        if not isinstance(one, Hides) and not 0 <= one.layer < layers:
            problem = f"There is no layer {one.layer}; {title} has {layers}, counted from 0."
        if problem:
            raise ParameterError(problem)


def _check_heads(one: ScaleHeads, title: str, heads: int, hidden_size: int, rows: int) -> str:
    wrong = next((head for head in one.heads if not 0 <= head < heads), None)
    if wrong is not None or not one.heads:
        return f"There is no head {'given' if wrong is None else wrong}; a layer of {title} has {heads}."
    return _check_factor("The factor of a head", one.factor)


def _check_skip(one: SkipPart, title: str, heads: int, hidden_size: int, rows: int) -> str:
    return "" if one.part in PARTS else f"“{one.part}” cannot be skipped; a layer has attention and mlp."


def _check_steer(one: Steer, title: str, heads: int, hidden_size: int, rows: int) -> str:
    if one.vector is not None and len(one.vector) != hidden_size:
        return f"The steering vector has {len(one.vector)} numbers, but {title} is {hidden_size} wide."
    if one.vector is not None and not all(map(math.isfinite, one.vector)):
        return "The steering vector holds numbers that are not finite."
    if one.vector is None and one.toward in ("", ()):
        return "Steering needs a prompt to steer toward; write one."
    return _check_factor("The scale of steering", one.scale)


def _check_positions(one: Hides, title: str, heads: int, hidden_size: int, rows: int) -> str:
    if not 0 <= one.row < rows:
        return f"There is no row {one.row}; the run has {rows}, counted from 0."
    if not one.positions or min(one.positions) < 0:
        what = "mute" if isinstance(one, MutePositions) else "delete"
        return f"Positions to {what} are counted from 0; give at least one."
    return ""


def _check_factor(what: str, factor: float) -> str:
    return "" if abs(factor) <= LARGEST_FACTOR else f"{what} lies between −{LARGEST_FACTOR:g} and {LARGEST_FACTOR:g}."


_CHECKS: dict[type, Callable[..., str]] = {
    ScaleHeads: _check_heads,
    SkipPart: _check_skip,
    Steer: _check_steer,
    MutePositions: _check_positions,
    DeletePositions: _check_positions,
}
