"""What has to wait for another process or the network is waited for beside the worker, which has other things to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

Cancelled = Callable[[], bool]
Errand = Callable[[Cancelled], None]


@dataclass(eq=False)
class _Line:
    """Errands of one kind: at most one under way, at most one waiting."""

    thread: threading.Thread
    recalled: bool = False  # the one under way is not wanted any more
    next: Errand | None = None


class Errands:
    """One thread a kind, while there is something to do; of those that wait, the latest wins.

    Errands raise nothing; should one all the same, `failed` is told in its thread, and the next ones are carried out.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._closing = False

    def send(self, kind: str, errand: Errand) -> None:
        """Carry out an errand, after the one of its kind that is under way, instead of the one that waits."""
        with self._lock:
            line = self._lines.get(kind)
            if line is not None:
                line.next = errand
                return
            thread = threading.Thread(target=self._go, args=(kind,), name=f"tokenglass-{kind}", daemon=True)
            self._lines[kind] = _Line(thread, next=errand)
            thread.start()

    def recall(self, kind: str) -> None:
        """End the errand of this kind that is under way, and forget the one that waits."""
        with self._lock:
            line = self._lines.get(kind)
            if line is not None:
                line.next, line.recalled = None, True

    def close(self, timeout_s: float = 2.0) -> None:
        """Recall all of them and wait for their threads."""
        with self._lock:
            self._closing = True
            threads = [line.thread for line in self._lines.values()]
        for thread in threads:
            thread.join(timeout_s)

    def _go(self, kind: str) -> None:
        line = self._lines[kind]
        while True:
            with self._lock:
                errand, line.next, line.recalled = line.next, None, False
                if errand is None or self._closing:
                    del self._lines[kind]
                    return
            try:
                errand(lambda: self._closing or line.recalled)
            except BaseException as problem:  # else the line would stay for ever, and with it all later errands
                self._failed(problem)
