"""GGUF files are converted once, by a child process, into the user's cache; this is the parent's side."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from core.contract.errors import LoadCancelledError, ModelLoadError
from core.domains.sandbox import Limits, Sandbox, SandboxError
from core.models.cache_root import CACHE_VARIABLE, cache_root
from core.models.convert_gguf import CONVERTER_VERSION, partial_folder
from core.models.files import check_file
from core.models.gguf_header import GgufHeader, read_gguf_header
from core.models.load_control import LoadControl, stop_if_cancelled
from core.models.preflight import check_folder
from core.models.units import byte_count

_GIB = 1 << 30
_FP32_BYTES = 4
_SPARE_BYTES = _GIB // 4


def known_conversion(source: Path) -> Path | None:
    """The converted copy, if there is one and this file did not change since; reads nothing of the file."""
    digest = _noted_digest(source)
    folder = None if digest is None else _folder_for(source, digest)
    return folder if folder is not None and folder.exists() else None


def converted_folder(source: Path, control: LoadControl) -> Path:
    """Where the copy of this very file, made by this converter, is or will be. Reads the whole file once, ever."""
    digest = _noted_digest(source)
    if digest is None:
        digest = _digest(source, control)
        _note_digest(source, digest)
    return _folder_for(source, digest)


def _folder_for(source: Path, digest: str) -> Path:
    name = f"{source.stem}-{source.stat().st_size}-{digest[:16]}-v{CONVERTER_VERSION}"
    return cache_root() / "converted" / name


def _digest(source: Path, control: LoadControl) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            stop_if_cancelled(control)
    return digest.hexdigest()


def _note_of(source: Path) -> Path:
    """Where the digest of this file is noted: under everything that changes when the file does."""
    status = source.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = f"{source.resolve()} {state}".encode("utf-8", "surrogateescape")
    return cache_root() / "digests" / hashlib.sha256(key).hexdigest()


def _noted_digest(source: Path) -> str | None:
    try:
        noted = _note_of(source).read_text("ascii")
    except (OSError, ValueError):
        return None
    return noted if re.fullmatch(r"[0-9a-f]{64}", noted) else None


def _note_digest(source: Path, digest: str) -> None:
    """Hashing takes a quarter of a second for 100 MB, a note nothing; without one it is hashed again next time."""
    with contextlib.suppress(OSError):
        note = _note_of(source)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest, "ascii")


def ensure_converted(source: Path, control: LoadControl) -> Path:
    """The folder with the converted copy of a GGUF file, converting it first where it is missing or damaged.

    Raises `ModelLoadError`, `LoadCancelledError`.
    """
    check_file(source, None)
    known = known_conversion(source)
    if known is not None and _is_whole(known):
        return known
    header = read_gguf_header(source)
    try:
        dest = converted_folder(source, control)
        if dest.exists():
            if _is_whole(dest):
                return dest
            shutil.rmtree(dest)
        dest.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(dest.parent)
        _check_room(source, header, dest.parent)
    except OSError as error:
        raise ModelLoadError(
            f"{source.name} cannot be converted: {error.filename or source}: {error.strerror}; "
            f"{CACHE_VARIABLE} can name another folder for converted models.",
            detail=repr(error),
        ) from error
    _convert(source, dest, header, control)
    return dest


def _is_whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except ModelLoadError:
        return False
    return True


def _check_room(source: Path, header: GgufHeader, folder: Path) -> None:
    """The converted weights are held in memory and written in fp32."""
    needed = header.parameters * _FP32_BYTES
    room = (
        ("memory", psutil.virtual_memory().available, "close something"),
        ("disk", max(0, shutil.disk_usage(folder).free - _SPARE_BYTES), f"{CACHE_VARIABLE} can name another disk"),
    )
    for what, free, advice in room:
        if needed > free:
            raise ModelLoadError(
                f"{source.name} takes {byte_count(needed)} of {what} when it is converted and {byte_count(free)} are "
                f"free; {advice}, or choose a smaller model."
            )


def conversion_limits(source_bytes: int, parameters: int) -> Limits:
    """Time and memory for a conversion; SmolLM2 (98 MB, 135 M parameters) takes 9 s and 1.2 GB."""
    return Limits(
        wall_s=300 + 600 * source_bytes / _GIB,
        memory_bytes=4 * parameters * _FP32_BYTES + source_bytes + 4 * _GIB,
        may_write=True,
    )


def _convert(source: Path, dest: Path, header: GgufHeader, control: LoadControl) -> None:
    control.progress("Converting", None)
    sandbox = Sandbox("core.models.convert_gguf")
    limits = conversion_limits(source.stat().st_size, header.parameters)
    request = {"source": str(source), "dest": str(dest)}
    try:
        sandbox.ask(request, limits, cancelled=control.cancelled, progress=control.progress)
    except SandboxError as error:
        if error.failure == "cancelled":
            raise LoadCancelledError("The conversion was cancelled.") from error
        why = " ".join(error.message.split())[:300].rstrip(".")
        raise ModelLoadError(f"{source.name} could not be converted: {why}.", detail=error.detail) from error
    finally:
        sandbox.close()
        shutil.rmtree(partial_folder(dest, sandbox.pid), ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Partial copies of converters that were killed (their process is gone)."""
    for path in folder.glob(".*.partial"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
