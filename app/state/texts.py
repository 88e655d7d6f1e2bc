"""The seam for translated sentences in the Qt-free part: the program puts Qt's translator here at start."""

from __future__ import annotations

from collections.abc import Callable

_translate: Callable[[str], str] = str


def set_translator(translate: Callable[[str], str]) -> None:
    """From now on sentences go through `translate`; `str` leaves them in English."""
    global _translate
    _translate = translate


def tr(text: str) -> str:
    """The sentence in the user's language. Fill in values afterwards, with `format`."""
    return _translate(text)
