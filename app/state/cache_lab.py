"""The Cache lab: which experiment, how far it is, what it found. Pure."""

from __future__ import annotations

from dataclasses import replace

from app.state import notices, select
from app.state.desk_intents import CancelExperiment, LabIntent, PickExperiment, StartExperiment
from app.state.desk_state import CacheLab, Progress
from app.state.state import AppState
from app.state.texts import tr
from core.contract import (
    Command,
    Experiment,
    ExperimentFinished,
    ExperimentProgress,
    Prompt,
    RunExperiment,
    StopExperiment,
)

LabEvent = ExperimentProgress | ExperimentFinished


def on_intent(state: AppState, intent: LabIntent) -> AppState:
    """The state after an intent."""
    lab = state.cache_lab
    match intent:
        case PickExperiment(name):
            kept = lab.result if lab.result is not None and lab.result.name == name else None
            return replace(state, cache_lab=replace(lab, name=name, result=kept, error=None))
        case StartExperiment():
            if state.model is None:
                return notices.announce(state, "error", tr("No model is loaded; choose one in the toolbar."))
            if select.is_active(state):
                return notices.announce(state, "error", tr("A run is in progress; stop it before an experiment."))
            number = lab.last_number + 1
            begun = CacheLab(lab.name, Progress(number, tr("Starting"), 0.0), None, last_number=number)
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
            prompt = next(iter(select.prompts(after.draft)), Prompt(text=""))
            return (RunExperiment(lab.working.number, Experiment(lab.name, prompt)),)
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
