"""The Cache lab: which experiment, how far it is, what it found. Pure."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from app.state import notices, select
from app.state.desk_intents import (
    CancelExperiment,
    ExperimentSize,
    LabIntent,
    PickExperiment,
    SizeExperiment,
    StartExperiment,
)
from app.state.desk_state import CacheLab, Progress
from app.state.state import AppState
from app.state.texts import tr
from core.contract import (
    Command,
    Experiment,
    ExperimentFinished,
    ExperimentName,
    ExperimentProgress,
    RunExperiment,
    StopExperiment,
)

LabEvent = ExperimentProgress | ExperimentFinished


SIZES: dict[ExperimentName, tuple[ExperimentSize, ...]] = {
    "why": ("new_tokens",),
    "prefix": ("new_tokens",),
    "kinds": ("new_tokens", "window", "sinks", "heavy"),
    "growth": ("positions",),
    "chunks": ("positions", "chunk_sizes"),
}
MOST = 10**9
LONGEST = 20  # characters of a number


def sized(asked: Experiment, name: ExperimentSize, text: str) -> Experiment | None:
    """With a size as it was typed, the usual one where nothing was; None where that is no such size."""
    usual = Experiment(asked.name, asked.prompt)
    plain = text.strip()
    if name == "chunk_sizes":
        sizes = [_whole(part) for part in plain.replace(",", " ").split()]
        return None if None in sizes else replace(asked, chunk_sizes=tuple(n for n in sizes if n is not None))
    number = _whole(plain.replace(",", ""), 0 if name == "sinks" else 1)
    if number is None and plain:
        return None
    match name:
        case "new_tokens":
            return replace(asked, new_tokens=usual.new_tokens if number is None else number)
        case "sinks":
            return replace(asked, sinks=usual.sinks if number is None else number)
        case "positions":
            return replace(asked, positions=number)
        case "window":
            return replace(asked, window=number)
    return replace(asked, heavy=number)


def _whole(text: str, least: int = 1) -> int | None:
    short = text.isdecimal() and len(text) <= LONGEST  # Python refuses thousands of digits with an exception
    return int(text) if short and least <= int(text) <= MOST else None


def _wanted(name: ExperimentSize) -> str:
    if name == "chunk_sizes":
        return tr("list of sizes such as 8, 64, 256")
    return tr("whole number from {0} to {1}").format(0 if name == "sinks" else 1, f"{MOST:,}")


def on_intent(state: AppState, intent: LabIntent) -> AppState:
    """The state after an intent."""
    lab = state.cache_lab
    match intent:
        case PickExperiment(name):
            kept = lab.result if lab.result is not None and lab.result.name == name else None
            return replace(state, cache_lab=replace(lab, name=name, result=kept, error=None))
        case SizeExperiment(name, text):
            asked = sized(lab.asked, name, text)
            if asked is None:
                return notices.announce(state, "error", tr("“{0}” is no {1}.").format(text, _wanted(name)))
            return replace(state, cache_lab=replace(lab, sized=MappingProxyType({**lab.sized, lab.name: asked})))
        case StartExperiment():
            if state.model is None:
                return notices.announce(state, "error", tr("No model is loaded; choose one in the toolbar."))
            if select.is_active(state):
                return notices.announce(state, "error", tr("A run is in progress; stop it before an experiment."))
            missing = select.missing_prompt(state.draft)
            if missing:
                return notices.announce(state, "error", missing)
            number = lab.last_number + 1
            begun = CacheLab(lab.name, lab.sized, Progress(number, tr("Starting"), 0.0), last_number=number)
            return replace(state, cache_lab=begun)
        case CancelExperiment() if lab.working is not None:
            return replace(state, cache_lab=replace(lab, working=replace(lab.working, cancelling=True)))
        case _:
            return state


def commands(before: AppState, after: AppState, intent: LabIntent) -> tuple[Command, ...]:
    """The commands to submit."""
    lab = after.cache_lab
    match intent:
        case StartExperiment() if lab.working is not None and lab.last_number != before.cache_lab.last_number:
            prompt = select.prompts(after.draft)[0]
            return (RunExperiment(lab.working.number, replace(lab.asked, prompt=prompt)),)
        case PickExperiment() | CancelExperiment() if before.cache_lab.working is not None:
            same = isinstance(intent, PickExperiment) and intent.name == before.cache_lab.name
            return () if same else (StopExperiment(),)
        case _:
            return ()


def on_event(state: AppState, event: LabEvent) -> AppState:
    """The state after news of the experiment; those of an earlier one change nothing."""
    lab = state.cache_lab
    if lab.working is None or lab.working.number != event.number:
        return state
    if isinstance(event, ExperimentProgress):
        working = replace(lab.working, stage=event.stage, fraction=event.fraction)
        mine = event.so_far if event.so_far is not None and event.so_far.name == lab.name else lab.result
        return replace(state, cache_lab=replace(lab, working=working, result=mine))
    mine = event.result if event.result is not None and event.result.name == lab.name else None
    done = replace(lab, working=None, result=mine, stopped=event.stopped, error=event.error)
    state = replace(state, cache_lab=done)
    return state if event.error is None else notices.report(state, event.error)
