"""Changes of generation parameters: overrides of the user, and what waits for its epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import select
from app.state.notices import announce
from app.state.state import AppState
from app.state.texts import tr
from core.contract import PARAMETERS, GenerationParams, ParameterError, check_together, inactive_reason, validate


def differences(before: GenerationParams, after: GenerationParams) -> dict[str, Any]:
    """The values of `after` that differ from `before`, by name."""
    return {n: getattr(after, n) for n in PARAMETERS if getattr(before, n) != getattr(after, n)}


def set_parameter(state: AppState, name: str, value: object) -> AppState:
    """The user's value in force. A refused value is announced and changes nothing."""
    try:
        clean = validate({name: value})
    except ParameterError as error:
        return announce(state, "error", error.message)
    overrides, now = {**state.overrides, **clean}, of_run(state)
    text = None
    wants = clean[name] > 0 if name == "temperature" else _needs_a_draw(now, name)
    if name == "do_sample" and clean[name] and now.temperature == 0:
        overrides.pop("temperature", None)
    elif PARAMETERS[name].needs_sampling and wants and not now.do_sample:
        if _may_draw(state, now):
            overrides["do_sample"] = True
            text = tr("Switched to sampling, because {0} has no effect in greedy mode.").format(name)
        else:
            text = tr("{0} has no effect here: this mode does not sample.").format(name)
    elif PARAMETERS[name].needs_sampling and name != "temperature" and wants and now.temperature == 0:
        text = tr("{0} has no effect while temperature is 0, which means greedy.").format(name)
    state = with_overrides(state, overrides)
    return announce(state, "info", text) if text else state


def of_run(state: AppState) -> GenerationParams:
    """The parameters that the next token will use: what waits for the next run does not count."""
    run = state.run
    return select.params(state).replace({} if run is None else {n: getattr(run.params, n) for n in state.waiting})


def _needs_a_draw(now: GenerationParams, name: str) -> bool:
    """Whether a parameter that acts on draws would have no effect without them."""
    trial = now.replace({"do_sample": False})
    return bool(inactive_reason(name, trial)) if name != "num_return_sequences" else trial.num_beams == 1


def _may_draw(state: AppState, now: GenerationParams) -> bool:
    """Whether the mode can sample; where the values contradict each other anyway, that is not the reason."""
    if state.mode_texts.force_words is not None:
        return False
    try:
        check_together(now.replace({"do_sample": False}))
    except ParameterError:
        return True
    try:
        check_together(now.replace({"do_sample": True}))
    except ParameterError:
        return False
    return True


def reset_parameter(state: AppState, name: str) -> AppState:
    """The default of one parameter in force again."""
    return with_overrides(state, {n: v for n, v in state.overrides.items() if n != name})


def with_overrides(state: AppState, overrides: Mapping[str, Any]) -> AppState:
    """The overrides that differ from the defaults; during a run the change gets an epoch and is pending."""
    base = select.defaults(state)
    kept = {n: v for n, v in overrides.items() if getattr(base, n) != v}
    after = replace(state, overrides=MappingProxyType(kept))
    changed = differences(select.params(state), select.params(after))
    if not changed or not select.is_active(state):
        return after
    after = replace(after, waiting=_without(state.waiting, changed))
    changed = told(state, after)
    if not changed:
        return after
    epoch = state.epoch + 1
    pending = {**state.pending, **dict.fromkeys(changed, epoch)}
    return replace(after, epoch=epoch, pending=MappingProxyType(pending))


def told(before: AppState, after: AppState) -> dict[str, Any]:
    """The changes that the run is told: not what has waited for the next run and is taken back, since it knows that.

    What waits together is told together, or values that go with each other would come alone.
    """
    changes = differences(select.params(before), select.params(after))
    touched = before.waiting.keys() & changes.keys()
    if not touched or before.run is None:
        return changes
    now, ran = select.params(after), before.run.params
    whole = {name: getattr(now, name) for name in before.waiting} | changes
    return {name: value for name, value in whole.items() if getattr(ran, name) != value}


def _without(waiting: Mapping[str, str], changed: Collection[str]) -> Mapping[str, str]:
    if waiting.keys().isdisjoint(changed):
        return waiting
    return MappingProxyType({})  # what waits together is asked again together


def waits(state: AppState, epoch: int, why: str) -> AppState:
    """The changes of this epoch stay where they are, for the next run."""
    names = [name for name, own in state.pending.items() if own == epoch]
    pending = MappingProxyType({name: own for name, own in state.pending.items() if own != epoch})
    waiting = MappingProxyType({**state.waiting, **dict.fromkeys(names, why)})
    return announce(replace(state, pending=pending, waiting=waiting), "info", why)


def applied(state: AppState, epoch: int) -> AppState:
    """Without the pending marks of this epoch and the earlier ones."""
    left = {n: e for n, e in state.pending.items() if e > epoch}
    return replace(state, pending=MappingProxyType(left))


def refused(state: AppState, epoch: int) -> AppState:
    """The refused changes taken back to what the run really uses."""
    names = [n for n, e in state.pending.items() if e == epoch]
    pending = MappingProxyType({n: e for n, e in state.pending.items() if e != epoch})
    if state.run is None:
        return replace(state, pending=pending)
    base = select.defaults(state)
    overrides = {**state.overrides, **{n: getattr(state.run.params, n) for n in names}}
    kept = {n: v for n, v in overrides.items() if getattr(base, n) != v}
    return replace(state, overrides=MappingProxyType(kept), pending=pending)
