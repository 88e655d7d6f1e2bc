"""What the window remembers between two starts: one JSON file, replaced in one step."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from pathlib import Path
from typing import Any, cast, get_args

import platformdirs
from PySide6.QtCore import QByteArray

from app.files import keep, read_text, write_text
from app.state.on_event import MOST_RECENT
from app.state.state import LayoutName
from app.theme.palette import ThemeName

VERSION = 1

log = logging.getLogger(__name__)


def default_path() -> Path:
    """Where the settings of this user are."""
    return Path(platformdirs.user_config_dir("tokenglass", appauthor=False)) / "settings.json"


class Settings:
    """Typed access to the file; anything missing, damaged or of another version reads as absent.

    `problem` says what was wrong with the file. One that is damaged, or that a later version wrote, is kept under
    another name when it is replaced.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()
        self.problem: str | None = None
        self._keep_as: str | None = None  # the suffix under which the file is kept
        self._values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(read_text(self.path)) if self.path.exists() else {}
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            self._keep_as = ".damaged.json"
            self.problem = f"The settings in {self.path} cannot be read, so defaults are used: {error}"
            log.warning(self.problem)
            return {}
        if values.get("version", VERSION) == VERSION:
            return values
        self._keep_as = ".later.json"
        kept = self.path.with_suffix(self._keep_as).name
        self.problem = (
            f"The settings in {self.path} are of another version of Tokenglass, so defaults are used; they are kept as "
            f"{kept}."
        )
        log.warning(self.problem)
        return {}

    @property
    def theme(self) -> ThemeName:
        """The last theme, else light."""
        value = self._values.get("theme")
        return cast(ThemeName, value) if value in get_args(ThemeName) else "light"

    @property
    def layout(self) -> LayoutName:
        """The last named arrangement, else everything."""
        value = self._values.get("layout")
        return cast(LayoutName, value) if value in get_args(LayoutName) else "everything"

    @property
    def trace_budget_mb(self) -> int:
        """MiB of records of a run, else 1024."""
        value = self._values.get("trace_budget_mb")
        return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 20 else 1024

    def recent(self, kind: str) -> tuple[str, ...]:
        """Recent `models` or `prompts`, the newest first."""
        values = self._values.get(f"recent_{kind}")
        return tuple(v for v in values if isinstance(v, str))[:MOST_RECENT] if isinstance(values, list) else ()

    def breakpoints(self) -> tuple[tuple[str, bool], ...]:
        """The breakpoints of the last time in their notation, and whether they were on."""
        values = self._values.get("breakpoints")
        pairs = [v for v in values if isinstance(v, list) and len(v) == 2] if isinstance(values, list) else []
        return tuple((text, on) for text, on in pairs if isinstance(text, str) and isinstance(on, bool))

    def window(self) -> tuple[QByteArray, QByteArray] | None:
        """Geometry of the window and arrangement of its cards."""
        geometry, cards = self._bytes("geometry"), self._bytes("cards")
        return None if geometry is None or cards is None else (geometry, cards)

    def _bytes(self, name: str) -> QByteArray | None:
        try:
            return QByteArray(base64.b64decode(self._values[name], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None

    def remember(self, **values: object) -> str | None:
        """Write these values beside those that are there; a sentence if that failed. The old file is then as it was."""
        changed = {n: _plain(v) for n, v in values.items()}
        if all(self._values.get(n) == v for n, v in changed.items()) and self._keep_as is None and self.path.exists():
            return None
        there = self._on_disk()
        joined = {n: _joined(v, there.get(n)) if n.startswith("recent_") else v for n, v in changed.items()}
        after = {**there, **joined, "version": VERSION}
        try:
            if self._keep_as is not None:
                keep(self.path, self.path.with_suffix(self._keep_as))
            write_text(self.path, json.dumps(after, indent=1), private=True)
            self._keep_as = None
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or error
            text = f"The settings cannot be saved to {self.path}: {why}. They last until you close."
            log.warning(text)
            return text
        self._values |= changed
        return None

    def _on_disk(self) -> dict[str, Any]:
        """What another window has written meanwhile stays; this one's own, where that cannot be read.

        What had to be kept aside, that window has kept.
        """
        try:
            values = json.loads(read_text(self.path))
        except (OSError, ValueError, RecursionError):
            return self._values
        if not isinstance(values, dict) or values.get("version", VERSION) != VERSION:
            return self._values
        self._keep_as = None
        return values


def _joined(own: Any, there: object) -> Any:
    """The newest of this window, then those of others that are still there."""
    return (own + [one for one in there if one not in own])[:MOST_RECENT] if isinstance(there, list) else own


def _plain(value: object) -> object:
    if isinstance(value, QByteArray):
        return base64.b64encode(value.data()).decode("ascii")
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
