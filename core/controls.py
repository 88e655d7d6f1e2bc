"""How what is going on is told to stop: the flags that submitting a command raises, and who asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from core.contract.events import LoadProgress
from core.mailbox import Mailbox


@dataclass
class Flags:
    """Set by whoever submits, read inside the model and the loader.

    Interruptions and loads are numbered in the order they were submitted, so that none can be lost or hit another.
    """

    closing: threading.Event = field(default_factory=threading.Event)
    interruptions: int = 0  # commands submitted that end a run
    loads_submitted: int = 0
    loads_abandoned: int = 0  # all loads up to this number
    experiments_given_up: int = 0  # commands submitted that end an experiment and nothing else

    def interrupt(self) -> None:
        """A command that ends the run in progress is about to be submitted."""
        self.interruptions += 1

    def give_up_experiment(self) -> None:
        """A command that ends the experiment in progress is about to be submitted."""
        self.experiments_given_up += 1

    def submit_load(self) -> None:
        """A new load; earlier ones are given up."""
        self.interrupt()
        self.loads_abandoned = self.loads_submitted
        self.loads_submitted += 1

    def cancel_loads(self) -> None:
        """Give up every load submitted so far."""
        self.loads_abandoned = self.loads_submitted

    def shut_down(self) -> None:
        """Break off whatever is going on."""
        self.closing.set()
        self.cancel_loads()

    def loads(self) -> tuple[int, int]:
        """Changes with every load that is asked for or given up."""
        return self.loads_submitted, self.loads_abandoned


@dataclass(frozen=True, slots=True)
class LoadControl:
    """What the loader of a model reports to and asks."""

    model_id: int
    number: int
    flags: Flags
    mailbox: Mailbox

    def progress(self, stage: str, fraction: float | None) -> None:
        """Tell how far the load is."""
        self.mailbox.put_latest("load", LoadProgress(self.model_id, stage, fraction))

    def cancelled(self) -> bool:
        """Whether this load, or all of them, were given up."""
        return self.number <= self.flags.loads_abandoned


@dataclass(frozen=True, slots=True)
class QuietControl:
    """For loads and surveys whose progress nobody is told: draft models, previews."""

    asked: Callable[[], bool]

    def progress(self, stage: str, fraction: float | None) -> None:
        """Says nothing."""

    def cancelled(self) -> bool:
        """Whether to give up."""
        return self.asked()
