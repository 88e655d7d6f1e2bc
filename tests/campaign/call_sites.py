"""Every function of core that a scenario calls in core's threads, and a way to make one of them fail once.

Which they are is observed, not listed: a call site that is added later is in the campaign the day it is used.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

CORE = str(Path(__file__).parents[2] / "core")
OURS = "tokenglass-"  # how the names of core's threads begin
# The loop that everything else fails in, what tells an error, and the lane that it is told through.
HELD_BY_NOTHING = ("core.lab", "core.mailbox", "core.contract.errors", "core.controls", "core.contract.events")
LOOP = (
    "run",
    "_run",
    "_go",
    "_take_commands",
    "_guarded",
    "_give_up",
    "_tell_end",
    "enter",
    "_settle",
    "work",
    "one_line",
)
LOOP += (
    "typed_error",
    "error_report",
    "broken_off",
    "_interrupted",
    "_overtaken",
    "_advancing",
    "_refilling",
    "session",
    "_end",  # of a child process: kills it
)

_calls: set[CodeType] = set()
_watching = False


def _note(frame: FrameType, event: str, _argument: object) -> None:
    if _watching and event == "call" and frame.f_code.co_filename.startswith(CORE):
        _calls.add(frame.f_code)


@contextmanager
def noted_threads() -> Iterator[None]:
    """Threads begun inside can be watched."""
    threading.setprofile(_note)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]


@contextmanager
def watched() -> Iterator[set[CodeType]]:
    """The functions of core that are called inside."""
    global _watching
    _calls.clear()
    _watching = True
    try:
        yield _calls
    finally:
        _watching = False


def _all() -> Iterator[FunctionType]:
    """The functions of core's modules and of their classes; the collector does not know frozen ones."""
    for name, module in [*sys.modules.items()]:
        if name == "core" or name.startswith("core."):
            for value in [*vars(module).values()]:
                members = [*vars(value).values()] if isinstance(value, type) else [value]
                yield from filter(None, map(_function, members))


def _function(member: object) -> FunctionType | None:
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, staticmethod | classmethod):
        member = member.__func__
    while hasattr(member, "__wrapped__"):
        member = member.__wrapped__
    return member if type(member) is FunctionType else None


def functions(calls: set[CodeType]) -> list[FunctionType]:
    """Those that can be made to fail: neither made anew at each call, nor part of the loop that catches."""
    found = {f.__code__: f for f in _all() if f.__code__ in calls}
    usable = [
        f
        for f in found.values()
        if "<" not in f.__qualname__ and f.__module__ not in HELD_BY_NOTHING and f.__name__ not in LOOP
    ]
    return sorted(usable, key=lambda f: (f.__module__, f.__qualname__))


class Failing:
    """A function fails at its next call in a thread of core, wherever it was imported to: its code is replaced."""

    traps: dict[int, Failing] = {}  # noqa: RUF012  found by the replaced code

    def __init__(self, function: FunctionType, make: Callable[[], BaseException]) -> None:
        self.function, self.make, self.fired, self.armed = function, make, False, False
        self._code = function.__code__
        self._whole = FunctionType(
            self._code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        self._whole.__kwdefaults__ = function.__kwdefaults__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.armed and not self.fired and threading.current_thread().name.startswith(OURS):
            self.fired = True
            raise self.make()
        return self._whole(*args, **kwargs)

    def __enter__(self) -> Failing:
        self.traps[id(self)] = self
        names = self._code.co_freevars
        lines = [
            f"def outer({', '.join(names)}):",
            "    def instead(*args, **kwargs):",
            *(f"        {n}" for n in names),
        ]
        found = f"__import__('sys').modules[{__name__!r}].Failing.traps[{id(self)}]"
        lines += [f"        return {found}(*args, **kwargs)", "    return instead"]
        made: dict[str, Any] = {}
        exec("\n".join(lines), made)
        assert sys.modules[__name__].Failing is Failing
        self.function.__code__ = made["outer"](*names).__code__
        return self

    def __exit__(self, *_: object) -> None:
        self.function.__code__ = self._code
        del self.traps[id(self)]
