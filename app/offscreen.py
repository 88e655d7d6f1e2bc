"""A real window that nobody sees, driven by a script: for pictures and for measurements."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QEvent, QEventLoop, QTimer
from PySide6.QtWidgets import QApplication

from app.compose import make_window, model_choices
from app.gc_policy import GcPolicy
from app.settings import Settings
from app.state import intents as i
from app.state import select
from app.state.state import AppState, LayoutName
from app.store import Store
from app.window import Window
from core import Lab
from core.contract import ExperimentName, ModelLoadError, ModelSpec, TokenglassError

LOAD_S = 600.0  # the first load may convert the weights
ANSWER_S = 60.0
LOOK_MS = 20
REGULAR_S = 1.2  # enough frames for the figures in the status bar


@dataclass(frozen=True)
class Stage:
    """The window and what drives it."""

    app: QApplication
    store: Store
    window: Window

    @property
    def state(self) -> AppState:
        """The state as of the last frame."""
        return self.store.state

    def wait(self, condition: Callable[[AppState], bool], timeout_s: float, what: str) -> None:
        """Let the window live until `condition` holds; `TokenglassError` names `what` did not happen in time."""
        until = time.monotonic() + timeout_s
        ticks = QTimer()
        ticks.start(LOOK_MS)
        while not condition(self.state):
            if time.monotonic() > until:
                raise TokenglassError(f"Waited {timeout_s:.0f} seconds in vain for {what}.")
            # Sleeps as the program's own loop does; one that asks all the time would take time from the model.
            self.app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    def settle(self) -> None:
        """Until every question is answered, every panel has rendered the last state, and the frames are regular."""
        self.wait(lambda s: not any(select.is_waiting(s, slot) for slot in s.asked), ANSWER_S, "the views' answers")
        quiet, last = 0, None
        until = time.monotonic() + ANSWER_S
        while quiet < 12 and time.monotonic() < until:  # frames in a row in which nothing changed
            self.store.frame()
            self.app.processEvents()
            waiting = any(select.is_waiting(self.state, slot) for slot in self.state.asked)
            quiet = 0 if waiting or self.state is not last else quiet + 1
            last = self.state
            time.sleep(0.01)
        self.store.forget_costs()  # laying everything out anew was no ordinary frame
        until = time.monotonic() + REGULAR_S
        while time.monotonic() < until:
            self.app.processEvents()
            time.sleep(0.002)

    def open(self, name: str) -> None:
        """Open a card; `TokenglassError` when there is none of that name."""
        card = self.window.workspace.cards.get(name)
        if card is None:
            raise TokenglassError(f"There is no card “{name}”; there are {', '.join(self.window.workspace.cards)}.")
        if card.isHidden():
            card.toggleViewAction().trigger()  # as a user does: the workspace makes room
        card.raise_()

    def load(self) -> None:
        """Wait for the model; `ModelLoadError` with its sentence if it cannot be loaded."""
        self.wait(lambda s: s.loading is None, LOAD_S, "the model")
        if self.state.model is None:
            raise ModelLoadError(self.state.notices[-1].text if self.state.notices else "The model did not load.")

    def experiment(self, name: ExperimentName) -> None:
        """One of the Cache lab, to its end."""
        self.store.dispatch(i.PickExperiment(name))
        self.store.dispatch(i.StartExperiment())
        self.wait(lambda s: s.cache_lab.working is None, LOAD_S, "the experiment")
        if self.state.cache_lab.error is not None:
            raise TokenglassError(self.state.cache_lab.error.message)

    def run(self, prompt: str | None, tokens: int) -> None:
        """Generate from a prompt, to the end."""
        if prompt is not None:
            self.store.dispatch(i.EditText(prompt))
        self.store.dispatch(i.SetParameter("max_new_tokens", tokens))
        self.store.dispatch(i.Run())
        self.wait(lambda s: not select.is_active(s), LOAD_S, "the end of the run")
        run = self.state.run
        if run is None or run.finish is None or run.finish.error is not None:
            text = self.state.notices[-1].text if self.state.notices else "The run did not start."
            raise TokenglassError(text)


@contextmanager
def stage(model: str, layout: LayoutName, size: tuple[int, int]) -> Iterator[Stage]:
    """An offscreen window with a model loading; nothing of the user's settings is read or written."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"  # read when the application is made: no display is needed
    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication(["tokenglass"])
    app.setQuitOnLastWindowClosed(False)
    folder = tempfile.TemporaryDirectory(prefix="tokenglass-")
    settings = Settings(Path(folder.name) / "settings.json")
    lab = Lab()
    store = Store(lab, AppState(spec=ModelSpec(model), models=model_choices(), layout=layout))
    window = make_window(store, settings)
    collector = GcPolicy()
    collector.start()
    store.add(collector)
    window.resize(*size)
    window.show()
    store.start()
    store.dispatch(i.ChooseModel(name=model))
    try:
        yield Stage(app, store, window)
    finally:
        collector.stop()
        window.close()
        for thing in (window, store, collector):
            thing.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        lab.close(10.0)
        folder.cleanup()
