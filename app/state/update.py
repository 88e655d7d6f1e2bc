"""`update(state, message) -> state`: the only way the state changes. Pure, no Qt, no I/O."""

from __future__ import annotations

from app.state import history, plan
from app.state.intents import Intent
from app.state.on_event import on_event
from app.state.on_intent import on_intent
from app.state.state import AppState
from core.contract import Event


def update(state: AppState, message: Event | Intent) -> AppState:
    """The state after a core event or an intent of the user."""
    if isinstance(message, Event):
        return on_event(state, message)
    after = history.record(state, on_intent(state, message), message)
    return plan.asked_anew(state, after, message)
