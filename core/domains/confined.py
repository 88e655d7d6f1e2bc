"""A sandbox that is there when it is needed: started with the first request, again after every death."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

from core.domains.sandbox import Limits, Sandbox, SandboxError

_POLL_S = 0.02

_MOST_KEPT = 16  # answers

Request = tuple[Mapping[str, object], Limits]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The last few answers, for any thread."""

    def __init__(self) -> None:
        self._answers: dict[K, V] = {}
        self._turn = threading.Lock()

    def get(self, key: K) -> V | None:
        """An answer that is known."""
        with self._turn:
            return self._answers.get(key)

    def put(self, key: K, answer: V) -> None:
        """Keep one more, forget the oldest."""
        with self._turn:
            self._answers[key] = answer
            if len(self._answers) > _MOST_KEPT:
                del self._answers[next(iter(self._answers))]


class Confined:
    """One child process at a time, asked by one thread at a time; it ends with this object.

    `prepare` gives the request that a new child is asked first.
    """

    def __init__(self, module: str, prepare: Callable[[], Request] | None = None) -> None:
        self._module, self._prepare = module, prepare
        self._sandbox: Sandbox | None = None
        self._turn = threading.Lock()

    def ask(
        self, request: Mapping[str, object], limits: Limits, cancelled: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """The child's answer. Raises `SandboxError`; `cancelled` ends the wait within 50 ms, and the child with it."""
        while not self._turn.acquire(timeout=_POLL_S):
            if cancelled():
                raise SandboxError("cancelled", "It was cancelled.")
        try:
            return self._running(cancelled).ask(request, limits, cancelled=cancelled)
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the child; the next request starts another one."""
        if self._sandbox is not None:
            self._sandbox.close()

    def _running(self, cancelled: Callable[[], bool]) -> Sandbox:
        if self._sandbox is None or not self._sandbox.alive:
            sandbox = Sandbox(self._module)
            if self._prepare is not None:
                try:
                    sandbox.ask(*self._prepare(), cancelled=cancelled)
                except BaseException:
                    sandbox.close()
                    raise
            self._sandbox = sandbox
        return self._sandbox
