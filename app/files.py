"""Small files of the user, written so that the old one is intact whatever happens."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
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


def write_text(path: Path, text: str, private: bool = False) -> None:
    """`write_bytes` of the text as UTF-8."""
    write_bytes(path, text.encode(), private)


def write_bytes(path: Path, data: bytes, private: bool = False) -> None:
    """Write beside the file, then take its place in one step. Raises `OSError`; the old file is then intact.

    Who may read the old file may read the new one; a new one that is private, only its owner. A link stays one.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".tokenglass-{secrets.token_hex(8)}")
    try:
        with open(name, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            with contextlib.suppress(OSError):  # there is none yet
                os.chmod(name, stat.S_IMODE(path.stat().st_mode))
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
