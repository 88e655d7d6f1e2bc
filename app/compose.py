"""Putting a window together: the one list of its panels. Used by the program, by `shot` and by tests."""

from __future__ import annotations

from pathlib import Path

from app.panels.attention import AttentionPanel
from app.panels.beams import BeamsPanel
from app.panels.breakpoints import BreakpointsPanel
from app.panels.cache import CachePanel
from app.panels.cache_lab import CacheLabPanel
from app.panels.candidates import CandidatesPanel
from app.panels.canvas import CanvasPanel
from app.panels.compare import ComparePanel
from app.panels.config_desk import ConfigPanel
from app.panels.errors import ErrorsPanel
from app.panels.interventions import InterventionsPanel
from app.panels.layers import LayersPanel
from app.panels.lens import LensPanel
from app.panels.mode import ModePanel
from app.panels.onnx import OnnxPanel
from app.panels.output import OutputPanel
from app.panels.panel import Dispatch, Panel
from app.panels.parameters import ParametersPanel
from app.panels.plan import PlanPanel
from app.panels.prompt import PromptPanel
from app.panels.rows import RowsPanel
from app.panels.timeline import TimelinePanel
from app.panels.walk import WalkPanel
from app.panels.watches import WatchesPanel
from app.panels.waterfall import WaterfallPanel
from app.settings import Settings
from app.state.state import ModelChoice
from app.store import Store
from app.widgets.numbers import byte_count
from app.window import Window
from core import list_cached_models, list_models

PREFERRED = "smollm2"
FALLBACK = "tiny-gpt2"


def make_panels(dispatch: Dispatch) -> tuple[Panel, ...]:
    """Every panel, in the order of the Layout menu."""
    return (
        PromptPanel(dispatch),
        ParametersPanel(dispatch),
        PlanPanel(dispatch),
        OutputPanel(dispatch),
        CanvasPanel(dispatch),
        TimelinePanel(dispatch),
        CandidatesPanel(dispatch),
        WaterfallPanel(dispatch),
        ModePanel(dispatch),
        AttentionPanel(dispatch),
        LensPanel(dispatch),
        LayersPanel(dispatch),
        WalkPanel(dispatch),
        ComparePanel(dispatch),
        CachePanel(dispatch),
        CacheLabPanel(dispatch),
        InterventionsPanel(dispatch),
        BreakpointsPanel(dispatch),
        WatchesPanel(dispatch),
        ConfigPanel(dispatch),
        OnnxPanel(dispatch),
        RowsPanel(dispatch),
        BeamsPanel(dispatch),
        ErrorsPanel(dispatch),
    )


def make_window(store: Store, settings: Settings, presets: Path | None = None) -> Window:
    """A window with every panel, not shown yet. `presets`: the folder they are kept in, if any."""
    return Window(store, make_panels(store.dispatch), settings, catalogue, presets)


def model_choices() -> tuple[ModelChoice, ...]:
    """What the chooser offers, whether it can be loaded or not."""
    return tuple(
        ModelChoice(m.name, m.title, m.description, m.available, m.reason[:1].upper() + m.reason[1:])
        for m in list_models()
    )


def catalogue() -> tuple[ModelChoice, ...]:
    """The same, and what of the Hugging Face hub is on this disk; reads the disk."""
    cached = tuple(
        ModelChoice(
            m.name,
            f"{m.name} · {m.commit[:7]} · {byte_count(m.size_bytes)}",
            f"Commit {m.commit}",
            m.available,
            m.reason[:1].upper() + m.reason[1:],
            "cached",
        )
        for m in list_cached_models()
    )
    return (*model_choices(), *cached)


def default_model(choices: tuple[ModelChoice, ...]) -> str:
    """The chat model where its weights are installed, else the embedded one."""
    available = {c.name for c in choices if c.available}
    return PREFERRED if PREFERRED in available else FALLBACK
