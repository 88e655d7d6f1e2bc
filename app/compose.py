"""Putting a window together: the one list of its panels. Used by the program, by `shot` and by tests."""

from __future__ import annotations

from app.panels.attention import AttentionPanel
from app.panels.cache import CachePanel
from app.panels.candidates import CandidatesPanel
from app.panels.output import OutputPanel
from app.panels.panel import Dispatch, Panel
from app.panels.parameters import ParametersPanel
from app.panels.prompt import PromptPanel
from app.panels.timeline import TimelinePanel
from app.settings import Settings
from app.state.state import ModelChoice
from app.store import Store
from app.window import Window
from core import list_models

PREFERRED = "smollm2"
FALLBACK = "tiny-gpt2"


def make_panels(dispatch: Dispatch) -> tuple[Panel, ...]:
    """Every panel, in the order of the Layout menu."""
    return (
        PromptPanel(dispatch),
        ParametersPanel(dispatch),
        OutputPanel(dispatch),
        TimelinePanel(dispatch),
        CandidatesPanel(dispatch),
        AttentionPanel(dispatch),
        CachePanel(dispatch),
    )


def make_window(store: Store, settings: Settings) -> Window:
    """A window with every panel, not shown yet."""
    return Window(store, make_panels(store.dispatch), settings)


def model_choices() -> tuple[ModelChoice, ...]:
    """What the chooser offers, whether it can be loaded or not."""
    return tuple(
        ModelChoice(m.name, m.title, m.description, m.available, m.reason[:1].upper() + m.reason[1:])
        for m in list_models()
    )


def default_model(choices: tuple[ModelChoice, ...]) -> str:
    """The chat model where its weights are installed, else the embedded one."""
    available = {c.name for c in choices if c.available}
    return PREFERRED if PREFERRED in available else FALLBACK
