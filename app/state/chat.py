"""The turns of a chat as runs begin and end: what was sent becomes one, and so does what was answered. Pure."""

from __future__ import annotations

from dataclasses import replace

from app.state.state import Answering, AppState, Draft, RunRequest
from core.contract import ChatMessage, RunFinished


def with_sent(draft: Draft, request: RunRequest) -> Draft:
    """The sent message becomes a turn; the field is free for the next one. What was edited since stays edited."""
    sent = tuple(m for m in request.spec.prompts[0].messages or () if m.role != "system")
    turns = sent
    if draft.turns != request.turns:
        turns = _written(draft.turns) + sent[len(_written(request.turns)) :]
    message = "" if sent and draft.message == sent[-1].content else draft.message
    return replace(draft, turns=turns, message=message, generation=draft.generation + 1)


def answering(draft: Draft, run_id: int) -> Answering | None:
    """What a run that begins answers: the last turn of the user."""
    asked = [n for n, turn in enumerate(draft.turns) if turn.role == "user"]
    return Answering(run_id, draft.turns[asked[-1]], asked[-1]) if asked else None


def with_answer(state: AppState, event: RunFinished) -> AppState:
    """The answer becomes a turn after the one that it answers, whatever is in front; not where that one is gone."""
    asked, draft = state.answering, state.draft
    if asked is None or asked.run_id != event.run_id:
        return state
    state = replace(state, answering=None)
    text = event.texts[0] if event.texts else ""
    place = _place(draft.turns, asked)
    if place is None or not text.strip():
        return state
    after = draft.turns[place + 1 :]
    if after and after[0].role == "assistant" and not after[0].content.strip():
        after = after[1:]  # an empty turn that was added while it was awaited
    turns = (*draft.turns[: place + 1], ChatMessage("assistant", text), *after)
    return replace(state, draft=replace(draft, turns=turns, generation=draft.generation + 1))


def _place(turns: tuple[ChatMessage, ...], asked: Answering) -> int | None:
    """Where the question is now: it may have moved, or have been written anew in its place."""
    same = [n for n, turn in enumerate(turns) if turn == asked.question]
    if asked.index in same:
        return asked.index
    if same:
        return same[-1]
    return asked.index if asked.index < len(turns) and turns[asked.index].role == "user" else None


def _written(turns: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    return tuple(turn for turn in turns if turn.content.strip())
