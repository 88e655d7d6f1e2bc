"""GGUF files are converted once, by a child process, into the user's cache; this is the parent's side."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import platformdirs
import psutil  # type: ignore[import-untyped]

from core.contract.errors import LoadCancelledError, ModelLoadError
from core.models.convert_gguf import CONVERTER_VERSION, partial_folder
from core.models.load_control import LoadControl, stop_if_cancelled
from core.models.preflight import check_folder

CACHE_VARIABLE = "TOKENGLASS_CACHE"
_POLL_S = 0.05


def cache_root() -> Path:
    """Where converted models are kept: `$TOKENGLASS_CACHE`, else the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("tokenglass", appauthor=False)


def converted_folder(source: Path, control: LoadControl) -> Path:
    """Where the copy of this very file, made by this converter, is or will be. Reads the whole file once."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            stop_if_cancelled(control)
    size_bytes = source.stat().st_size
    return cache_root() / "converted" / f"{source.stem}-{size_bytes}-{digest.hexdigest()[:16]}-v{CONVERTER_VERSION}"


def ensure_converted(source: Path, control: LoadControl) -> Path:
    """The folder with the converted copy of a GGUF file, converting it first where it is missing or damaged.

    Raises `ModelLoadError`, `LoadCancelledError`.
    """
    try:
        dest = converted_folder(source, control)
        if dest.exists():
            with contextlib.suppress(ModelLoadError):
                check_folder(dest)
                return dest
            shutil.rmtree(dest)
        dest.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(dest.parent)
    except OSError as error:
        raise ModelLoadError(
            f"{source.name} cannot be converted: {error.filename or source}: {error.strerror}; "
            f"{CACHE_VARIABLE} can name another folder for converted models.",
            detail=repr(error),
        ) from error
    _convert(source, dest, control)
    return dest


def _convert(source: Path, dest: Path, control: LoadControl) -> None:
    control.progress("Converting", None)
    reason = ""
    with tempfile.TemporaryFile() as errors, _child(source, dest, errors) as child:
        for message in _messages(child, control):
            reason = str(message.get("error", reason))
            if "stage" in message:
                control.progress(str(message["stage"]), message.get("fraction"))
        status = child.wait()
        errors.seek(0)
        detail = errors.read()[-20_000:].decode("utf-8", "replace")
    if status != 0 or not dest.exists():
        why = reason or f"the converter ended with status {status}"
        raise ModelLoadError(f"{source.name} could not be converted: {_one_line(why)}.", detail=detail)


@contextlib.contextmanager
def _child(source: Path, dest: Path, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The converter, killed and cleaned up after if the block is left early."""
    package_root = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "core.models.convert_gguf", str(source), str(dest)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1"},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
        shutil.rmtree(partial_folder(dest, child.pid), ignore_errors=True)


def _messages(child: subprocess.Popen[bytes], control: LoadControl) -> Iterator[dict[str, Any]]:
    """What the child says, until it ends. A thread reads the pipe, so that a cancel is seen while it is silent."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read_lines, args=(child, lines), name="gguf-conversion", daemon=True)
    reader.start()
    try:
        while True:
            if control.cancelled():
                raise LoadCancelledError("The conversion was cancelled.")
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=_POLL_S)
                if line is None:
                    return
                with contextlib.suppress(ValueError):  # a library may print, too
                    message = json.loads(line)
                    if isinstance(message, dict):
                        yield message
    except BaseException:  # left early: nobody will read the rest
        child.kill()
        raise
    finally:
        reader.join()


def _read_lines(child: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    if child.stdout is not None:
        for line in child.stdout:
            lines.put(line)
    lines.put(None)


def _remove_abandoned(folder: Path) -> None:
    """Partial copies of converters that were killed (their process is gone)."""
    for path in folder.glob(".*.partial"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")
