"""Presets: named sets of parameters, as the JSON of a GenerationConfig. Keys that mean nothing here are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import modes, params, select
from app.state.notices import announce
from app.state.plan import parameter_rows
from app.state.state import AppState, ModeTexts, Preset
from app.state.texts import tr
from core.contract import ParameterError, as_generation_config, validate

LONGEST_NAME = 60  # characters
LONGEST_KEY = 40  # of a key that is named in a sentence
MOST_NAMED = 4  # keys without effect that are named, the others are counted


def parse(text: str) -> dict[str, object]:
    """The values of a preset file. Raises `ParameterError` with one sentence."""
    try:
        values = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ParameterError(tr("This is no JSON that can be read: {0}.").format(error)) from error
    if not isinstance(values, dict):
        raise ParameterError(tr("A preset is a JSON object of GenerationConfig names and values."))
    if "architectures" in values or "model_type" in values:
        raise ParameterError(tr("This is the config.json of a model; drop its folder to load the model."))
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is out of range")
    return float(text)


def write(values: Mapping[str, object]) -> str:
    """The text of a preset file, in ASCII: a lone surrogate has no other spelling. Raises `ValueError`."""
    return json.dumps(dict(values), allow_nan=False, indent=2) + "\n"


def names() -> tuple[str, ...]:
    """The parameters that a preset can set in this window."""
    return ("do_sample", "force_words_ids", *parameter_rows())


def values_in_force(state: AppState) -> dict[str, object]:
    """The parameters as a GenerationConfig: what was applied last, verbatim where it still holds.

    What stands for “not set”, and what was refused, stays as it was written until the user sets that parameter.
    The ids that end a text belong to the model, so they are written only where the user set them.
    """
    values = dict(state.config)
    now, phrases = select.params(state), _phrases(state)
    if phrases:
        now = now.replace({"force_words_ids": phrases})
    shaped = as_generation_config(now)
    for name in names():
        value = getattr(now, name)
        chosen = name in state.overrides
        if name in values and _means(name, values[name], value, chosen):
            continue
        if (name == "eos_token_id" and not chosen) or value == ():
            if name in values:
                values[name] = None
        else:
            values[name] = shaped[name] if isinstance(value, tuple) else value
    return values


def _phrases(state: AppState) -> object:
    """What was typed for constrained beams, as the ids that the plan made of it; empty where there is none."""
    typed = state.mode_texts.force_words is not None and state.plan is not None and state.plan_error is None
    return state.plan.value("force_words_ids").value if typed and state.plan is not None else ()


def _means(name: str, written: object, value: object, chosen: bool) -> bool:
    try:
        return not chosen if written is None else bool(validate({name: written})[name] == value)
    except ParameterError:
        return not chosen


def save(state: AppState, name: str) -> AppState:
    """With the parameters in force as a preset; says if that replaces another one, and what is left out."""
    preset, earlier = Preset(name, MappingProxyType(values_in_force(state))), find(state, name)
    text = tr("Saved as preset “{0}”.")
    if earlier is not None and earlier != preset:
        text = tr("Saved as preset “{0}”, in place of the one of that name; Undo brings that one back.")
    text = text.format(name)
    if select.phrases(state.mode_texts.force_words or "") and not _phrases(state):
        more = tr("The phrases typed are not part of it: they are known as tokens only once the run can begin.")
        text = f"{text} {more}"
    return announce(add(state, preset), "info", text)


def imported(state: AppState, preset: Preset) -> AppState:
    """With this preset in force; where there is another one of its name, it gets a name of its own."""
    name = _free_name(state, preset)
    if find(state, name) is None:
        state = add(state, replace(preset, name=name))
    state = apply(state, name)
    if name == preset.name:
        return state
    text = tr("There is another preset “{0}”, which stays as it is; this one is “{1}”.")
    return announce(state, "info", text.format(preset.name, name))


def _free_name(state: AppState, preset: Preset) -> str:
    """A name that no other preset has, in whatever case: some file systems know no difference."""
    taken = {p.name.casefold(): p for p in state.presets}
    number = 0
    while True:
        number += 1
        suffix = "" if number == 1 else f" {number}"
        name = preset.name[: LONGEST_NAME - len(suffix)] + suffix
        there = taken.get(name.casefold())
        if there is None:
            return name
        if there.values == preset.values:
            return there.name


def find(state: AppState, name: str) -> Preset | None:
    """The preset of this name."""
    return next((p for p in state.presets if p.name == name), None)


def lost(before: AppState, after: AppState) -> dict[str, Preset]:
    """The presets that were replaced or removed, by their names."""
    return {p.name: p for p in before.presets if p not in after.presets}


def with_earlier(state: AppState, earlier: Mapping[str, Preset | None]) -> AppState:
    """With these presets as they were; None: without the one of that name."""
    for name, preset in earlier.items():
        state = _without(state, name) if preset is None else add(state, preset)
    return state


def add(state: AppState, preset: Preset) -> AppState:
    """With this preset in its place of the alphabet, instead of one of the same name."""
    others = (p for p in state.presets if p.name != preset.name)
    return replace(state, presets=tuple(sorted((*others, preset), key=lambda p: p.name.casefold())))


def remove(state: AppState, name: str) -> AppState:
    """Without the preset; says how it comes back."""
    if find(state, name) is None:
        return state
    return announce(_without(state, name), "info", tr("Preset “{0}” removed; Undo brings it back.").format(name))


def _without(state: AppState, name: str) -> AppState:
    return replace(state, presets=tuple(p for p in state.presets if p.name != name))


def apply(state: AppState, name: str) -> AppState:
    """Every parameter as the preset has it, the rest at its default; says what had no effect or was refused.

    So its mode is in force, and what the one before needed is gone. Where it says nothing of do_sample, modes that are
    not made for draws take what a GenerationConfig means by that: off.
    """
    preset = find(state, name)
    if preset is None:
        return state
    overrides: dict[str, Any] = {}
    for key in names():
        if preset.values.get(key) is None:
            continue
        try:
            overrides |= validate({key: preset.values[key]})
        except ParameterError as error:
            state = announce(state, "error", error.message)
    state = replace(state, config=MappingProxyType(dict(preset.values)), mode_texts=ModeTexts())
    mode = modes.current(replace(state, overrides=MappingProxyType(overrides)))
    if preset.values.get("do_sample") is None and "do_sample" in mode.values:
        overrides["do_sample"] = mode.values["do_sample"]
    idle = [key for key, value in preset.values.items() if key not in names() and value is not None]
    state = params.with_overrides(state, overrides)
    return announce(state, "info", _applied(name, idle))


def _applied(name: str, idle: list[str]) -> str:
    text = tr("Preset “{0}” applied.").format(name)
    if not idle:
        return text
    more = f", … ({len(idle)})" if len(idle) > MOST_NAMED else ""
    return text + " " + tr("Kept, but without effect here: {0}.").format(", ".join(map(_key, idle[:MOST_NAMED])) + more)


def _key(key: str) -> str:
    """A key in a sentence: it may be long, or hold what would turn the sentence around."""
    shown = "".join(c if c.isprintable() else "�" for c in key[:LONGEST_KEY])
    return shown if len(key) <= LONGEST_KEY else f"{shown}…"
