"""Sizes of experiments, as they are typed."""

from __future__ import annotations

import pytest

from app.state.cache_lab import sized
from core.contract import Experiment, Prompt

PROMPT = Prompt(text="Once")


@pytest.mark.parametrize(("text", "meant"), [("12", 12), (" 1,024 ", 1024), ("", 32)])
def test_a_size_is_a_whole_number(text: str, meant: int) -> None:
    found = sized(Experiment("kinds", PROMPT), "new_tokens", text)
    assert found is not None
    assert found.new_tokens == (meant if text else Experiment("kinds", PROMPT).new_tokens)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "9" * 5000, "1" * 12], ids=len)
def test_anything_else_is_none(text: str) -> None:
    assert sized(Experiment("kinds", PROMPT), "new_tokens", text) is None
    assert sized(Experiment("chunks", PROMPT), "chunk_sizes", f"8, {text}") is None
