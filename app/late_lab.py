"""A lab that starts once the window is on the screen: commands given before wait for it."""

from __future__ import annotations

from collections.abc import Callable

from app.store import Lab
from core.contract import Command, Event


class LateLab:
    """Stands in for a `Lab` until `begin`; importing torch would slow the first paint."""

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._waiting: list[Command] = []

    def begin(self, make: Callable[[], Lab]) -> None:
        """Start the lab and hand it what has waited."""
        self._lab = make()
        for command in self._waiting:
            self._lab.submit(command)
        self._waiting.clear()

    def submit(self, command: Command) -> None:
        """Pass on, now or once there is a lab."""
        if self._lab is None:
            self._waiting.append(command)
        else:
            self._lab.submit(command)

    def drain(self) -> list[Event]:
        """What the lab has, nothing before it began."""
        return [] if self._lab is None else self._lab.drain()

    def close(self, timeout_s: float) -> bool:
        """Close the lab, if there is one."""
        return self._lab is None or self._lab.close(timeout_s)
