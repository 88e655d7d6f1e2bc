"""Every command of the window, once: text, shortcut, intent. Toolbar, menus and palette show these actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from app.state import branch_intents as b
from app.state import branches, select
from app.state import intents as i
from app.state.intents import Intent
from app.state.state import AppState, ColourBy, LayoutName
from app.theme.palette import ThemeName

SPEEDS_TPS = (5, 10, 20, 40)
TRACE_BUDGETS_MB = (256, 1024, 4096)
Predicate = Callable[[AppState], bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """An action, what it does, when it can."""

    action: QAction
    enabled: Predicate
    checked: Predicate | None = None


class Actions(QObject):
    """Creates the actions on `host` (their shortcuts work wherever its window has the focus)."""

    def __init__(self, host: QWidget, dispatch: Callable[[Intent], None]) -> None:
        super().__init__(host)
        self._host = host
        self._dispatch = dispatch
        self.entries: dict[str, Entry] = {}
        self._add_run_actions()
        self._add_edit_actions()
        self._add_selection_actions()
        self._add_branch_actions()
        self._add_view_actions()

    def __getitem__(self, name: str) -> QAction:
        return self.entries[name].action

    def add(
        self,
        name: str,
        text: str,
        do: Intent | Callable[[], object],
        shortcuts: tuple[str, ...] = (),
        enabled: Predicate = lambda _: True,
        checked: Predicate | None = None,
    ) -> QAction:
        """A new action that dispatches an intent or calls a function."""
        action = QAction(text, self._host)
        action.setObjectName(name)
        action.setShortcuts([QKeySequence(s) for s in shortcuts])
        if shortcuts:
            shown = QKeySequence(shortcuts[0]).toString(QKeySequence.SequenceFormat.NativeText)
            action.setToolTip(f"{text.rstrip('…')} ({shown})")
        action.setCheckable(checked is not None)
        if callable(do):
            action.triggered.connect(lambda _checked=False, call=do: call())
        else:
            action.triggered.connect(lambda _checked=False, intent=do: self._dispatch(intent))
        self._host.addAction(action)
        self.entries[name] = Entry(action, enabled, checked)
        return action

    def show_state(self, state: AppState) -> None:
        """Enable and check what the state allows."""
        for entry in self.entries.values():
            entry.action.setEnabled(entry.enabled(state))
            if entry.checked is not None:
                entry.action.setChecked(entry.checked(state))
        for name, edits in (("undo", state.history.past), ("redo", state.history.future)):
            verb = self.tr("Undo") if name == "undo" else self.tr("Redo")
            self[name].setText(f"{verb} {edits[-1].label}" if edits else verb)
        paused = select.is_paused(state)
        pause = self["pause"]
        pause.setText(self.tr("Resume") if paused else self.tr("Pause"))
        pause.setToolTip(self.tr("Go on (F5)") if paused else self.tr("Pause between two tokens (F5)"))

    def _add_run_actions(self) -> None:
        tips = {
            self.add("run", self.tr("Run"), i.Run(), ("Ctrl+Return", "Ctrl+Enter"), select.can_run): self.tr(
                "Generate from the prompt (Ctrl+Enter)"
            ),
            self.add("pause", self.tr("Pause"), i.TogglePause(), ("F5",), select.is_active): "",
            self.add("step", self.tr("Step"), i.Step(), ("F10",), select.can_step): self.tr("One token (F10)"),
            self.add("stop", self.tr("Stop"), i.Stop(), ("Esc",), select.is_active): self.tr("End the run (Esc)"),
        }
        for action, tip in tips.items():
            if tip:
                action.setToolTip(tip)
        self.add("reset", self.tr("Reset all parameters"), i.ResetParameters(), (), lambda s: bool(s.overrides))

    def _add_edit_actions(self) -> None:
        self.add("undo", self.tr("Undo"), i.Undo(), ("Ctrl+Z",), lambda s: bool(s.history.past))
        self.add("redo", self.tr("Redo"), i.Redo(), ("Ctrl+Shift+Z", "Ctrl+Y"), lambda s: bool(s.history.future))
        self.add("speed.none", self.tr("Speed: as fast as it goes"), i.SetSpeed(None), (), checked=_has_speed(None))
        for limit in SPEEDS_TPS:
            text = self.tr("Speed: {0} tokens a second").format(limit)
            self.add(f"speed.{limit}", text, i.SetSpeed(limit), (), checked=_has_speed(limit))

        for budget in TRACE_BUDGETS_MB:
            size = self.tr("{0} MB").format(budget) if budget < 1024 else self.tr("{0} GB").format(budget // 1024)
            text = self.tr("Records up to {0} a run").format(size)
            action = self.add(f"records.{budget}", text, i.SetTraceBudget(budget), (), checked=_keeps_records(budget))
            action.setToolTip(self.tr("What views are derived from, of the next run; beyond, the oldest are dropped"))

    def _add_selection_actions(self) -> None:
        def has_steps(state: AppState) -> bool:
            return state.run is not None and state.run.count > 0

        self.add("next", self.tr("Select the next token"), i.MoveSelection(1), ("J", "Right"), has_steps)
        self.add("previous", self.tr("Select the previous token"), i.MoveSelection(-1), ("K", "Left"), has_steps)
        self.add("newest", self.tr("Follow the newest token"), i.SelectStep(None), ("Shift+J", "End"), has_steps)

    def _add_branch_actions(self) -> None:
        offered: tuple[tuple[str, str, b.BranchIntent, str, str], ...] = (
            (
                "rewind", self.tr("Rewind here"), b.Rewind(), "Ctrl+Backspace",
                self.tr("Back to the moment before the selected token, and wait (Ctrl+Backspace)"),
            ),
            (
                "fork", self.tr("Fork"), b.Fork(), "Ctrl+K",
                self.tr("A second text that goes on after the selected token (Ctrl+K)"),
            ),
            (
                "try", self.tr("Another try"), b.AnotherTry(), "Ctrl+T",
                self.tr("The selected token and all after it again, with other draws (Ctrl+T)"),
            ),
        )  # fmt: skip
        for name, text, intent, shortcut, tip in offered:
            self.add(name, text, intent, (shortcut,), can_branch).setToolTip(tip)
        several = _several_branches
        self.add("branch.next", self.tr("Next branch"), b.MoveBranch(1), ("Alt+Down",), several)
        self.add("branch.previous", self.tr("Previous branch"), b.MoveBranch(-1), ("Alt+Up",), several)
        self.add("branch.delete", self.tr("Delete this branch"), b.DeleteBranch(), (), several)

    def _add_view_actions(self) -> None:
        colours: dict[ColourBy, str] = {
            "probability": self.tr("Colour tokens by probability"),
            "entropy": self.tr("Colour tokens by entropy"),
            "rank": self.tr("Colour tokens by rank"),
            "surprisal": self.tr("Colour tokens by surprisal"),
        }
        for by, text in colours.items():
            self.add(f"colour.{by}", text, i.SetColour(by), (), checked=_colours_by(by))
        self.layout_titles: dict[LayoutName, str] = {
            "sample": self.tr("Sample"),
            "attention": self.tr("Attention"),
            "cache": self.tr("Cache"),
            "everything": self.tr("Everything"),
            "model": self.tr("Model"),
            "image": self.tr("Image"),
        }
        for number, (layout, text) in enumerate(self.layout_titles.items(), start=1):
            self.add(
                f"layout.{layout}",
                self.tr("Layout {0}").format(text),
                i.SetLayout(layout),
                (f"Ctrl+{number}",),
                checked=_is_laid_out(layout),
            )
        self.add("layout.reset", self.tr("Reset the layout"), i.ResetLayout(), ("Ctrl+0",))
        themes: dict[ThemeName, str] = {
            "light": self.tr("Light theme"),
            "dark": self.tr("Dark theme"),
            "contrast": self.tr("High-contrast theme"),
        }
        for theme, text in themes.items():
            self.add(f"theme.{theme}", text, i.SetTheme(theme), (), checked=_has_theme(theme))


def can_branch(state: AppState) -> bool:
    """Whether something can begin at the step shown."""
    return state.run is not None and state.run.count > 0 and not state.run.has_beams


def _several_branches(state: AppState) -> bool:
    return len(branches.lanes(state)) > 1


def _has_speed(limit: float | None) -> Predicate:
    return lambda state: state.pace.limit_tps == limit


def _keeps_records(budget_mb: int) -> Predicate:
    return lambda state: state.trace_budget_mb == budget_mb


def _colours_by(by: ColourBy) -> Predicate:
    return lambda state: state.colour_by == by


def _is_laid_out(layout: LayoutName) -> Predicate:
    return lambda state: state.layout == layout


def _has_theme(theme: ThemeName) -> Predicate:
    return lambda state: state.theme == theme
