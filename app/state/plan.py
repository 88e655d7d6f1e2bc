"""The plan: what core says the run in progress does, or what Run would do now; and what the parameter rows show."""

from __future__ import annotations

from dataclasses import replace

from app.state import intents as i
from app.state import modes, select
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
    if select.is_active(state):
        return ""
    return modes.missing(state) or ("" if state.plan_error is None else state.plan_error.message)


def asked_anew(before: AppState, after: AppState, intent: i.Intent) -> AppState:
    """With another question for core where the next run would be another one; typing asks once it rests."""
    decisive = ("overrides", "config", "seed", "grammar", "mode_texts", "cache")
    changed = any(getattr(before, n) != getattr(after, n) for n in decisive)
    changed = changed or before.acting.interventions != after.acting.interventions
    if after.model is None or not (changed or isinstance(intent, i.TokenizeDraft)):
        return after
    return replace(after, plan_generation=after.plan_generation + 1)


def answered(state: AppState, event: Planned) -> AppState:
    """With core's answer; a late one changes nothing. The last plan stays while the next run cannot begin."""
    if event.generation != state.plan_generation:
        return state
    return replace(state, plan=event.plan or state.plan, plan_error=event.error)


def draft_models(state: AppState) -> tuple[tuple[str, str], ...]:
    """The models that could draft: names and titles. Whether the vocabularies agree is known once they are loaded."""
    return tuple((choice.name, choice.title) for choice in state.models if choice.available)


def default_source(model: ModelInfo | None, name: str, default: object) -> str:
    """One sentence: the default value and where it comes from."""
    if name == "do_sample" and default and not (model is not None and model.defaults.do_sample):
        return tr("Default: sampling, the choice of this window.")
    shown = written(default)
    if model is not None and name in model.from_generation_config:
        return tr("Default: {0}, from the generation_config of {1}.").format(shown, model.title)
    return tr("Default: {0}, from the library.").format(shown)


def written(value: object) -> str:
    """A value in a sentence."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or tr("none")
    if value is None:
        return tr("off")
    if isinstance(value, bool):
        return tr("on") if value else tr("off")
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_BY_TEXT = ("do_sample", "force_words_ids")  # the switch, and what is typed as text


def parameter_rows() -> tuple[str, ...]:
    """Every parameter that has a row, in order: those of the modes, the usual ones, the rest."""
    names = [n for n in PARAMETERS if n not in _BY_TEXT]
    particular = [n for n in names if modes.is_particular(n)]
    usual = [n for n in names if n not in particular and not PARAMETERS[n].advanced]
    return (*particular, *usual, *(n for n in names if n not in particular and n not in usual))


def shown_rows(state: AppState) -> frozenset[str]:
    """The rows to be seen: of the mode, the usual ones, what was changed, and the rest if the user wants it."""
    own = modes.current(state).rows

    def is_shown(name: str) -> bool:
        if name in own or name in state.overrides:
            return True
        return not modes.is_particular(name) and (state.more or not PARAMETERS[name].advanced)

    return frozenset(name for name in parameter_rows() if is_shown(name))
