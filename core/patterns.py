"""Regular expressions that somebody typed: whether they can be used, and searching that cannot take forever.

Python's own `re` cannot be interrupted. The package `regex`, which transformers brings, counts the time while it
matches and gives up; it lets other threads run meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contract.breakpoints import LONGEST_PATTERN
from core.contract.errors import ParameterError

if TYPE_CHECKING:
    from regex import Pattern

SEARCHED = 2000  # characters of the text's end
PATIENCE_S = 0.1


def compile_pattern(text: str) -> Pattern[str]:
    """The expression, compiled. Raises `ParameterError` with the library's reason in one sentence."""
    import regex

    if not text or len(text) > LONGEST_PATTERN:
        raise ParameterError(f"A regular expression has 1 to {LONGEST_PATTERN:,} characters, not {len(text):,}.")
    try:
        return regex.compile(text)
    except (regex.error, ValueError, OverflowError, RecursionError, KeyError) as problem:
        shown = text if len(text) <= 60 else text[:59] + "…"
        raise ParameterError(f"The regular expression “{shown}” cannot be used: {problem}.") from problem


def check_pattern(text: str) -> None:
    """Raises `ParameterError` for an expression that cannot be used."""
    compile_pattern(text)


def match_ending_after(pattern: Pattern[str], text: str, begin: int) -> str | None:
    """A match in the end of `text` that ends beyond its first `begin` characters. Raises `TimeoutError`."""
    start = max(0, len(text) - SEARCHED)
    for found in pattern.finditer(text, start, overlapped=True, concurrent=True, timeout=PATIENCE_S):
        if found.end() > max(begin, found.start()):
            return str(found.group())
    return None
