"""Undo and redo of what the user edits: parameters, seed, presets, prompt and chat. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.state import acting, branches, params, presets
from app.state import acting_intents as a
from app.state import branch_intents as b
from app.state import intents as i
from app.state.image_intents import DrawPixels, KeepPixels, StartEmpty, StartPicture
from app.state.state import AppState, Edit, History, Tab
from app.state.texts import tr

MOST_EDITS = 200
STATE_FIELDS = ("overrides", "seed", "config", "grammar", "mode_texts", "cache", "presets")
_TABS: tuple[Tab, ...] = ("image", "text", "batch")  # whose field of the draft has the same name
DRAFT_FIELDS = ("text", "system", "turns", "message", "batch", "image")

_EDITS = (
    i.SetParameter
    | i.ResetParameter
    | i.ResetParameters
    | i.ChooseMode
    | i.SetModeText
    | i.SetSeed
    | i.SetGrammar
    | i.SetCache
    | i.ApplyPreset
    | i.ImportPreset
    | i.SavePreset
    | i.RemovePreset
    | i.EditText
    | i.EditBatch
    | i.EditSystem
    | i.EditMessage
    | i.EditTurn
    | i.RemoveTurn
    | i.AddTurn
    | i.ClearChat
    | i.Regenerate
    | i.ImageIntent
    | b.DeleteBranch
    | b.RenameBranch
    | a.ListIntent
)


def record(before: AppState, after: AppState, intent: i.Intent) -> AppState:
    """With a step of undo for the intent, if it was an edit that changed something."""
    if not isinstance(intent, _EDITS) or (isinstance(intent, StartPicture) and intent.offered):
        return _sealed(after) if isinstance(intent, i.Run | i.Step) else after
    old, new = _fields(before), _fields(after)
    changed = {name: old[name] for name in old if old[name] != new[name]}
    if "place" in changed:
        changed.pop("acts", None)  # each branch has its own list
    if "presets" in changed:
        changed |= {"presets": presets.lost(before, after)}
        if not changed["presets"]:
            changed.pop("presets")  # a new one is not taken away again
    if not changed:
        return after
    history, key = after.history, _key(intent)
    past = history.past
    if key is not None and past and past[-1].key == key:
        last = past[-1]
        past = (*past[:-1], replace(last, values={**changed, **last.values}))
    else:
        past = (*past, Edit(_label(intent), key, changed))[-MOST_EDITS:]
    return replace(after, history=History(_without_way_back(past, new)))


def _without_way_back(past: tuple[Edit, ...], now: Mapping[str, Any]) -> tuple[Edit, ...]:
    """Without typing that an editor's own undo has taken back, or the next step of undo would bring it again."""
    *before, last = past
    if last.key is None or last.values.keys() - DRAFT_FIELDS or len(last.values) != 1:
        return past
    (name,) = last.values
    earlier = next((edit for edit in reversed(before) if name in edit.values), None)
    if earlier is None or (earlier.label, earlier.values) != (last.label, {name: now[name]}):
        return past
    return tuple(edit for edit in before if edit is not earlier)


def moved(before: AppState, after: AppState) -> AppState:
    """With a step of undo back to the branch that was in use before a new one began."""
    if before.run is None or after.run is None or after.run.branch == before.run.branch:
        return after
    node = after.branches.nodes.get(after.run.branch)
    if before.run.branch not in after.branches.nodes or node is None:
        return after
    old, new, past = _fields(before), _fields(after), after.history.past
    values = {"place": before.run.branch} | {n: old[n] for n in DRAFT_FIELDS if old[n] != new[n]}
    edit = Edit(tr(_BEGUN[node.kind]), None, values)
    if node.kind == "run" and after.reroll and past and "turns" in past[-1].values:  # an answer generated again
        past, edit = past[:-1], replace(past[-1], values={**values, **past[-1].values})
    return replace(after, history=History((*past, edit)[-MOST_EDITS:]))


_BEGUN = {
    "run": "run",
    "rewind": "rewind",
    "force": "forced token",
    "edit": "edit of the text",
    "try": "another try",
    "fork": "fork",
    "twin": "twin run",
}


def undo(state: AppState) -> AppState:
    """One step back; steps that would change nothing any more are skipped."""
    past, future = state.history.past, state.history.future
    while past:
        edit, past = past[-1], past[:-1]
        after, back = _exchange(state, edit)
        if back is not None:
            return replace(after, history=History(past, (*future, back)))
    return replace(state, history=History((), future))


def redo(state: AppState) -> AppState:
    """One step forward again."""
    past, future = state.history.past, state.history.future
    while future:
        edit, future = future[-1], future[:-1]
        after, back = _exchange(state, edit)
        if back is not None:
            return replace(after, history=History((*past, back), future))
    return replace(state, history=History(past, ()))


def _exchange(state: AppState, edit: Edit) -> tuple[AppState, Edit | None]:
    """The fields of an edit exchanged with those of the state; None where they are the same already."""
    place = edit.values["acts"][0] if "acts" in edit.values else None
    if place is not None:  # interventions were those of a branch
        state = branches.show(state, place)
    now = _fields(state)
    values = {name: now[name] for name in edit.values}
    if "presets" in values:
        values["presets"] = {name: presets.find(state, name) for name in edit.values["presets"]}
    back = Edit(edit.label, None, values)
    after = _with(state, edit.values)
    # What is there already, or is there no more (a branch of a run long ago), is no step.
    return (state, None) if _fields(after) == now else (after, back)


def _with(state: AppState, values: Mapping[str, Any]) -> AppState:
    plain = {n: values[n] for n in ("seed", "config", "grammar", "mode_texts", "cache") if n in values}
    state = replace(state, **plain)
    if "presets" in values:
        state = presets.with_earlier(state, values["presets"])
    if "deleted" in values:
        state = branches.with_deleted(state, values["deleted"])
    if "names" in values:
        state = branches.with_names(state, values["names"])
    if values.get("place") is not None:
        state = branches.show(state, values["place"])
    if "acts" in values:
        state = acting.with_earlier(state, values["acts"][1])
    if "overrides" in values:
        state = params.with_overrides(state, values["overrides"])
    prompt: dict[str, Any] = {n: values[n] for n in DRAFT_FIELDS if n in values}
    if prompt:
        draft = state.draft
        tab: Tab = next((t for t in _TABS if t in prompt), "chat")
        if "image" in prompt:
            prompt["image"] = replace(prompt["image"], since=draft.generation + 1)
            if state.model is None or state.model.image is None:
                tab = draft.tab  # the picture waits for a model that paints
        state = replace(state, draft=replace(draft, tab=tab, generation=draft.generation + 1, **prompt))
    return state


def _fields(state: AppState) -> Mapping[str, Any]:
    fields = {n: getattr(state, n) for n in STATE_FIELDS}
    fields["place"] = None if state.run is None else state.run.branch
    fields["acts"] = fields["place"], state.acting.acts
    fields |= {"deleted": state.branches.deleted, "names": state.branches.names}
    return MappingProxyType(fields | {n: getattr(state.draft, n) for n in DRAFT_FIELDS})


def _sealed(state: AppState) -> AppState:
    """What is typed after a run is a step of its own."""
    past = state.history.past
    if not past or past[-1].key is None:
        return state
    return replace(state, history=replace(state.history, past=(*past[:-1], replace(past[-1], key=None))))


def _key(intent: i.Intent) -> object:
    """Edits in a row with the same key are one step; None never merges."""
    match intent:
        case i.SetParameter(name, _, gesture) if gesture is not None:
            return name, gesture
        case i.EditText(whole=True) | i.EditBatch(whole=True) | i.EditMessage(whole=True):
            return None  # what was typed before is to be found again
        case i.EditText() | i.EditBatch() | i.EditSystem() | i.EditMessage():
            return type(intent).__name__
        case i.SetGrammar(grammar) if grammar is not None and grammar.text:
            return "grammar", grammar.kind
        case i.SetModeText(name):
            return "mode text", name
        case KeepPixels():
            return "rows given"
        case DrawPixels(_, stroke):
            return "stroke", stroke
        case i.EditTurn(index):
            return "turn", index
        case _:
            return None


def _label(intent: i.Intent) -> str:
    match intent:
        case i.SetParameter(name) | i.ResetParameter(name):
            return name
        case b.DeleteBranch():
            return tr("deletion of a branch")
        case b.RenameBranch():
            return tr("name of a branch")
        case _ if isinstance(intent, a.ListIntent):
            return tr("intervention")
        case i.SetSeed():
            return "seed"
        case i.ChooseMode() | i.SetModeText():
            return tr("mode")
        case i.SetGrammar():
            return tr("constraint")
        case i.SetCache():
            return tr("cache")
        case i.ResetParameters():
            return tr("reset of all parameters")
        case i.ApplyPreset() | i.ImportPreset():
            return tr("preset")
        case i.SavePreset():
            return tr("replacement of a preset")
        case i.RemovePreset():
            return tr("removal of a preset")
        case i.EditText(whole=True) | i.EditBatch(whole=True):
            return tr("another text")
        case i.EditText() | i.EditBatch():
            return tr("typing")
        case i.ClearChat():
            return tr("new chat")
        case KeepPixels():
            return tr("what is given")
        case DrawPixels():
            return tr("stroke")
        case StartEmpty() | StartPicture():
            return tr("choice of a picture")
        case _:
            return tr("edit of the chat")
