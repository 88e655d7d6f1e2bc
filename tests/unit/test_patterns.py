"""Regular expressions that somebody typed: what is refused before it is compiled."""

from __future__ import annotations

import pytest

from core.contract import ParameterError
from core.patterns import MOST_UNROLLED, check_pattern, compile_pattern, unrolled


@pytest.mark.parametrize(
    "pattern",
    [
        "a{50000000}",
        "(?:a{65535}){65535}",
        "(?:a{3000}){3000}",
        "a{9999}{9999}",
        "(ab|[cd]){,30000}",
        "(?x) a { 30000 }",
        "(?V1)[[a]b]{30000}",
        "x(?:y(?:z{200}){200}){2}",
        "a{999999999999999999999}",
        "[]a]{30000}",
    ],
)
def test_counts_that_would_take_all_memory_are_refused_at_once(pattern: str) -> None:
    with pytest.raises(ParameterError, match="repeats too much"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{4}-\d{2}-\d{2}", 10),
        ("(?:ab){3}c", 10),
        (r"[a-z{9999}]+\{9999\}", 7),
        ("(a{2}|b){3,}", 9),
        ("a{,5}b", 6),
        (r"[\]]{2}(x", 3),
    ],
)
def test_parts_are_counted_with_their_copies(pattern: str, parts: int) -> None:
    assert unrolled(pattern) == parts  # the colon of a group counts, too


@pytest.mark.parametrize(
    "pattern", [r"\w{1,50}\s\w{1,50}\s\w{1,50}", "(?i)the (?:end|rest){1,3}", "[.!?]$", "(a{100}){100}"]
)
def test_ordinary_expressions_are_taken(pattern: str) -> None:
    assert unrolled(pattern) <= MOST_UNROLLED
    assert compile_pattern(pattern).pattern == pattern
