"""How long a frame lasts: the longer, the more the window costs, so that it leaves the model its time.

Python runs in one thread at a time: whatever the window computes and paints, the model waits for. With every view
visible a frame costs 8 ms; thirty of them a second would take a quarter of the model's speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FRAME_MS = 33
LONGEST_MS = 125  # eight frames a second are still a moving picture
SHARE = 0.08  # of the time that the window may take while tokens stream
_NEWEST = 0.2  # weight of the newest frame in the mean
_WORTH_CHANGING = 0.15


class Tempo:
    """Says after each frame when the next one comes. cpu: seconds of processor time of this thread so far."""

    def __init__(self, cpu: Callable[[], float] = time.thread_time) -> None:
        self._cpu = cpu
        self._last: float | None = None
        self._cost_ms = 0.0
        self.interval_ms = FRAME_MS

    def after_frame(self, streams: bool) -> int:
        """Milliseconds from one frame to the next; everything this thread did since the last one counts as its cost."""
        now = self._cpu()
        if self._last is not None:
            self._cost_ms += _NEWEST * (1e3 * (now - self._last) - self._cost_ms)
        self._last = now
        wanted = min(LONGEST_MS, max(FRAME_MS, round(self._cost_ms / SHARE))) if streams else FRAME_MS
        if not streams or abs(wanted - self.interval_ms) > _WORTH_CHANGING * self.interval_ms:
            self.interval_ms = wanted
        return self.interval_ms
