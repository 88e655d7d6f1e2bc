"""The store: one state, one way to change it, one rendering per frame. Everything here runs in the GUI thread."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PySide6.QtCore import QObject, Qt, QTimer, Slot
from PySide6.QtWidgets import QDockWidget

from app.pacing import Pacer
from app.state import intents as i
from app.state import select
from app.state.effects import commands
from app.state.intents import Intent
from app.state.state import AppState
from app.state.update import update
from app.tempo import Tempo
from core.contract import Command, Event

HEAVY_BUDGET_MS = 1.5  # heavy views share this much of a frame; at least one of them is rendered
CHOSEN_BUDGET_MS = 8.0  # the same while the user waits for the moment just chosen
CALM_FRAMES = 2  # calm views are rendered every so many frames while tokens stream
FRAMES_KEPT = 300


class Lab(Protocol):
    """What the store needs of core: `core.Lab`, or a scripted one in tests."""

    def submit(self, command: Command) -> None:
        """Hand over a command; never blocks."""

    def drain(self) -> list[Event]:
        """Everything that happened since the last call, in order; never blocks."""

    def close(self, timeout_s: float) -> bool:
        """End the worker; False if it did not end in time."""


class View(Protocol):
    """Something that shows the state."""

    heavy: bool

    def render(self, state: AppState) -> None:
        """Show `state`."""

    def isVisible(self) -> bool:
        """Whether anybody can see it."""

    def hidden(self) -> None:
        """It is not visible any more."""


@dataclass(frozen=True, slots=True)
class FrameCost:
    """What the window costs itself, over the last `FRAMES_KEPT` frames, in milliseconds."""

    work_mean_ms: float
    work_p99_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float


class Store(QObject):
    """Holds the state, sends intents to core as commands, folds core's events in, renders the visible views."""

    def __init__(self, lab: Lab, state: AppState, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.state = state
        self.lab = lab
        self._clock = clock
        self._pacer = Pacer()
        self._tempo = Tempo()
        self._views: list[View] = []
        self._shown: dict[int, AppState | None] = {}  # id(view) → what it rendered last
        self._last_frame_of: dict[int, int] = {}  # id(view) → the frame it was rendered in
        self._frame = 0
        self._last_tick: float | None = None
        self._work_ms: deque[float] = deque(maxlen=FRAMES_KEPT)
        self._late_ms: deque[float] = deque(maxlen=FRAMES_KEPT)
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(self._tempo.interval_ms)
        self._timer.timeout.connect(self._tick)
        self._chosen = False  # another moment was chosen, and not every view shows it yet
        self._soon = QTimer(self)  # what is chosen is shown at once, not with the next frame
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.frame)

    def add(self, view: View) -> None:
        """Render this view from the next frame on, whenever it is visible."""
        self._views.append(view)
        self._shown[id(view)] = None

    def start(self) -> None:
        """Start the frames."""
        self._timer.start()

    def stop(self) -> None:
        """Stop the frames and let go of the views."""
        self._timer.stop()
        self._soon.stop()
        self._views.clear()
        self._shown.clear()

    def dispatch(self, intent: Intent) -> None:
        """Carry out an intent now; the views follow at the next frame."""
        before = self.state
        self._set_pace(before, intent)
        after = update(before, intent)
        self.state = after
        for command in commands(before, after, intent):
            self.lab.submit(command)
        if after.selected != before.selected or _key(after) != _key(before):
            self._chosen = True
            if self._timer.isActive():
                self._soon.start()

    def frame(self) -> None:
        """Drain core, fold the batch into the state, render what is visible. The timer calls it; tests may."""
        start = self._clock()
        state = self.state
        pace = state.pace
        for event in self._pacer.take(self.lab.drain(), pace.limit_tps, pace.paused or select.is_paused(state), start):
            state = update(state, event)
        waiting = self._pacer.waiting
        if (waiting, self._pacer.ended) != (state.pace.waiting, state.pace.ended):
            state = update(state, i.Waiting(waiting, self._pacer.ended))
        self.state = state
        self._render(state)
        self._work_ms.append((self._clock() - start) * 1e3)

    def _set_pace(self, before: AppState, intent: Intent) -> None:
        """What is held back is shown at once when the user goes on to something else, and never lost."""
        match intent:
            case i.Stop() | i.Run() | i.Regenerate() | i.ChooseModel():
                self._pacer.hurry = True
            case i.Step() if not select.is_active(before):
                self._pacer.hurry = True
            case i.Step() if select.is_paused(before) or select.is_stepping(before):
                self._pacer.extra += 1

    def shows(self, condition: Callable[[AppState], bool]) -> bool:
        """Whether every visible view shows a state that meets the condition."""
        shown = [self._shown[id(view)] for view in self._views if _is_seen(view)]
        return all(state is not None and condition(state) for state in shown)

    def cost(self) -> FrameCost:
        """Frame work and timer lateness."""
        work = np.array(self._work_ms or (0.0,))
        late = np.array(self._late_ms or (0.0,))
        return FrameCost(
            work_mean_ms=float(work.mean()),
            work_p99_ms=float(np.percentile(work, 99)),
            lateness_p99_ms=float(np.percentile(late, 99)),
            lateness_max_ms=float(late.max()),
        )

    def forget_costs(self) -> None:
        """Measure anew."""
        self._work_ms.clear()
        self._late_ms.clear()

    @Slot()
    def _tick(self) -> None:
        now = self._clock()
        if self._last_tick is not None:
            self._late_ms.append(max(0.0, (now - self._last_tick) * 1e3 - self._timer.interval()))
        self._last_tick = now
        self.frame()
        interval_ms = self._tempo.after_frame(select.is_streaming(self.state))
        if interval_ms != self._timer.interval():
            self._timer.setInterval(interval_ms)
            self._last_tick = self._clock()  # it counts from here

    def _render(self, state: AppState) -> None:
        self._frame += 1
        streams = select.is_streaming(state) and not self._chosen
        stale = [v for v in self._views if self._is_stale(v, state) and not (streams and self._rests(v))]
        for view in stale:
            if not view.heavy:
                self._show(view, state)
                self._last_frame_of[id(view)] = self._frame
        start = self._clock()
        heavy = [v for v in stale if v.heavy]
        budget_ms = CHOSEN_BUDGET_MS if self._chosen else HEAVY_BUDGET_MS
        # The one that waited longest first, so that none starves when the budget is short.
        for done, view in enumerate(sorted(heavy, key=lambda v: self._last_frame_of.get(id(v), 0)), start=1):
            self._show(view, state)
            self._last_frame_of[id(view)] = self._frame
            if (self._clock() - start) * 1e3 >= budget_ms:
                self._chosen = self._chosen and done < len(heavy)
                break
        else:
            self._chosen = False

    def _rests(self, view: View) -> bool:
        """Whether a view whose numbers nobody could read at this speed was rendered a moment ago."""
        return getattr(view, "calm", False) and self._frame - self._last_frame_of.get(id(view), 0) < CALM_FRAMES

    def _show(self, view: View, state: AppState) -> None:
        self._shown[id(view)] = state
        try:
            view.render(state)
        except Exception:  # one broken view must not stop the others; the hook reports it
            sys.excepthook(*sys.exc_info())

    def _is_stale(self, view: View, state: AppState) -> bool:
        """Whether a visible view shows something else than `state`; tells a view that it was hidden."""
        shown = self._shown[id(view)]
        if _is_seen(view):
            return shown is not state
        if shown is not None:
            self._shown[id(view)] = None
            view.hidden()
        return False


def _is_seen(view: View) -> bool:
    """Whether anybody can see it: Qt calls a card visible, too, that another tab covers."""
    widget: object = view
    return view.isVisible() and not (isinstance(widget, QDockWidget) and widget.visibleRegion().isEmpty())


def _key(state: AppState) -> tuple[int, int] | None:
    """Of the sequence shown."""
    return None if state.run is None else state.run.key
