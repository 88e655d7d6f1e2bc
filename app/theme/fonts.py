"""Two families in three sizes: Inter for the interface, JetBrains Mono for tokens and numbers."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from PySide6.QtGui import QFont, QFontDatabase

# Pixels, not points: the same proportions on every platform; Qt scales them by the screen's ratio.
SMALL_PX = 11
BODY_PX = 13
LARGE_PX = 16

_FOLDER = Path(__file__).parents[2] / "resources" / "fonts"
_FILES = (
    "Inter-Regular.otf",
    "Inter-SemiBold.otf",
    "Inter-Bold.otf",
    "JetBrainsMono-Regular.ttf",
    "JetBrainsMono-Bold.ttf",
)
UI_FAMILY = "Inter"
MONO_FAMILY = "JetBrains Mono"

log = logging.getLogger(__name__)


@cache
def load_fonts() -> None:
    """Register the shipped fonts, once; needs the QGuiApplication. Missing files fall back to system fonts."""
    for name in _FILES:
        if QFontDatabase.addApplicationFont(str(_FOLDER / name)) < 0:
            log.warning("The font %s could not be loaded; a system font takes its place.", name)


def ui(size_px: int = BODY_PX, *, bold: bool = False) -> QFont:
    """The interface font, with tabular figures, so that numbers never jump."""
    font = QFont(UI_FAMILY)
    font.setStyleHint(QFont.StyleHint.SansSerif)
    return _finish(font, size_px, bold)


def mono(size_px: int = BODY_PX, *, bold: bool = False) -> QFont:
    """The font of tokens, numbers and code. No ligatures: `!=` stays two characters."""
    font = QFont(MONO_FAMILY)
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setFixedPitch(True)
    font.setFeature(QFont.Tag("calt"), 0)
    return _finish(font, size_px, bold)


def _finish(font: QFont, size_px: int, bold: bool) -> QFont:
    font.setPixelSize(size_px)
    font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    font.setFeature(QFont.Tag("tnum"), 1)
    return font
