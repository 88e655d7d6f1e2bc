"""The plan: what core says the run in progress does, or what Run would do now; and what the parameter rows show."""

from __future__ import annotations

from dataclasses import replace

from app.state import intents as i
from app.state import select
from app.state.state import AppState
from app.state.texts import tr
from core.contract import PARAMETERS, GenerationPlan, ModelInfo, Planned


def plan(state: AppState) -> GenerationPlan | None:
    """The plan of the run in progress, else that of the next one; None before core has answered."""
    if state.run is not None and select.is_active(state) and state.requested is None:
        return state.run.plan
    return state.plan


def problem(state: AppState) -> str:
    """Why Run could not begin; empty where it could, or while a run is in progress."""
    return "" if state.plan_error is None or select.is_active(state) else state.plan_error.message


def asked_anew(before: AppState, after: AppState, intent: i.Intent) -> AppState:
    """With another question for core where the next run would be another one; typing asks once it rests."""
    changed = any(getattr(before, n) != getattr(after, n) for n in ("overrides", "seed", "grammar"))
    if after.model is None or not (changed or isinstance(intent, i.TokenizeDraft)):
        return after
    return replace(after, plan_generation=after.plan_generation + 1)


def answered(state: AppState, event: Planned) -> AppState:
    """With core's answer; a late one changes nothing. The last plan stays while the next run cannot begin."""
    if event.generation != state.plan_generation:
        return state
    return replace(state, plan=event.plan or state.plan, plan_error=event.error)


def default_source(model: ModelInfo | None, name: str, default: object) -> str:
    """One sentence: the default value and where it comes from."""
    if name == "do_sample":
        return tr("Default: sampling, the choice of this window.")
    shown = ", ".join(map(str, default)) or "none" if isinstance(default, tuple) else f"{default:g}"
    if model is not None and name in model.from_generation_config:
        return tr("Default: {0}, from the generation_config of {1}.").format(shown, model.title)
    return tr("Default: {0}, from the library.").format(shown)


_NO_ROWS = ("do_sample", "num_return_sequences", "num_beams")


def shown_parameters() -> tuple[str, ...]:
    """The parameters that the window offers as rows, in order; `do_sample` is its mode switch."""
    return tuple(n for n, p in PARAMETERS.items() if not p.advanced and n not in _NO_ROWS)
