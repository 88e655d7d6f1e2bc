"""A window on a scripted lab, driven frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QApplication, QWidget

from app.compose import make_panels
from app.settings import Settings
from app.state import intents as i
from app.state.state import AppState, ModelChoice
from app.store import Store
from app.window import Window
from tests.ui.fake_lab import FakeLab

CHOICES = (
    ModelChoice("smollm2", "SmolLM2-135M-Instruct"),
    ModelChoice("tiny-gpt2", "Tiny GPT-2"),
    ModelChoice("gone", "Gone", available=False, reason="The package is not installed."),
)


class StillClock:
    """In place of a panel's `time`: stands still until it is told another moment."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Driven:
    """The window, its store and its lab; `frames` lets them live."""

    def __init__(self, lab: Any, settings: Path, catalogue: Any = None, **state: Any) -> None:
        self.lab = lab
        self.store = Store(lab, AppState(models=CHOICES, **state))
        self.settings = Settings(settings)
        self.window = Window(
            self.store, make_panels(self.store.dispatch), self.settings, catalogue, settings.parent / "presets"
        )

    @property
    def state(self) -> AppState:
        return self.store.state

    def do(self, intent: i.Intent) -> None:
        self.store.dispatch(intent)

    def frames(self, count: int = 1) -> None:
        for _ in range(count):
            self.store.frame()
            QApplication.processEvents()

    def until(self, condition: Callable[[], bool], frames: int = 500) -> None:
        """Frames until the condition holds; the frames are counted, not timed."""
        for _ in range(frames):
            if condition():
                return
            self.frames()
        assert condition(), "the condition never held"

    def panel(self, name: str) -> Any:
        return self.window.workspace.cards[name].panel

    def close(self) -> None:
        self.window.close()
        self.window.deleteLater()
        self.store.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()


@contextmanager
def driven(
    settings: Path, lab: Any = None, *, load: bool = True, size: tuple[int, int] = (1440, 900), **state: Any
) -> Iterator[Driven]:
    """A shown window with a loaded model."""
    one = Driven(lab or FakeLab(), settings, **state)
    one.window.resize(*size)
    one.window.show()
    try:
        if load:
            one.do(i.ChooseModel("tiny-gpt2"))
        one.frames(3)
        yield one
    finally:
        one.close()


def clipped(root: QWidget) -> list[str]:
    """Visible controls that do not lie wholly inside their parent, scrolled content apart."""
    from PySide6.QtWidgets import QAbstractButton, QAbstractScrollArea, QLabel, QLineEdit

    found = []
    for widget in root.findChildren(QWidget):
        if not widget.isVisible() or not isinstance(widget, QAbstractButton | QLabel | QLineEdit):
            continue
        parent = widget.parentWidget()
        inside = widget
        while parent is not None and not isinstance(parent, QAbstractScrollArea):
            inside, parent = parent, parent.parentWidget()
        if isinstance(parent, QAbstractScrollArea) and inside is not widget:
            continue
        parent = widget.parentWidget()
        if parent is not None and not parent.rect().contains(widget.geometry()):
            found.append(f"{type(widget).__name__} “{widget.accessibleName()}” in {type(parent).__name__}")
    return found
