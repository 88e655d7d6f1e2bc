"""Words for people."""

from __future__ import annotations

from collections.abc import Sequence


def in_words(names: Sequence[str]) -> str:
    """A, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
