"""Several prompts at once: one a line, `\\n` inside a line for a line break; or a JSONL file of them.

Lines end where an editor ends them. The breaks that a prompt itself has are written as in JSON: `\\n`, `\\u2028`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from core.contract.specs import MOST_SEQUENCES

KEYS = ("prompt", "text", "content")  # of a JSONL line, the first that is there
_BREAK = re.compile("\r\n|[\n\r\u2028\u2029]")
_WRITTEN = {"\\": "\\\\", "\n": "\\n", "\r": "\\u000d", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_MEANT = {written: character for character, written in _WRITTEN.items()}
_SPECIAL = re.compile("[\\\\\n\r\u2028\u2029]")
_ESCAPE = re.compile("|".join(map(re.escape, _MEANT)))


@lru_cache(maxsize=1)  # asked for with every plan
def prompts(text: str) -> tuple[str, ...]:
    """The prompts that a text of lines means; lines without anything are left out, and all after one too many."""
    return tuple(map(_unescaped, islice((line for line in _lines(text) if line.strip()), MOST_SEQUENCES + 1)))


def first(text: str) -> str:
    """The first of them; nothing where there is none."""
    return next((_unescaped(line) for line in _lines(text) if line.strip()), "")


def count(text: str) -> int:
    """How many there are."""
    return _counted(text)[0]


def empty_lines(text: str) -> int:
    """How many lines are left out, those after the last prompt not counted."""
    return _counted(text)[1]


@lru_cache(maxsize=1)  # of half a million lines at every look, too
def _counted(text: str) -> tuple[int, int]:
    lines = _BREAK.split(text.rstrip())
    there = sum(map(bool, map(str.strip, lines)))
    return there, len(lines) - there if there else 0


def as_lines(many: tuple[str, ...] | list[str]) -> str:
    """The text of lines that means these prompts."""
    return "\n".join(_SPECIAL.sub(lambda found: _WRITTEN[found[0]], prompt.replace("\r\n", "\n")) for prompt in many)


def read_jsonl(text: str) -> list[str]:
    """The prompts of a JSONL file: strings, or objects with `prompt`, `text` or `content`. Raises `ValueError`."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is not JSON") from None
        if isinstance(value, dict):
            value = next((value[key] for key in KEYS if isinstance(value.get(key), str)), None)
        if not isinstance(value, str):
            raise ValueError(f"line {number} is neither a text nor an object with a “prompt”")
        found.append(value)
    return found


def _lines(text: str) -> Iterator[str]:
    start = 0
    for found in _BREAK.finditer(text):
        yield text[start : found.start()]
        start = found.end()
    yield text[start:]


def _unescaped(line: str) -> str:
    return _ESCAPE.sub(lambda found: _MEANT[found[0]], line)
