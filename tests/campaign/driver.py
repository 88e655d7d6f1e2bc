"""A lab, everything it has said, and the questions a campaign asks about that."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

import psutil

from core.contract import (
    Answered,
    Command,
    CommandRefused,
    ErrorReport,
    Event,
    LoadFailed,
    LoadModel,
    ModelInfo,
    ModelPreviewed,
    ModelReady,
    ModelSpec,
    Prompt,
    RunFinished,
    RunSpec,
    StartRun,
    StateChanged,
    StepSnapshot,
    StopRun,
    Tokenize,
    Tokenized,
    WorkerState,
)
from core.lab import Lab

PATIENCE_S = 60.0
TINY = ModelSpec("tiny-gpt2", device="cpu", dtype="fp32")
PROMPT = (Prompt(text="Once upon a time there was a little"),)
LONG = (Prompt(ids=tuple(range(1, 500))),)
IDLE = (WorkerState.READY, WorkerState.NO_MODEL)

_numbers = itertools.count(1)


class Driver:
    """One lab; `events` holds everything since the last `forget`, `state` is the last one told."""

    def __init__(self, spec: ModelSpec | None = TINY) -> None:
        self.lab = Lab()
        self.events: list[Event] = []
        self.state = WorkerState.STARTING
        self.model: ModelInfo | None = None
        if spec is not None:
            self.load(spec)
            self.until(lambda: self.model is not None)

    @property
    def alive(self) -> bool:
        """Whether the worker thread lives."""
        return self.lab._thread.is_alive()

    def submit(self, *commands: Command) -> None:
        for command in commands:
            self.lab.submit(command)

    def drain(self) -> list[Event]:
        """What is new; also noted."""
        batch = self.lab.drain()
        self.events += batch
        for event in batch:
            if isinstance(event, StateChanged):
                self.state = event.state
            elif isinstance(event, ModelReady):
                self.model = event.info
        return batch

    def until(self, condition: Callable[[], bool]) -> None:
        """Drain until the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                last = [type(event).__name__ for event in self.events[-8:]]
                said = [error.message for error in errors(self.events)]
                raise AssertionError(f"waited in vain; {self.state}, the last events: {last}, errors: {said}")
            if not self.drain():
                time.sleep(0.001)

    def until_event(self, kind: type, since: int | None = None) -> Event:
        """The first event of this type after `since` events (default: now)."""
        start = len(self.events) if since is None else since
        self.until(lambda: any(isinstance(e, kind) for e in self.events[start:]))
        return next(e for e in self.events[start:] if isinstance(e, kind))

    def load(self, spec: ModelSpec = TINY) -> int:
        """Submit a load; returns its number."""
        number = next(_numbers)
        self.submit(LoadModel(spec, number))
        return number

    def start(self, prompts: tuple[Prompt, ...] = PROMPT, max_steps: int | None = None, **params: object) -> int:
        """Submit a run that does not end by itself; returns its number."""
        number = next(_numbers)
        given = {"eos_token_id": (), "max_new_tokens": 400, **params}
        self.submit(StartRun(number, RunSpec(prompts, given, max_steps=max_steps, prefill_chunk=64)))
        return number

    def finished(self, run_id: int) -> RunFinished | None:
        """How the run ended, once it did."""
        return next((e for e in self.events if isinstance(e, RunFinished) and e.run_id == run_id), None)

    def steps(self, run_id: int) -> list[StepSnapshot]:
        return [e for e in self.events if isinstance(e, StepSnapshot) and e.id.run_id == run_id]

    def run(self, prompts: tuple[Prompt, ...] = PROMPT, **params: object) -> RunFinished:
        """A short greedy run to its end."""
        run_id = self.start(prompts, **{"max_new_tokens": 6, "do_sample": False, **params})
        self.until(lambda: self.finished(run_id) is not None)
        done = self.finished(run_id)
        assert done is not None
        return done

    def sync(self) -> None:
        """Until every command submitted so far was carried out."""
        number = next(_numbers)
        self.submit(Tokenize(number, Prompt(text="the end")))
        if self.model is None:  # then drafts are not answered
            self.submit(StartRun(number, RunSpec(PROMPT)))
            self.until_event(CommandRefused)
            return
        self.until(lambda: any(isinstance(e, Tokenized) and e.generation == number for e in self.events))

    def settle(self) -> None:
        """Nothing runs, nothing waits."""
        self.submit(StopRun())
        self.sync()

    def forget(self) -> None:
        self.events.clear()

    def close(self) -> None:
        assert self.lab.close(30), "the worker did not end"
        self.drain()


def errors(events: Sequence[Event]) -> list[ErrorReport]:
    """Every error that was told."""
    carriers = CommandRefused | LoadFailed | RunFinished | Tokenized | Answered | ModelPreviewed
    return [e.error for e in events if isinstance(e, carriers) and e.error is not None]


def rss_bytes() -> int:
    """Memory of this process: garbage collected first, and what only the allocator still holds given back."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def threads() -> int:
    return threading.active_count()


def descriptors() -> int:
    """Open file descriptors (0 where the system does not tell)."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
