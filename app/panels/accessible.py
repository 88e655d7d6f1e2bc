"""Descriptions for screen readers: set when the selection changes or the run rests, not in every frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from PySide6.QtWidgets import QWidget

from app.state.state import AppState
from core.contract import WorkerState

# The sequence, the selected step, its steps if the run rests; None: nothing yet.
Moment = tuple[tuple[int, int] | None, int | None, int | None] | None


class Described(Protocol):
    """A panel that can say in words what it shows."""

    def describe(self) -> str:
        """The shown step, in a sentence or two of plain text."""

    def setAccessibleDescription(self, description: str, /) -> None:
        """Qt's own."""


def describe_selection(panel: Described, views: Iterable[QWidget], state: AppState, before: Moment) -> Moment:
    """Describe the panel and its views anew where `before` was another moment; returns what to hand in next time."""
    run = state.run
    busy = state.worker in (WorkerState.DECODING, WorkerState.PREFILL)
    moment = (run.key if run else None, state.selected, None if busy or run is None else run.count)
    if moment != before:
        text = panel.describe()
        panel.setAccessibleDescription(text)
        for view in views:
            view.setAccessibleDescription(text)
    return moment
