"""What core has to do for an intent: pure, from the state before and after it."""

from __future__ import annotations

from app.state import acting, cache_lab, desks, params, select
from app.state import intents as i
from app.state.state import AppState
from app.state.twin_intents import EndTwinRun, RunTwin
from core.contract import (
    Ask,
    CancelLoad,
    Command,
    DropBranch,
    EndTwin,
    LoadModel,
    PauseRun,
    PreviewModel,
    PreviewPlan,
    ResumeRun,
    SetParams,
    StartRun,
    StopRun,
    SwitchBranch,
    Tokenize,
    Withdraw,
)


def commands(before: AppState, after: AppState, intent: i.Intent) -> tuple[Command, ...]:
    """The commands to submit, in order."""
    told = acting.told(before, after)
    found = (*_branch_commands(before, after), *told, *_commands(before, after, intent))
    if isinstance(intent, RunTwin):
        found = found[::-1]  # the run that it is a twin of begins first
    if after.plan_generation == before.plan_generation:
        return found
    return (*found, PreviewPlan(after.plan_generation, select.run_spec(after)))


def _branch_commands(before: AppState, after: AppState) -> tuple[Command, ...]:
    """A branch asked for, gone to (also by undo), or deleted."""
    if after.branches is before.branches:
        return ()
    found: list[Command] = []
    request, run = after.branches.requested, after.run
    if request is not None and request is not before.branches.requested:
        found.append(request.command)
    if run is not None and before.run is not None and run.branch != before.run.branch:
        found.append(SwitchBranch(*run.branch))
        node = after.branches.nodes[run.branch]
        changes = {} if node.asked is None else params.differences(node.asked, select.params(after))
        changes = {name: value for name, value in changes.items() if name not in after.waiting}
        if after.epoch != before.epoch and changes:
            found.append(SetParams(changes, after.epoch))
        found += acting.after_switch(after)
    found += [DropBranch(*key) for key in sorted(after.branches.deleted - before.branches.deleted)]
    return tuple(found)


def _commands(before: AppState, after: AppState, intent: i.Intent) -> tuple[Command, ...]:
    if isinstance(intent, i.DeskIntent):
        return desks.commands(before, after, intent)
    if isinstance(intent, i.LabIntent):
        return cache_lab.commands(before, after, intent)
    if isinstance(intent, i.ActingIntent):
        return acting.commands(before, after)
    match intent:
        case i.Run() | i.Step() | i.Regenerate() | RunTwin() if (
            after.requested is not None and after.requested is not before.requested
        ):
            return (StartRun(after.requested.run_id, after.requested.spec),)
        case i.Step() if select.is_paused(before):
            return () if before.pace.waiting else (ResumeRun(max_steps=1),)  # a token that waits is shown instead
        case i.Step() if select.is_stepping(before):
            return (ResumeRun(max_steps=1),)
        case i.TogglePause() if select.is_active(before) and before.pace.ended:
            return ()  # only the display is left to be paused
        case i.TogglePause() if select.is_active(before):
            return (ResumeRun(),) if select.is_paused(before) else (PauseRun(),)
        case i.Stop() if select.is_active(before):
            return (StopRun(),)
        case EndTwinRun() if before.run is not None and after.branches.pairs is not before.branches.pairs:
            return (EndTwin(before.run.run_id),)
        case i.Run() | i.Regenerate() | RunTwin():
            return ()
        case _ if after.epoch != before.epoch and after.branches is before.branches and not acting.told(before, after):
            return (SetParams(params.told(before, after), after.epoch),)
        case i.TokenizeDraft() if after.model is not None:
            return (Tokenize(after.draft.generation, select.prompt(after.draft)),)
        case i.ChooseModel() if after.loading is not None:
            stop: tuple[Command, ...] = (StopRun(),) if select.is_active(before) else ()
            cancel: tuple[Command, ...] = (CancelLoad(),) if before.loading else ()
            return (*stop, *cancel, LoadModel(after.loading.spec, after.loading.model_id))
        case i.LookAt() if after.preview is not None:
            return (PreviewModel(after.preview.generation, after.preview.spec),)
        case i.CancelLoading() if before.loading is not None:
            return (CancelLoad(),)
        case i.AskView(slot, query, chosen):
            return (Ask(slot, after.asked[slot].generation, query, chosen and after.selected is not None),)
        case i.WithdrawView(slot) if slot in before.asked:
            return (Withdraw(slot),)
        case _:
            return ()
