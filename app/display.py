"""Whether Qt could open a window. Asked first, because Qt aborts the process if it cannot."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

_X_DISPLAY = re.compile(r"(?P<host>[^:]*):(?P<number>\d+)(\.\d+)?")
_X_FIRST_PORT = 6000
_PATIENCE_S = 2.0
_WAY_OUT = "Use “tokenglass generate” without a window, or set QT_QPA_PLATFORM=offscreen."


def display_problem(environment: Mapping[str, str] = os.environ) -> str | None:
    """Why there is no display, in one sentence; None if there is one, or Qt was told what to use."""
    if not sys.platform.startswith("linux") or environment.get("QT_QPA_PLATFORM"):
        return None
    x, wayland = environment.get("DISPLAY"), environment.get("WAYLAND_DISPLAY")
    if not x and not wayland:
        return f"Tokenglass needs a display: neither DISPLAY nor WAYLAND_DISPLAY is set. {_WAY_OUT}"
    if (x and _x_answers(x)) or (wayland and _wayland_answers(wayland, environment)):
        return None
    named = " and ".join(f"{k}={v}" for k, v in (("DISPLAY", x), ("WAYLAND_DISPLAY", wayland)) if v)
    return f"Tokenglass needs a display, but nothing answers at {named}. {_WAY_OUT}"


def _x_answers(display: str) -> bool:
    found = _X_DISPLAY.fullmatch(display)
    if found is None:
        return False
    number = int(found["number"])
    if found["host"] in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"
        return _answers(path) or _answers(f"\0{path}")
    try:
        with socket.create_connection((found["host"].strip("[]"), _X_FIRST_PORT + number), _PATIENCE_S):
            return True
    except OSError:
        return False


def _wayland_answers(display: str, environment: Mapping[str, str]) -> bool:
    return _answers(str(Path(environment.get("XDG_RUNTIME_DIR", "/run")) / display))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE_S)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
