"""Children that read what may be hostile: asked one thing at a time, killed when they take too long or too much.

A tokenizer file or a chat template can hold the interpreter for ever in one C call, or ask for all memory there is.
Nothing in the process itself can stop that, but another process can be ended. The child's side is `sandboxed.py`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil  # type: ignore[import-untyped]

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0  # imports of our own dependencies, on a busy machine
KERNEL_LIMITS_MEMORY = sys.platform.startswith("linux")  # elsewhere RLIMIT_AS is missing or not enforced
_POLL_S = 0.05
_MOST_LINE_BYTES = 64 << 20
_MOST_DETAIL_BYTES = 20_000

Failure = Literal["said", "raised", "time", "memory", "died", "cancelled"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take: seconds on the clock and of the processor, bytes beyond what the imports hold."""

    wall_s: float
    cpu_s: float | None = None
    memory_bytes: int | None = None
    may_write: bool = False


class SandboxError(Exception):
    """Why there is no answer.

    `said`: the child refused, the message is its sentence for the user. `raised`: an exception, the message names it.
    After all others the child is gone.
    """

    def __init__(self, failure: Failure, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.failure: Failure = failure
        self.message, self.detail = message, detail


class Sandbox:
    """A child process running `python -m module`, whose `main` calls `sandboxed.serve`. Not for several threads.

    It ends with this object, with this process, and with the first request that breaks a limit. `patience_s` is how
    long it may clean up after a request that was given up.
    """

    def __init__(self, module: str, patience_s: float = 0.0) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen(
            # -P: the working directory may be a model's folder, and hold a json.py
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._ready = False
        self._end = weakref.finalize(self, _end, self._child, self._errors, patience_s)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether another request can be made."""
        return self._end.alive and self._child.poll() is None

    def close(self) -> None:
        """End the child."""
        self._end()

    def ask(
        self,
        request: Mapping[str, object],
        limits: Limits,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[str, float | None], None] = lambda _stage, _fraction: None,
    ) -> dict[str, Any]:
        """The child's answer. Raises `SandboxError`, and whatever `progress` raises; then the child is ended."""
        lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(self._child.stdout, lines), name="sandbox", daemon=True)
        try:
            self._send({**request, "limits": asdict(limits)})
            reader.start()
            answer = self._wait(lines, limits, cancelled, progress)
        except BaseException as error:
            if not (isinstance(error, SandboxError) and error.failure in ("said", "raised")):
                self.close()
            raise
        finally:
            if reader.ident is not None:
                reader.join()
        return answer

    def _send(self, request: Mapping[str, object]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except (OSError, ValueError) as error:  # it has died, or was closed
            raise self._post_mortem() from error

    def _wait(
        self,
        lines: queue.SimpleQueue[dict[str, Any] | None],
        limits: Limits,
        cancelled: Callable[[], bool],
        progress: Callable[[str, float | None], None],
    ) -> dict[str, Any]:
        deadline = time.monotonic() + (limits.wall_s if self._ready else START_S)
        while True:
            if cancelled():
                raise SandboxError("cancelled", "It was cancelled.")
            if time.monotonic() > deadline:
                raise SandboxError("time", f"It took longer than {limits.wall_s:.3g} s.", self._detail())
            if _takes_more_than(limits.memory_bytes, self._child.pid):
                raise SandboxError("memory", "It needed too much memory.", self._detail())
            try:
                message = lines.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if message is None:
                raise self._post_mortem()
            if "ready" in message:
                self._ready = True
                deadline = time.monotonic() + limits.wall_s
            elif "answer" in message:
                return dict(message["answer"])
            elif "error" in message:
                raise SandboxError(message["failure"], str(message["error"]), str(message.get("detail", "")))
            elif "stage" in message:
                progress(str(message["stage"]), message.get("fraction"))

    def _post_mortem(self) -> SandboxError:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        status, detail = self._child.returncode, self._detail()
        if "memory allocation" in detail or "MemoryError" in detail:  # Rust aborts
            return SandboxError("memory", "It needed too much memory.", detail)
        if status == -24:  # SIGXCPU
            return SandboxError("time", "It took too much processor time.", detail)
        return SandboxError("died", f"The reading process ended with status {status}.", detail)

    def _detail(self) -> str:
        """The end of what the child wrote to standard error."""
        if self._errors.closed:
            return ""
        length = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, length - _MOST_DETAIL_BYTES))
        text = self._errors.read().decode("utf-8", "replace")
        self._errors.seek(0, os.SEEK_END)
        return text


def _read(stdout: IO[bytes], lines: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Everything up to and including the answer to one request; None at the end of the pipe."""
    while line := _line(stdout):
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            break
        lines.put(message)
        if "answer" in message or "error" in message:
            return
    lines.put(None)


def _line(stdout: IO[bytes]) -> bytes:
    """The next one; none after another thread has ended the child."""
    with suppress(ValueError, OSError):
        return stdout.readline(_MOST_LINE_BYTES)
    return b""


def _takes_more_than(memory_bytes: int | None, pid: int) -> bool:
    if memory_bytes is None or KERNEL_LIMITS_MEMORY:
        return False
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).memory_info().rss > memory_bytes + (256 << 20))  # Python and the imports
    return False


def _end(child: subprocess.Popen[bytes], errors: IO[bytes], patience_s: float) -> None:
    if child.stdin is not None:
        with suppress(OSError):
            child.stdin.close()  # the child watches it
    if patience_s:
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
    errors.close()
