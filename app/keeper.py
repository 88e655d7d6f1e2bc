"""Writes what is to be remembered as soon as it changes: a view of the store without a face."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Slot

from app.panels.panel import Dispatch
from app.preset_files import file_name, read_folder, write_preset
from app.settings import Settings
from app.state.acting_intents import AddBreakpoint
from app.state.intents import Announce, OfferPresets
from app.state.state import AppState, Preset
from core.contract import ParameterError, break_notation, parse_breakpoint

REST_MS = 400  # changes in a row are written once


def kept_breakpoints(state: AppState) -> tuple[tuple[str, bool], ...]:
    """The breakpoints in their notation, and whether they are on."""
    return tuple((break_notation(one.breakpoint), one.on) for one in state.acting.breaks)


class Keeper(QObject):
    """Themes, recents and presets. A file that cannot be written is said once and changes nothing in the window."""

    heavy = False

    def __init__(self, settings: Settings, presets: Path | None, dispatch: Dispatch, parent: QObject) -> None:
        super().__init__(parent)
        self._settings = settings
        self._folder = presets
        self._dispatch = dispatch
        self._state: AppState | None = None
        self._kept: tuple[object, ...] = ()
        self._written: tuple[Preset, ...] = ()
        self._said: set[str] = set()
        self._remembered: dict[str, object] = {  # only what this window changes is written: there may be another one
            "theme": settings.theme,
            "layout": settings.layout,
            "recent_models": settings.recent("models"),
            "recent_prompts": settings.recent("prompts"),
            "trace_budget_mb": settings.trace_budget_mb,
            "breakpoints": settings.breakpoints(),
        }
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self.write)

    def begin(self) -> None:
        """Offer the presets that are there; say what is damaged."""
        if self._settings.problem is not None:
            self._say(self._settings.problem)
        for text, on in self._settings.breakpoints():
            try:
                self._dispatch(AddBreakpoint(parse_breakpoint(text), on))
            except ParameterError as error:
                self._say(error.message)
        if self._folder is not None:
            self._written, problems = read_folder(self._folder)
            self._dispatch(OfferPresets(self._written))
            for problem in problems:
                self._say(problem)

    def render(self, state: AppState) -> None:
        """Wait until changes rest."""
        lists = (state.recent_models, state.recent_prompts, state.presets)
        kept = (state.theme, state.layout, *lists, state.trace_budget_mb, kept_breakpoints(state))
        first, changed = self._state is None, kept != self._kept
        self._state, self._kept = state, kept
        if changed and not first:
            self._rest.start()

    @Slot()
    def write(self) -> None:
        """Write what has changed."""
        state = self._state
        if state is None:
            return
        self._rest.stop()
        values: dict[str, object] = {
            "theme": state.theme,
            "layout": state.layout,
            "recent_models": state.recent_models,
            "recent_prompts": state.recent_prompts,
            "trace_budget_mb": state.trace_budget_mb,
            "breakpoints": kept_breakpoints(state),
        }
        changed = {name: value for name, value in values.items() if self._remembered.get(name) != value}
        problem = self._settings.remember(**changed)
        if problem is None:
            self._remembered = values
        else:
            self._say(problem)
        if self._folder is not None and state.presets != self._written:
            self._write_presets(self._folder, state.presets)

    def _write_presets(self, folder: Path, presets: tuple[Preset, ...]) -> None:
        """Each for itself: one that cannot be written does not hold up the others."""
        names = {p.name for p in presets}
        there = {p.name: p for p in self._written}
        for preset in presets:
            write = partial(write_preset, folder, preset, new=preset.name not in there)
            if there.get(preset.name) != preset and self._managed(folder, write):
                there[preset.name] = preset
        for gone in [name for name in there if name not in names]:
            path = folder / file_name(gone)
            if self._managed(folder, partial(path.unlink, missing_ok=True)):
                del there[gone]
        # In their order; last those that are to be removed yet. What could not be written is still there as it was.
        shown = [there.pop(name) for name in [p.name for p in presets] if name in there]
        self._written = (*shown, *there.values())

    def _managed(self, folder: Path, write: Callable[[], None]) -> bool:
        try:
            write()
        except (OSError, ValueError) as error:
            self._say(f"The presets cannot be saved to {folder}: {getattr(error, 'strerror', None) or error}.")
            return False
        return True

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._dispatch(Announce("error", text))

    def isVisible(self) -> bool:
        """Always on duty."""
        return True

    def hidden(self) -> None:
        """Never."""
