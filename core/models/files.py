"""Reading the files of a model folder: regular ones only, none too large, none from outside, no surprising JSON."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from core.contract.errors import ModelLoadError

MIB = 1 << 20
MAX_JSON_DEPTH = 64


def folder_name(folder: Path) -> str:
    """What a model folder is called in sentences: the repository, where it is a snapshot of one."""
    repository = folder.parent.parent.name
    is_snapshot = folder.parent.name == "snapshots" and repository.startswith("models--")
    return repository.removeprefix("models--").replace("--", "/") if is_snapshot else folder.name


def is_there(path: Path) -> bool:
    """Whether there is anything under this name, a broken link included."""
    return os.path.lexists(path)


def check_file(path: Path, cap_bytes: int | None) -> int:
    """Refuse what is no regular file of this folder (a pipe would block, a device never ends) and what is too large.

    Links may lead to files of the folder itself or, in a Hugging Face cache, to its blobs. Returns the size in bytes.
    Raises `ModelLoadError`.
    """
    where = f"{path.name} in “{folder_name(path.parent)}”"
    try:
        status = path.stat()
        outside = path.is_symlink() and not _is_ours(path)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ModelLoadError(f"{where} cannot be read: {why}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelLoadError(f"{where} is not a regular file; put the real file there.")
    if outside:
        raise ModelLoadError(f"{where} is a link to a file outside the folder; put the real file there.")
    if cap_bytes is not None and status.st_size > cap_bytes:
        size, cap = status.st_size / MIB, cap_bytes / MIB
        raise ModelLoadError(f"{where} has {size:.3g} MiB, more than the {cap:.3g} MiB such a file may have.")
    return status.st_size


def read_file(path: Path, cap_bytes: int) -> bytes:
    """The bytes of a file that passes `check_file`; what was put in its place meanwhile does not. Same errors."""
    check_file(path, cap_bytes)
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(number, "rb") as file:
            content = b"" if not stat.S_ISREG(os.fstat(number).st_mode) else file.read(cap_bytes + 1)
    except OSError as error:
        raise ModelLoadError(
            f"{path.name} in “{folder_name(path.parent)}” cannot be read: {error.strerror}."
        ) from error
    if len(content) > cap_bytes:
        raise ModelLoadError(f"{path.name} in “{folder_name(path.parent)}” grew while it was read; try again.")
    return content


def read_json_object(path: Path, cap_bytes: int = MIB) -> dict[str, Any]:
    """The JSON object in `path`, nested no deeper than `MAX_JSON_DEPTH`, no name twice. Raises `ModelLoadError`."""
    where = f"{path.name} in “{folder_name(path.parent)}”"
    data = read_file(path, cap_bytes)
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ModelLoadError(f"{where} is nested too deeply to be a model's file.") from error
    except _DuplicateKeyError as error:
        raise ModelLoadError(f"{where} says “{error}” twice; remove one of the two.") from error
    except ValueError as error:
        raise ModelLoadError(f"{where} is not valid JSON; download it again.", detail=str(error)) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{where} is not a JSON object; download it again.")
    if _depth(content) > MAX_JSON_DEPTH:
        raise ModelLoadError(f"{where} is nested too deeply to be a model's file.")
    return content


def _is_ours(path: Path) -> bool:
    """Whether a link stays in its folder, or leads to the blobs of the Hugging Face cache the folder belongs to.

    There a snapshot is `models--org--name/snapshots/COMMIT`, its files are links to `models--org--name/blobs`, and
    those may be links to `blobs` beside all models.
    """
    target, folder = path.resolve(strict=True), path.parent.resolve(strict=True)
    allowed = [folder]
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        allowed += [folder.parents[1] / "blobs", folder.parents[2] / "blobs"]
    return any(target.is_relative_to(place) for place in allowed)


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(next(key for key, count in counts.items() if count > 1)[:80])
    return result


def _depth(content: object) -> int:
    depth, level = 0, [content]
    while level:
        depth += 1
        below: list[object] = []
        for item in level:
            below.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        level = below
    return depth
