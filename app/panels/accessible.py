"""Descriptions for screen readers: set when the selection changes, not in every frame."""

from __future__ import annotations

from typing import Protocol

from app.state.state import AppState

Moment = tuple[int | None, int | None]  # run, selected step


class Described(Protocol):
    """A panel that can say in words what it shows."""

    def describe(self) -> str:
        """The shown step, in a sentence or two of plain text."""

    def setAccessibleDescription(self, description: str, /) -> None:
        """Qt's own."""


def describe_selection(panel: Described, state: AppState, before: Moment) -> Moment:
    """Describe the panel anew if another step was selected; returns what to hand in next time."""
    moment = (state.run.run_id if state.run else None, state.selected)
    if moment != before:
        panel.setAccessibleDescription(panel.describe())
    return moment
