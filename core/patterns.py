"""Regular expressions that somebody typed: whether they can be used, and searching that cannot take forever.

Python's own `re` cannot be interrupted. The package `regex`, which transformers brings, counts the time while it
matches and gives up; it lets other threads run meanwhile.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from core.contract.breakpoints import LONGEST_PATTERN
from core.contract.errors import ParameterError

if TYPE_CHECKING:
    from regex import Pattern

SEARCHED = 2000  # characters of the text's end
PATIENCE_S = 0.1
MOST_UNROLLED = 20_000  # parts of a compiled expression: a{3} is three, and its compilation cannot be interrupted
_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_OTHER_SYNTAX = re.compile(r"\(\?[a-zA-Z0-9-]*[xV]")  # comments, or sets within sets


def compile_pattern(text: str) -> Pattern[str]:
    """The expression, compiled. Raises `ParameterError` with the library's reason in one sentence."""
    import regex

    if not text or len(text) > LONGEST_PATTERN:
        raise ParameterError(f"A regular expression has 1 to {LONGEST_PATTERN:,} characters, not {len(text):,}.")
    shown = text if len(text) <= 60 else text[:59] + "…"
    if unrolled(text) > MOST_UNROLLED:
        raise ParameterError(
            f"The regular expression “{shown}” repeats too much: its counts make more than {MOST_UNROLLED:,} parts of "
            "it; lower them, or take + or *."
        )
    try:
        return regex.compile(text)
    except (regex.error, ValueError, OverflowError, RecursionError, KeyError, MemoryError) as problem:
        raise ParameterError(f"The regular expression “{shown}” cannot be used: {problem}.") from problem


def unrolled(text: str) -> int:
    """How many parts an expression has, at most, where counted repeats stand for so many copies."""
    counts = [(found.start(), found.end(), _count(found)) for found in _REPEAT.finditer(text)]
    if _OTHER_SYNTAX.search(text):
        return len(text) * math.prod(count for *_, count in counts)
    repeats = {start: (end, count) for start, end, count in counts}
    groups, last, at = [0], 0, 0  # parts of each open group; of what a repeat would stand behind
    while at < len(text):
        if at in repeats:
            at, count = repeats[at]
            groups[-1] += last * (count - 1)
            last *= count
            continue
        if text[at] == "(":
            groups.append(0)
            last = 0
        elif text[at] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif text[at] not in "?*+|":
            end = _set_end(text, at) if text[at] == "[" else at + 1 + (text[at] == "\\")
            groups[-1], last, at = groups[-1] + 1, 1, end
            continue
        at += 1
    return sum(groups)


def _count(found: re.Match[str]) -> int:
    """The most copies that a counted repeat asks for; 1 for what is no repeat."""
    return max(1, *(int(digits[:12]) for digits in found.groups() if digits), 1)


def _set_end(text: str, at: int) -> int:
    """Behind the set of characters that begins here."""
    end = at + 1 + text.startswith("^", at + 1)
    end += text.startswith("]", end)  # the first one is a character
    while end < len(text) and text[end] != "]":
        end += 1 + (text[end] == "\\")
    return end + 1


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
