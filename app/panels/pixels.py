"""Pieces of image models are colours: views show them as such."""

from __future__ import annotations

from typing import Protocol

from app.state import image_draft
from app.state.state import AppState


class Coloured(Protocol):
    """A view that can show pieces as colours."""

    def set_swatches(self, on: bool) -> None:
        """Whether pieces such as #ff8000 are colours."""


def show_swatches(state: AppState, *views: Coloured) -> None:
    """Pieces are colours where the model of the run paints."""
    on = image_draft.run_facts(state) is not None
    for view in views:
        view.set_swatches(on)
