"""The lab: one worker thread, commands in, events out. What a front end talks to."""

from __future__ import annotations

import queue
import threading

from core.contract.cache_lab import RunExperiment, StopExperiment
from core.contract.commands import CancelLoad, Command, LoadModel, Shutdown, StartRun, StopRun
from core.contract.events import Event
from core.controls import Flags
from core.mailbox import Mailbox
from core.worker import Inbox, work


class Lab:
    """Starts the worker at once; torch is first imported there. `drain` never waits, `submit` never waits.

    The ordered lane of the mailbox is bounded, so whoever runs a lab must drain it: a forgotten lab makes its
    worker wait.
    """

    def __init__(self) -> None:
        self._inbox: Inbox = queue.SimpleQueue()
        self._mailbox = Mailbox()
        self._flags = Flags()
        self._submitting = threading.Lock()  # commands are numbered in the order in which they are queued
        self._thread = threading.Thread(
            target=work, args=(self._inbox, self._mailbox, self._flags), name="tokenglass-worker", daemon=True
        )
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Hand a command to the worker. Those that interrupt take effect within a layer's time."""
        with self._submitting:
            match command:
                case StopRun() | StartRun():
                    self._flags.interrupt()
                case RunExperiment() | StopExperiment():
                    self._flags.give_up_experiment()
                case CancelLoad():
                    self._flags.cancel_loads()
                case LoadModel():
                    self._flags.submit_load()
                case Shutdown():
                    self._flags.shut_down()
                case _:
                    pass
            self._inbox.put(command)

    def drain(self) -> list[Event]:
        """All events since the last call, in order; the latest-wins lane comes last."""
        return self._mailbox.drain()

    def close(self, timeout_s: float = 3.0) -> bool:
        """End the worker; False if it did not end in time (it is a daemon and dies with the process)."""
        self.submit(Shutdown())
        self._mailbox.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()
