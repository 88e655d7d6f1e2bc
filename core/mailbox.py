"""The one way out of the worker: an ordered lane that loses nothing, and a lane where the latest wins.

The ordered lane is bounded: a full one makes the worker wait (back-pressure), which is what keeps memory flat
when a front end is slow. The reader never waits.
"""

from __future__ import annotations

import threading
from collections import deque

from core.contract.events import Event

CAPACITY = 2048


class Mailbox:
    """Many events in from the worker (and the thread of an export), drained in batches by one reader."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._ordered: deque[Event] = deque()
        self._latest: dict[str, Event] = {}
        self._room = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> None:
        """Append to the ordered lane; waits while it is full, unless the mailbox was closed."""
        with self._room:
            self._room.wait_for(lambda: self._closed or len(self._ordered) < self._capacity)
            if not self._closed:
                self._ordered.append(event)

    def put_latest(self, slot: str, event: Event) -> None:
        """Replace whatever waits in `slot`; never waits."""
        with self._room:
            if not self._closed:
                self._latest[slot] = event

    def drain(self) -> list[Event]:
        """Everything there is: the ordered lane in order, then the latest of each slot."""
        with self._room:
            events = [*self._ordered, *self._latest.values()]
            self._ordered.clear()
            self._latest.clear()
            self._room.notify_all()
        return events

    def close(self) -> None:
        """Let a waiting writer go and take nothing more."""
        with self._room:
            self._closed = True
            self._room.notify_all()
