"""Several prompts at once: one a line, `\\n` inside a line for a line break; or a JSONL file of them."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import islice

from core.contract.specs import MOST_SEQUENCES

KEYS = ("prompt", "text", "content")  # of a JSONL line, the first that is there
_LINE_BREAKS = ("\r\n", "\r", "\u2029")  # what the editor makes a line break of; other separators are part of a prompt


@lru_cache(maxsize=1)  # asked for with every plan
def prompts(text: str) -> tuple[str, ...]:
    """The prompts that a text of lines means; lines without anything are left out, and all after one too many."""
    return tuple(map(_unescaped, islice((line for line in _lines(text) if line.strip()), MOST_SEQUENCES + 1)))


def first(text: str) -> str:
    """The first of them; nothing where there is none."""
    return next((_unescaped(line) for line in _lines(text) if line.strip()), "")


def count(text: str) -> int:
    """How many there are."""
    return sum(bool(line.strip()) for line in _lines(text))


def empty_lines(text: str) -> int:
    """How many lines are left out, those after the last prompt not counted."""
    return sum(not line.strip() for line in _lines(text.rstrip())) if text.strip() else 0


def as_lines(many: tuple[str, ...] | list[str]) -> str:
    """The text of lines that means these prompts."""
    return "\n".join("\\n".join(_lines(prompt.replace("\\", "\\\\"))) for prompt in many)


def read_jsonl(text: str) -> list[str]:
    """The prompts of a JSONL file: strings, or objects with `prompt`, `text` or `content`. Raises `ValueError`."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):  # a text of JSON may hold all other separators
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


def _lines(text: str) -> list[str]:
    for other in _LINE_BREAKS:
        text = text.replace(other, "\n")
    return text.split("\n")


def _unescaped(line: str) -> str:
    parts, rest = [], line
    while "\\" in rest:
        before, _, rest = rest.partition("\\")
        parts.append(before)
        if rest[:1] == "n":
            parts.append("\n")
            rest = rest[1:]
        else:
            parts.append("\\")
            rest = rest[1:] if rest[:1] == "\\" else rest
    return "".join([*parts, rest])
