"""Where Tokenglass keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "TOKENGLASS_CACHE"


def cache_root() -> Path:
    """Converted models and remembered checks: `$TOKENGLASS_CACHE`, else the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("tokenglass", appauthor=False)
