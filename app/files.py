"""Small files of the user, written so that the old one is intact whatever happens."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

MOST_BYTES = 8 << 20


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a regular file of bounded size. Raises `OSError` with a sentence, or `UnicodeDecodeError`."""
    if not path.is_file():
        raise OSError(f"“{path.name}” is not there, or is no regular file.")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(f"“{path.name}” is larger than {most_bytes >> 20} MiB.")
    return data.decode("utf-8-sig")


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of the text as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the file, then take its place in one step. Raises `OSError`; the old file is then intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def keep(path: Path, as_: Path) -> None:
    """A second name for a file that is about to be replaced; it is never without a name. Raises `OSError`."""
    as_.unlink(missing_ok=True)
    try:
        os.link(path, as_)
    except OSError:  # a folder, or a file system without links
        path.replace(as_)
