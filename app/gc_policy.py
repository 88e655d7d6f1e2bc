"""Garbage collection in the GUI thread only: a collection in the worker may destroy Qt objects there and crash.

Everything that is alive after start-up and after each load is frozen: a full collection then looks only at what
came since, and costs well under a millisecond instead of hundreds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from PySide6.QtCore import QObject, QTimer, Slot

from app.state import select
from app.state.state import AppState
from core.contract import ModelInfo

EVERY_MS = 1000
MIDDLE_EVERY = 10  # ticks
FULL_EVERY = 60  # ticks, and only while nothing runs


class GcPolicy(QObject):
    """A view of the store without a face: it watches for new models and for idle time."""

    heavy = False

    def __init__(self, collect: Callable[[int], int] = gc.collect, freeze: Callable[[], None] = gc.freeze) -> None:
        super().__init__()
        self._collect = collect
        self._freeze = freeze
        self._model: ModelInfo | None = None
        self._idle = True
        self._ticks = 0
        self._timer = QTimer(self)
        self._timer.setInterval(EVERY_MS)
        self._timer.timeout.connect(self.tick)

    def start(self) -> None:
        """Turn automatic collection off and take over."""
        gc.disable()
        self._freeze()
        self._timer.start()

    def stop(self) -> None:
        """No more collections; automatic collection stays off, other threads may still run."""
        self._timer.stop()

    @Slot()
    def tick(self) -> None:
        """One collection, mostly of the youngest generation."""
        self._ticks += 1
        if self._idle and self._ticks % FULL_EVERY == 0:
            self._collect(2)
        else:
            self._collect(1 if self._ticks % MIDDLE_EVERY == 0 else 0)

    def render(self, state: AppState) -> None:
        """Freeze what a load brought; remember whether a run is in progress."""
        self._idle = not select.is_active(state) and state.loading is None
        if state.model is not self._model:
            self._model = state.model
            self._freeze()

    def isVisible(self) -> bool:
        """Always on duty."""
        return True

    def hidden(self) -> None:
        """Never."""
