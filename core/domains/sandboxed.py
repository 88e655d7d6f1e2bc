"""Inside a sandbox: read one request a line, keep its limits, answer in one line. See `sandbox.py`."""

from __future__ import annotations

import errno
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_MOST_WRITTEN_BYTES = 4 << 20  # warnings on standard error
_out: list[BinaryIO] = []
_memory_is_limited = False


class Refusal(Exception):
    """A sentence for the user. The contract's errors are as good, but take a fifth of a second to import."""


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]], on_abandoned: Callable[[], None] | None = None) -> None:
    """Answer requests until nobody asks any more. Call it when everything trustworthy has been imported.

    When the other side closes the pipe or dies, `on_abandoned` tidies up and the process ends, whatever it is doing.
    """
    _out.append(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)  # what libraries print is not an answer
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(requests, on_abandoned), daemon=True).start()
    _write({"ready": True})
    while True:
        request = requests.get()
        try:
            _limit(**request.pop("limits"))
            answer: dict[str, Any] = {"answer": handle(request)}
        except BaseException as error:
            answer = _told(error)
        _write(answer)


def _told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Refusal) or _is_ours(error):
        return {"failure": "said", "error": str(error), "detail": getattr(error, "detail", "")}
    short_of_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    failure = "memory" if short_of_memory else "raised"
    return {"failure": failure, "error": one_line(error), "detail": traceback.format_exc()[-8000:]}


def _is_ours(error: BaseException) -> bool:
    """Whether it is a `TokenglassError`."""
    contract = sys.modules.get("core.contract.errors")
    return contract is not None and isinstance(error, contract.TokenglassError)


def say(stage: str, fraction: float | None = None) -> None:
    """Report progress."""
    _write({"stage": stage, "fraction": fraction})


def one_line(error: BaseException) -> str:
    """The kind of error and the first line of what it says, without a full stop."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:200]}".rstrip(": .")


def _take(requests: queue.SimpleQueue[dict[str, Any]], on_abandoned: Callable[[], None] | None) -> None:
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    try:
        if on_abandoned is not None:
            on_abandoned()
    finally:
        os._exit(0)


def _write(message: dict[str, Any]) -> None:
    _out[0].write(json.dumps(message).encode() + b"\n")


def _limit(wall_s: float, cpu_s: float | None, memory_bytes: int | None, may_write: bool) -> None:
    """Have the kernel enforce what it can; the asking side watches the clock."""
    global _memory_is_limited
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if cpu_s is not None:
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + cpu_s))
    if not may_write:
        _lower(resource.RLIMIT_FSIZE, _MOST_WRITTEN_BYTES)
    held_bytes = _address_space_bytes()
    if memory_bytes is not None and held_bytes and not _memory_is_limited:
        _lower(resource.RLIMIT_AS, held_bytes + memory_bytes)
        _memory_is_limited = True


def _lower(which: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
