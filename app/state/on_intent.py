"""The state after an intent of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import (
    acting,
    branches,
    cache_lab,
    desks,
    history,
    image_draft,
    modes,
    notices,
    params,
    presets,
    select,
    shown,
    twins,
)
from app.state import intents as i
from app.state.state import AppState, AttentionFocus, Draft, Loading, ModeTexts, Pace, Preview, Question, RunRequest
from app.state.texts import tr
from app.state.twin_intents import RunTwin, TwinIntent
from core.contract import ChatMessage


def on_intent(state: AppState, intent: i.Intent) -> AppState:
    """The state after `intent`; what core has to do for it is `effects.commands`."""
    if isinstance(intent, i.DeskIntent):
        return desks.on_intent(state, intent)
    if isinstance(intent, i.ImageIntent):
        draft = image_draft.on_intent(state.draft, image_draft.facts(state), intent)
        return state if draft is state.draft else replace(state, draft=draft)
    if isinstance(intent, i.LabIntent):
        return cache_lab.on_intent(state, intent)
    if isinstance(intent, i.ActingIntent):
        return acting.on_intent(state, intent)
    if isinstance(intent, i.Step | i.TogglePause | i.Stop):
        state = acting.gone_on(state)
    if isinstance(intent, i.BranchIntent):
        return acting.cleared(branches.on_intent(state, intent), state.run)
    if isinstance(intent, TwinIntent):
        if isinstance(intent, RunTwin) and intent.begin == "run":
            state = _request_run(replace(state, reroll=0), max_steps=None)
        return acting.cleared(twins.on_intent(state, intent), state.run)
    match intent:
        case i.Run():
            return _request_run(replace(state, reroll=0), max_steps=None)
        case i.Regenerate(index):
            return _regenerate(state, index)
        case i.Step():
            begun = state if select.is_active(state) else _request_run(replace(state, reroll=0), max_steps=1)
            return replace(begun, stepping=begun.stepping or select.can_step(state))
        case i.TogglePause() | i.Stop() | i.SetSpeed() | i.Waiting():
            return _pace(state, intent)
        case i.SetTraceBudget(mebibytes):
            return replace(state, trace_budget_mb=mebibytes)
        case i.TokenizeDraft():
            return state
        case i.Undo():
            return history.undo(state)
        case i.Redo():
            return history.redo(state)
        case i.SetParameter(name, value):
            return params.set_parameter(state, name, value)
        case i.ResetParameter(name):
            return params.reset_parameter(state, name)
        case i.ResetParameters():
            return params.with_overrides(replace(state, mode_texts=ModeTexts()), {})
        case i.ChooseMode(key):
            return modes.choose(state, key)
        case i.SetModeText(name, text):
            return modes.set_text(state, name, text)
        case i.ShowMore(on):
            return replace(state, more=on)
        case i.SetSeed(seed):
            return replace(state, seed=max(0, seed))
        case i.SetGrammar(grammar):
            return replace(state, grammar=grammar)
        case i.SetCache(spec):
            return replace(state, cache=spec)
        case i.SelectStep(index):
            return _select(state, index)
        case i.MoveSelection(delta):
            return _move(state, delta)
        case i.ShowRow() | i.ShowBeam():
            return shown.show(state, intent)
        case i.SetFocus(layer, head):
            return replace(state, focus=AttentionFocus(layer, head))
        case i.ToggleHead(layer, head):
            return replace(state, focus=_toggled(state.focus, layer, head))
        case i.JoinHeads(by):
            return replace(state, focus=replace(state.focus, head=by))
        case i.SetColour(by):
            return replace(state, colour_by=by)
        case i.ChooseModel() | i.LookAt() | i.CancelLoading() | i.OfferModels():
            return _model(state, intent)
        case i.SetTheme(theme):
            return replace(state, theme=theme)
        case i.SetLayout(layout):
            return replace(state, layout=layout, arrangement=state.arrangement + 1)
        case i.ResetLayout():
            return replace(state, arrangement=state.arrangement + 1)
        case i.AskView() | i.WithdrawView():
            return _view(state, intent)
        case i.Announce(kind, text, detail):
            return notices.announce(state, kind, text, detail)
        case i.DismissNotice(notice_id):
            return notices.dismiss(state, notice_id)
        case i.DismissError(notice_id):
            return notices.dismiss_error(state, notice_id)
        case i.OfferPresets() | i.ImportPreset() | i.ApplyPreset() | i.SavePreset() | i.RemovePreset():
            return _preset(state, intent)
        case _:
            draft = edit(state.draft, intent)
            return state if draft is state.draft else replace(state, draft=draft)


def edit(draft: Draft, intent: i.Intent) -> Draft:
    """The draft after an edit, with a new generation if it would be sent differently."""
    match intent:
        case i.SelectTab(tab):
            after = replace(draft, tab=tab)
        case i.EditText(text):
            after = replace(draft, text=text, touched=True)
        case i.EditBatch(text):
            after = replace(draft, batch=text)
        case i.EditSystem(text):
            after = replace(draft, system=text)
        case i.EditMessage(text):
            after = replace(draft, message=text, touched=True)
        case i.EditTurn(index, text) if 0 <= index < len(draft.turns):
            turn = ChatMessage(draft.turns[index].role, text)
            after = replace(draft, turns=(*draft.turns[:index], turn, *draft.turns[index + 1 :]), touched=True)
        case i.RemoveTurn(index) if 0 <= index < len(draft.turns):
            after = replace(draft, turns=draft.turns[:index] + draft.turns[index + 1 :], touched=True)
        case i.AddTurn():
            role = "assistant" if draft.turns and draft.turns[-1].role == "user" else "user"
            after = replace(draft, turns=(*draft.turns, ChatMessage(role, "")), touched=True)
        case i.ClearChat():
            after = replace(draft, turns=())
        case _:
            return draft
    return draft if after == draft else replace(after, generation=draft.generation + 1)


def _request_run(state: AppState, max_steps: int | None) -> AppState:
    if not select.can_run(state):
        return notices.announce(state, "error", tr("No model is loaded; choose one in the toolbar."))
    missing = select.missing_prompt(state.draft) or modes.missing(state)
    if missing:
        return notices.announce(state, "error", missing)
    if state.draft.tab == "chat" and state.answering is not None and select.is_active(state):
        return notices.announce(state, "error", tr("The model is still answering; wait for the end, or stop it first."))
    spec = select.run_spec(state, max_steps)
    number = state.last_run_id + 1
    state = acting.asked_for(notices.without_errors(state))
    pace = replace(state.pace, paused=False)
    request = RunRequest(number, spec, state.draft.tab, state.draft.turns)
    return replace(state, requested=request, last_run_id=number, pace=pace, stepping=max_steps is not None)


def _regenerate(state: AppState, index: int) -> AppState:
    """The turns up to the one that is answered anew, and a run on them with other draws."""
    draft = state.draft
    if not 0 <= index < len(draft.turns):
        return state
    keep = index if draft.turns[index].role == "assistant" else index + 1
    shorter = replace(draft, turns=draft.turns[:keep], tab="chat", generation=draft.generation + 1)
    asked = replace(shorter, message="")  # what is being written is for later
    state = replace(state, draft=asked, reroll=state.reroll + 1, answering=None)
    state = _request_run(state, max_steps=None)
    return replace(state, draft=shorter)


def _pace(state: AppState, intent: i.TogglePause | i.Stop | i.SetSpeed | i.Waiting) -> AppState:
    pace = state.pace
    match intent:
        case i.TogglePause():
            state = replace(state, stepping=False)
            paused = select.is_active(state) and not select.is_paused(state) and pace.waiting > 0
            after = replace(pace, paused=paused)
        case i.Stop():
            after = replace(pace, paused=False)
        case i.SetSpeed(limit_tps):
            after = Pace(limit_tps, pace.waiting, pace.ended, pace.paused and limit_tps is not None)
        case i.Waiting(count, ended):
            after = replace(pace, waiting=count, ended=ended, paused=pace.paused and count > 0)
    return state if after == pace else replace(state, pace=after)


def _preset(
    state: AppState, intent: i.OfferPresets | i.ImportPreset | i.ApplyPreset | i.SavePreset | i.RemovePreset
) -> AppState:
    match intent:
        case i.OfferPresets(found):
            return replace(state, presets=found)
        case i.ImportPreset(preset):
            return presets.imported(state, preset)
        case i.ApplyPreset(name):
            return presets.apply(state, name)
        case i.SavePreset(name):
            return presets.save(state, name) if name.strip() else state
        case i.RemovePreset(name):
            return presets.remove(state, name)


def _select(state: AppState, index: int | None) -> AppState:
    """A step, or a token of the prompt: -1 is its last one."""
    run = state.run
    if index is not None and run is not None and index < 0:
        index = max(index, -run.prompt_tokens)
    elif index is not None:
        index = min(index, run.count - 1) if run is not None and run.count else None
    return replace(state, selected=index)


def _move(state: AppState, delta: int) -> AppState:
    """Further back than the first step is the prompt, but not at one go."""
    index = select.token_index(state)
    if index is None or state.run is None:
        return state
    target = max(0, index + delta) if index > 0 else index + delta
    return _select(state, None if target >= max(0, state.run.count - 1) and delta > 0 else target)


def _toggled(focus: AttentionFocus, layer: int, head: int) -> AttentionFocus:
    """The focus with a head more or less; a set of one is that head alone."""
    alone = (focus.head,) if isinstance(focus.head, int) else focus.chosen
    before = alone if focus.layer == layer else ()
    chosen = tuple(h for h in before if h != head) if head in before else tuple(sorted((*before, head)))
    if len(chosen) == 1:
        return AttentionFocus(layer, chosen[0])
    return AttentionFocus(layer, "max" if focus.head == "max" else "mean", chosen)


def _model(state: AppState, intent: i.ChooseModel | i.LookAt | i.CancelLoading | i.OfferModels) -> AppState:
    match intent:
        case i.OfferModels(models):
            return replace(state, models=models)
        case i.LookAt(None):
            return replace(state, preview=None)
        case i.LookAt(name):
            number = state.last_generation + 1
            preview = Preview(number, replace(state.spec, name=name or ""))
            return replace(state, preview=preview, last_generation=number)
        case i.CancelLoading():
            return replace(state, loading=replace(state.loading, cancelling=True)) if state.loading else state
        case i.ChooseModel(name, device, dtype, again):
            spec = replace(
                state.spec,
                name=name or state.spec.name,
                device=device or state.spec.device,
                dtype=dtype or state.spec.dtype,
            )
            if not again and state.loading is None and state.model is not None and spec == state.model.spec:
                return notices.announce(state, "info", tr("This model is loaded already."))
            number = state.last_model_id + 1
            loading = Loading(number, spec)
            return replace(notices.without_errors(state), spec=spec, loading=loading, last_model_id=number)


def _view(state: AppState, intent: i.AskView | i.WithdrawView) -> AppState:
    if isinstance(intent, i.WithdrawView):
        return replace(state, asked=_without(state.asked, intent.slot))
    number = state.last_generation + 1
    asked = {**state.asked, intent.slot: Question(number, intent.query)}
    return replace(state, asked=MappingProxyType(asked), last_generation=number)


def _without(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != name})
