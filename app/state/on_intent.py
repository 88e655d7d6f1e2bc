"""The state after an intent of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import intents as i
from app.state import notices, params, select
from app.state.state import AppState, AttentionFocus, Draft, Loading, Question, RunRequest
from app.state.texts import tr
from core.contract import ChatMessage, RunSpec


def on_intent(state: AppState, intent: i.Intent) -> AppState:
    """The state after `intent`; what core has to do for it is `effects.commands`."""
    match intent:
        case i.Run():
            return _request_run(state, max_steps=None)
        case i.Step():
            return state if select.is_active(state) else _request_run(state, max_steps=1)
        case i.TogglePause() | i.Stop() | i.TokenizeDraft():
            return state
        case i.SetParameter(name, value):
            return params.set_parameter(state, name, value)
        case i.ResetParameter(name):
            return params.reset_parameter(state, name)
        case i.ResetParameters():
            return params.with_overrides(state, {})
        case i.SetSeed(seed):
            return replace(state, seed=max(0, seed))
        case i.SelectStep(index):
            return _select(state, index)
        case i.MoveSelection(delta):
            return _move(state, delta)
        case i.SetFocus(layer, head):
            return replace(state, focus=AttentionFocus(layer, head))
        case i.SetColour(by):
            return replace(state, colour_by=by)
        case i.ChooseModel() | i.CancelLoading() | i.OfferModels():
            return _model(state, intent)
        case i.SetTheme(theme):
            return replace(state, theme=theme)
        case i.SetLayout(layout):
            return replace(state, layout=layout, arrangement=state.arrangement + 1)
        case i.AskView() | i.WithdrawView():
            return _view(state, intent)
        case i.Announce(kind, text, detail):
            return notices.announce(state, kind, text, detail)
        case i.DismissNotice(notice_id):
            return notices.dismiss(state, notice_id)
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
        case i.EditSystem(text):
            after = replace(draft, system=text)
        case i.EditMessage(text):
            after = replace(draft, message=text, touched=True)
        case i.EditTurn(index, text) if 0 <= index < len(draft.turns):
            turn = (ChatMessage(draft.turns[index].role, text),) if text.strip() else ()
            after = replace(draft, turns=draft.turns[:index] + turn + draft.turns[index + 1 :], touched=True)
        case i.ClearChat():
            after = replace(draft, turns=())
        case _:
            return draft
    return draft if after == draft else replace(after, generation=draft.generation + 1)


def _request_run(state: AppState, max_steps: int | None) -> AppState:
    if not select.can_run(state):
        return notices.announce(state, "error", tr("No model is loaded; choose one in the toolbar."))
    if state.draft.tab == "chat" and not select.chat_messages(state.draft):
        return notices.announce(state, "error", tr("The chat is empty; write a message first."))
    spec = RunSpec(
        prompts=(select.prompt(state.draft),),
        params=_chosen(state),
        seed=state.seed,
        max_steps=max_steps,
    )
    number = state.last_run_id + 1
    state = notices.without_errors(state)
    return replace(state, requested=RunRequest(number, spec, state.draft.tab), last_run_id=number)


def _chosen(state: AppState) -> dict[str, object]:
    """What the user chose, and sampling where the model itself would not."""
    samples = state.model is not None and state.model.defaults.do_sample
    return dict(state.overrides) if samples else {"do_sample": True, **state.overrides}


def _select(state: AppState, index: int | None) -> AppState:
    count = state.run.count if state.run else 0
    if index is not None:
        index = max(0, min(index, count - 1)) if count else None
    return replace(state, selected=index)


def _move(state: AppState, delta: int) -> AppState:
    index = select.step_index(state)
    if index is None or state.run is None:
        return state
    target = index + delta
    return _select(state, None if target >= state.run.count - 1 and delta > 0 else target)


def _model(state: AppState, intent: i.ChooseModel | i.CancelLoading | i.OfferModels) -> AppState:
    match intent:
        case i.OfferModels(models):
            return replace(state, models=models)
        case i.CancelLoading():
            return replace(state, loading=replace(state.loading, cancelling=True)) if state.loading else state
        case i.ChooseModel(name, device, dtype):
            spec = replace(
                state.spec,
                name=name or state.spec.name,
                device=device or state.spec.device,
                dtype=dtype or state.spec.dtype,
            )
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
