"""What the window knows of a panel."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QWidget

from app.state.intents import Intent
from app.state.state import AppState

Dispatch = Callable[[Intent], None]


class Panel(QWidget):
    """One view of the state. Panels emit intents, render what they are given and never meet each other.

    A subclass sets the class attributes, takes `dispatch` (and an optional parent) in its constructor and
    overrides `render`. The window puts it into a card, whose title bar shows `title`, `subtitle` (secondary
    text beside it) and `header_right` (monospaced, right aligned), read after every `render`.

    name: stable identifier: dock object name, layouts, settings; never translated.
    heavy: rendered in turn with the other heavy panels, within the frame budget, instead of every frame.
    calm: rendered in every other frame while tokens stream: more often its numbers could not be read.
    """

    name: str = ""
    title: str = ""
    heavy: bool = False
    calm: bool = False
    margins: tuple[int, int, int, int] = (12, 0, 12, 12)  # left, top, right, bottom, inside the card

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.dispatch = dispatch
        self.subtitle = ""
        self.header_right = ""

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Show `state`. Called each frame while visible: return at once when nothing that is shown has changed."""
        raise NotImplementedError

    def header_widgets(self) -> tuple[QWidget, ...]:
        """Small controls (a combo, a legend) for the card's title bar, placed after the subtitle."""
        return ()

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        """Small controls for the right end of the title bar."""
        return ()

    def hidden(self) -> None:
        """Called when the panel stops being visible: withdraw the questions that nobody looks at any more."""
