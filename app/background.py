"""Work off the GUI thread: files are read and written there. What came of it is handed over in the GUI thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from PySide6.QtCore import QObject, QTimer, Slot

T = TypeVar("T")
POLL_MS = 20


class Background(QObject):
    """Runs functions in threads of their own. No Qt signal crosses a thread: a timer looks for what is done."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._done: deque[Callable[[], None]] = deque()  # appended by threads, emptied here
        self._running = 0
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._look)

    @property
    def busy(self) -> bool:
        """Whether something has not been handed over yet."""
        return self._running > 0

    def start(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Call `work()` in a thread, then `done(result)` here. `work` says what went wrong in its result."""
        self._running += 1
        self._timer.start()

        def run() -> None:
            result = work()
            self._done.append(lambda: done(result))

        threading.Thread(target=run, name="files", daemon=True).start()

    @Slot()
    def _look(self) -> None:
        while self._done:
            self._running -= 1
            self._done.popleft()()
        if not self._running:
            self._timer.stop()
