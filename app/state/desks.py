"""The state of the Config and ONNX cards after an intent or an event, and the commands that follow. Pure."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from app.state import desk_intents as d
from app.state import notices
from app.state.desk_state import OnnxDesk, Progress
from app.state.state import AppState
from app.state.texts import tr
from core.contract import (
    CancelOnnx,
    CheckOnnx,
    Command,
    ConfigDescribed,
    DescribeConfig,
    DescribeOnnx,
    ExportOnnx,
    ModelSaved,
    OnnxDescribed,
    OnnxFinished,
    OnnxProgress,
    SaveModel,
    SaveProgress,
)

DeskEvent = ConfigDescribed | SaveProgress | ModelSaved | OnnxDescribed | OnnxProgress | OnnxFinished
NONE = MappingProxyType[str, object]({})


def on_intent(state: AppState, intent: d.DeskIntent) -> AppState:
    """The state after an intent; `commands` says what core has to do."""
    desk = state.config_desk
    match intent:
        case d.OpenConfig(subject, reveal):
            same = subject == desk.subject
            shown = None if not same else desk.description
            desk = replace(desk, subject=subject, changes=NONE, seed=None, description=shown, error=None)
            return _asked(replace(state, config_desk=replace(desk, reveal=desk.reveal + int(reveal))))
        case d.ChangeConfig(name, value):
            changes = MappingProxyType({**desk.changes, name: value})
            return _asked(replace(state, config_desk=replace(desk, changes=changes)))
        case d.ResetConfig(name):
            kept = {} if name is None else {n: v for n, v in desk.changes.items() if n != name}
            return _asked(replace(state, config_desk=replace(desk, changes=MappingProxyType(kept))))
        case d.SetWeightSeed(seed):
            return _asked(replace(state, config_desk=replace(desk, seed=max(0, seed))))
        case d.SaveConfigured():
            if desk.saving is not None or desk.description is None or desk.description.new_name is None:
                return state
            number = state.last_generation + 1
            saving = replace(desk, saving=Progress(number), saved=None, save_error=None)
            return replace(state, config_desk=saving, last_generation=number)
        case _:
            return _onnx(state, intent)


def _asked(state: AppState) -> AppState:
    number = state.last_generation + 1
    desk = replace(state.config_desk, generation=number, saved=None, save_error=None)
    return replace(state, config_desk=desk, last_generation=number)


def _onnx(state: AppState, intent: d.DeskIntent) -> AppState:
    onnx = state.onnx
    match intent:
        case d.AskOnnx():
            number = state.last_generation + 1
            return replace(state, onnx=replace(onnx, generation=number, error=None), last_generation=number)
        case d.ExportGraph() | d.CheckGraph():
            if onnx.working is not None or state.model is None:
                return state
            number = onnx.last_number + 1
            working = Progress(number, tr("Starting"))
            started = replace(onnx, working=working, outcome=None, failure=None, last_number=number)
            return replace(state, onnx=replace(started, outcome_model=state.model.model_id))
        case d.CancelGraph() if onnx.working is not None:
            return replace(state, onnx=replace(onnx, working=replace(onnx.working, cancelling=True)))
        case _:
            return state


def commands(before: AppState, after: AppState, intent: d.DeskIntent) -> tuple[Command, ...]:
    """The commands to submit, in order."""
    desk, working = after.config_desk, after.onnx.working
    match intent:
        case d.OpenConfig() | d.ChangeConfig() | d.ResetConfig() | d.SetWeightSeed() if desk.subject is not None:
            return (DescribeConfig(desk.generation, desk.subject, dict(desk.changes), desk.seed),)
        case d.SaveConfigured(folder) if desk.saving is not None and before.config_desk.saving is None:
            name = desk.description.new_name if desk.description is not None else None
            return (SaveModel(desk.saving.number, name, folder),) if name else ()
        case d.AskOnnx():
            return (DescribeOnnx(after.onnx.generation),)
        case d.ExportGraph(path, opset, past) if working is not None and before.onnx.working is None:
            return (ExportOnnx(working.number, path, opset, past),)
        case d.CheckGraph(path) if working is not None and before.onnx.working is None:
            return (CheckOnnx(working.number, path),)
        case d.CancelGraph() if before.onnx.working is not None:
            return (CancelOnnx(),)
        case _:
            return ()


def on_event(state: AppState, event: DeskEvent) -> AppState:
    """The state after an answer; late ones change nothing."""
    desk = state.config_desk
    match event:
        case ConfigDescribed(generation, description, error):
            if generation != desk.generation:
                return state
            # What was described before stays beside the reason why its change is none.
            shown = desk.description if description is None else description
            answered = replace(desk, answered=generation, description=shown, error=error)
            return replace(state, config_desk=answered)
        case SaveProgress(number, stage, fraction):
            if desk.saving is None or desk.saving.number != number:
                return state
            return replace(state, config_desk=replace(desk, saving=Progress(number, stage, fraction)))
        case ModelSaved(number, saved, error):
            if desk.saving is None or desk.saving.number != number:
                return state
            state = replace(state, config_desk=replace(desk, saving=None, saved=saved, save_error=error))
            return state if error is None else notices.report(state, error)
        case _:
            return _on_onnx(state, event)


def _on_onnx(state: AppState, event: DeskEvent) -> AppState:
    onnx: OnnxDesk = state.onnx
    match event:
        case OnnxDescribed(generation, description, error):
            if generation != onnx.generation:
                return state
            return replace(state, onnx=replace(onnx, description=description, error=error))
        case OnnxProgress(number, stage, fraction):
            if onnx.working is None or onnx.working.number != number:
                return state
            working = replace(onnx.working, stage=stage, fraction=fraction)
            return replace(state, onnx=replace(onnx, working=working))
        case OnnxFinished(number, outcome, error):
            if onnx.working is None or onnx.working.number != number:
                return state
            return replace(state, onnx=replace(onnx, working=None, outcome=outcome, failure=error))
        case _:
            return state
