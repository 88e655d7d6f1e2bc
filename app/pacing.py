"""Reading speed: tokens are shown at most so many a second. The model is never slowed; what it sends waits here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from core.contract import (
    BranchesHeld,
    BranchStarted,
    BranchSwitched,
    BreakpointHit,
    Event,
    RunFinished,
    RunStarted,
    StateChanged,
    StepSnapshot,
    Vitals,
    WorkerState,
)

_BEGINS = RunStarted | BranchStarted | BranchSwitched  # something else is shown from here on
_LATEST = Vitals | BranchesHeld  # of a run, but said at once: only the newest counts
_AT_ONCE = (WorkerState.PAUSED, WorkerState.DECODING)  # states that say nothing about what was shown


class Pacer:
    """A queue of a run's events between core and the state. Nothing is dropped, and their order is kept."""

    def __init__(self) -> None:
        self._queue: deque[Event] = deque()
        self._credit = 1.0
        self._last_s: float | None = None
        self.hurry = False  # show everything until the next run begins
        self.extra = 0  # tokens to show although the display is paused
        self.waiting = 0  # tokens that are held back
        self.ended = False  # the end of the run waits, too

    def take(self, events: Iterable[Event], limit_tps: float | None, paused: bool, now_s: float) -> list[Event]:
        """What is to be shown now, in order; the rest waits. `paused` shows nothing but `extra` tokens."""
        out: list[Event] = []
        room = self._room(limit_tps, paused, now_s)
        for event in events:
            if isinstance(event, _BEGINS | BreakpointHit):
                out += self._queue  # what is left of the run before, to its end; or up to where it stopped
                self._queue.clear()
                self.waiting, self.ended = 0, False
                self.hurry = self.hurry and isinstance(event, BreakpointHit)
            if self._waits(event):
                self._queue.append(event)
                self.waiting += isinstance(event, StepSnapshot)
                self.ended = self.ended or isinstance(event, RunFinished)
            else:
                out.append(event)
        open_ended = limit_tps is None or self.hurry
        while self._queue and (open_ended or room > 0 or not isinstance(self._queue[0], StepSnapshot)):
            event = self._queue.popleft()
            self.waiting -= isinstance(event, StepSnapshot)
            if isinstance(event, StepSnapshot) and not open_ended:
                room -= 1
                if self.extra:
                    self.extra -= 1
                else:
                    self._credit -= 1.0
            out.append(event)
        if not self._queue:
            self._credit = min(self._credit, 1.0)  # time without tokens is not saved up
            self.ended = False
        if not paused:
            self.extra = 0
        return out

    def _room(self, limit_tps: float | None, paused: bool, now_s: float) -> int:
        if limit_tps is not None and self._last_s is not None:
            self._credit += (now_s - self._last_s) * limit_tps if not paused else 0.0
            self._credit = min(self._credit, max(1.0, limit_tps / 4))  # a late frame catches up a quarter of a second
        self._last_s = now_s
        return self.extra if paused else int(self._credit)

    def _waits(self, event: Event) -> bool:
        """Through the queue: steps, and whatever must not overtake one."""
        if isinstance(event, StateChanged):
            return bool(self._queue) and event.state not in _AT_ONCE
        if isinstance(event, StepSnapshot):
            return True
        return bool(self._queue) and hasattr(event, "run_id") and not isinstance(event, _LATEST)  # never before another
