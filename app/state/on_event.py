"""The state after an event of core."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from app.state import (
    acting,
    branches,
    cache_lab,
    chat,
    desks,
    history,
    image_draft,
    notices,
    params,
    plan,
    samples,
    twins,
)
from app.state.branch_state import Key
from app.state.run import begin, with_acts, with_end, with_step
from app.state.shown import of_sequence
from app.state.state import EMPTY, AppState, AttentionFocus, Draft, Tab
from core.contract import (
    Answered,
    BranchesGone,
    BranchesHeld,
    BranchStarted,
    BranchSwitched,
    BreakpointHit,
    BreakpointProblem,
    CommandRefused,
    Deriving,
    Event,
    ExperimentFinished,
    ExperimentProgress,
    HypothesisEnded,
    InterventionsApplied,
    LoadFailed,
    LoadProgress,
    ModelInfo,
    ModelPreviewed,
    ModelReady,
    ParamsApplied,
    Planned,
    PrefillProgress,
    Prompt,
    RunFinished,
    RunStarted,
    StateChanged,
    StepSnapshot,
    Tokenized,
    Vitals,
)

MOST_RECENT = 12
LONGEST_PROMPT = 20_000  # characters; longer ones are not remembered


def on_event(state: AppState, event: Event) -> AppState:
    """The state after `event`. Events of a run that is no longer shown change nothing."""
    match event:
        case StepSnapshot() | PrefillProgress() | ParamsApplied() | HypothesisEnded() | RunFinished() | RunStarted():
            return _on_run_event(state, event)
        case BranchStarted() if event.beside is not None:
            return twins.started(state, event)
        case InterventionsApplied() | BreakpointHit() | BreakpointProblem():
            return _on_acting_event(state, event)
        case BranchStarted():
            return acting.cleared(history.moved(state, branches.started(state, event)))
        case BranchSwitched():
            return acting.cleared(branches.switched(state, event))
        case BranchesGone():
            return twins.gone(state, event)
        case BranchesHeld():
            return branches.held(state, event)
        case StateChanged(worker):
            return replace(state, worker=worker)
        case LoadProgress(model_id, stage, fraction):
            if state.loading is None or state.loading.model_id != model_id:
                return state
            return replace(state, loading=replace(state.loading, stage=stage, fraction=fraction))
        case ModelReady(info):
            return _model_ready(state, info)
        case LoadFailed():
            return _load_failed(state, event)
        case CommandRefused():
            return _refused(state, event)
        case Tokenized(generation, row, error):
            if generation <= state.draft.tokenized_generation:
                return state
            image = image_draft.tokenized(state.draft, generation, row)
            draft = replace(state.draft, tokenized=row, tokenized_generation=generation, token_error=error, image=image)
            return replace(state, draft=draft)
        case Answered():
            return _answered(state, event)
        case Deriving(slot, generation, fraction):
            return replace(state, deriving=MappingProxyType({**state.deriving, slot: (generation, fraction)}))
        case Vitals():
            return replace(state, vitals=event)
        case ModelPreviewed():
            return _previewed(state, event)
        case Planned():
            return plan.answered(state, event)
        case ExperimentProgress() | ExperimentFinished():
            return cache_lab.on_event(state, event)
        case _:
            return desks.on_event(state, event)


def _previewed(state: AppState, event: ModelPreviewed) -> AppState:
    preview = state.preview
    if preview is None or preview.generation != event.generation:
        return state
    return replace(state, preview=replace(preview, answer=event.preview, error=event.error))


def _on_run_event(
    state: AppState, event: StepSnapshot | PrefillProgress | ParamsApplied | HypothesisEnded | RunFinished | RunStarted
) -> AppState:
    if isinstance(event, RunStarted):
        return _run_started(state, event)
    run = state.run
    at = event.id if isinstance(event, StepSnapshot) else event
    if run is None or run.branch != (at.run_id, at.branch_id):
        return _of_another_branch(state, (at.run_id, at.branch_id), event)
    match event:
        case StepSnapshot():
            return of_sequence(state, with_step(run, event))
        case HypothesisEnded():
            run.sequences.hypotheses.append(event)
            return replace(state, run=replace(run))  # panels see another object and look again
        case PrefillProgress():
            return replace(state, run=replace(run, prefill=event))
        case ParamsApplied():
            run = replace(run, params=event.params, flags=(*run.flags, event))
            return replace(params.applied(state, event.epoch), run=run)
        case RunFinished():
            state = acting.gone_on(state)  # it stopped at its last token
            state = of_sequence(chat.with_answer(state, event), with_end(run, event))
            state = replace(branches.with_answer(branches.left(state)), pending=EMPTY, waiting=EMPTY)
            return notices.report(state, event.error) if event.error else state


def _on_acting_event(state: AppState, event: acting.ActingEvent) -> AppState:
    run, key = state.run, (event.run_id, event.branch_id)
    if run is not None and run.branch == key:
        return acting.on_event(state, run, event)
    other = branches.view(state, key)
    if key == twins.beside(state):
        state = twins.on_acting_event(state, event)
    if other is None or not isinstance(event, InterventionsApplied):
        return state
    return branches.with_view(state, with_acts(other, event))


def _of_another_branch(
    state: AppState, key: Key, event: StepSnapshot | PrefillProgress | ParamsApplied | HypothesisEnded | RunFinished
) -> AppState:
    """What a branch had still said when it was left."""
    run = branches.view(state, key)
    match event:
        case StepSnapshot() if run is not None:
            return branches.with_view(state, with_step(run, event))
        case ParamsApplied() if run is not None:
            if key == twins.beside(state):  # the one in use may have ended
                state = params.applied(state, event.epoch)
            return branches.with_view(state, replace(run, params=event.params, flags=(*run.flags, event)))
        case RunFinished() if run is not None:
            if key == twins.beside(state):
                state = twins.other_ended(state, event)
            return branches.with_view(state, with_end(run, event))
        case _:
            return state


def _run_started(state: AppState, event: RunStarted) -> AppState:
    if state.model is None:
        return state
    run = begin(event, state.model)
    request, answering = state.requested, None
    draft = state.draft
    if request is not None and request.run_id == event.run_id:
        if request.tab == "chat":
            draft = chat.with_sent(draft, request)
            answering = chat.answering(draft, event.run_id)
        state = _remember_prompt(state, request.spec.prompts[0])
        request = None
    before, state = state, branches.begun(state, run)
    after = replace(
        acting.run_started(state),
        run=run,
        requested=request,
        answering=answering,
        draft=draft,
        selected=None,
        waiting=EMPTY,
        vitals=None,
        asked=EMPTY,
        answers=EMPTY,
        answer_floor=state.last_generation,
    )
    return history.moved(before, after)


def _remember_prompt(state: AppState, prompt: Prompt) -> AppState:
    text = prompt.text or (prompt.messages[-1].content if prompt.messages else "")
    if not text.strip() or len(text) > LONGEST_PROMPT:
        return state
    return replace(state, recent_prompts=newest_first(text, state.recent_prompts))


def newest_first(value: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """The value in front, once, and as many of the others as are kept."""
    return (value, *(v for v in values if v != value))[:MOST_RECENT]


def _tab_for(draft: Draft, info: ModelInfo) -> Tab:
    """The tab stays in front where the model can do something with it; image models get theirs."""
    if info.image is not None:
        return "image"
    return "text" if draft.tab == "image" or (draft.tab == "chat" and not info.has_chat_template) else draft.tab


def _model_ready(state: AppState, info: ModelInfo) -> AppState:
    draft = state.draft
    if not draft.touched:
        text = samples.TEXT if info.image is None else ""
        draft = replace(draft, text=text, message=samples.MESSAGE if info.has_chat_template else "")
    draft = replace(
        draft,
        tab=_tab_for(draft, info),
        image=image_draft.for_model(draft, info),
        generation=draft.generation + 1,
        tokenized=None,
        token_error=None,
    )
    state = acting.model_ready(state, info)
    loading = state.loading if state.loading and state.loading.model_id != info.model_id else None
    # Three eighths up: past the layers that mostly copy, before those that mostly predict.
    focus = AttentionFocus(layer=info.layers * 3 // 8, head=min(4, info.heads - 1))
    return replace(
        state,
        model=info,
        loading=loading,
        spec=loading.spec if loading else info.spec,
        recent_models=newest_first(info.spec.name, state.recent_models),
        draft=draft,
        focus=focus,
        plan=None,
        plan_error=None,
        run=None,
        answering=None,
        branches=branches.forgotten(state),
        selected=None,
        vitals=None,
        asked=EMPTY,
        answers=EMPTY,
        answer_floor=state.last_generation,
    )


def _load_failed(state: AppState, event: LoadFailed) -> AppState:
    if state.loading is None or state.loading.model_id != event.model_id:
        return state
    spec = state.model.spec if state.model else state.spec
    state = replace(state, loading=None, spec=spec)
    if event.error.code == "load_cancelled":
        return notices.announce(state, "info", event.error.message)
    return notices.report(state, event.error)


def _refused(state: AppState, event: CommandRefused) -> AppState:
    cancelled = event.error.code == "prompt_cancelled"  # something else was asked for, or the user has stopped it
    if event.epoch is not None and cancelled:
        return acting.given_up(state, event.epoch)
    if event.epoch is not None and event.error.code == "next_run":
        return params.waits(state, event.epoch, event.error.message)
    if event.epoch is not None:
        state = acting.refused(params.refused(state, event.epoch), event.epoch)
    request = state.branches.requested
    if request is not None and type(request.command).__name__ == event.command:  # else it was given up for another one
        state = branches.refused(state)
    if event.command == "StartRun":
        state = acting.as_it_is(replace(state, requested=None, pending=EMPTY))
    return state if cancelled else notices.report(state, event.error)


def _answered(state: AppState, event: Answered) -> AppState:
    """Late answers are dropped: of an earlier run, of a slot nobody looks at, older than what is shown."""
    shown = state.answers.get(event.slot)
    floor = max(state.answer_floor, shown.generation if shown else 0)
    if event.slot not in state.asked or event.generation <= floor:
        return state
    return replace(state, answers=MappingProxyType({**state.answers, event.slot: event}))
