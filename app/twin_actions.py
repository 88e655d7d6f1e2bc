"""The commands of twins and comparisons, for menus and the palette."""

from __future__ import annotations

from collections.abc import Callable

from app.actions import Actions
from app.state import select, twins
from app.state.state import AppState
from app.state.twin_intents import CloseComparison, EndTwinRun


def add_twin_actions(actions: Actions, edit: Callable[[], None]) -> None:
    """edit: opens the twin editor."""
    tip = actions.tr("The same run with something set otherwise, beside this one (Ctrl+Shift+W)")
    actions.add("twin", actions.tr("Twin run…"), edit, ("Ctrl+Shift+W",), select.can_run).setToolTip(tip)
    alone = actions.tr("End the twin run, go on with this side")
    actions.add("twin.end", alone, EndTwinRun(), (), lambda state: twins.beside(state) is not None)
    actions.add("compare.close", actions.tr("Close the comparison"), CloseComparison(), (), _compares)


def _compares(state: AppState) -> bool:
    return twins.compared(state) is not None
