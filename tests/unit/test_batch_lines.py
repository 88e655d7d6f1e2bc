"""The lines of a batch are its prompts, whatever else is in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.state import batch, select
from app.state.state import Draft
from core.contract.specs import MOST_SEQUENCES


@pytest.mark.parametrize("inside", ["\u2028", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u00a0", "\t", "\\n", "\\"])
def test_no_character_within_a_prompt_ends_it(inside: str) -> None:
    prompts = (f"one{inside}two", "three")
    assert batch.prompts(batch.as_lines(prompts)) == prompts
    assert batch.count(batch.as_lines(prompts)) == 2
    assert batch.read_jsonl("\n".join(json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts)) == [*prompts]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\u2029"])
def test_a_line_break_within_a_prompt_stays_in_it(line_break: str) -> None:
    kept = line_break.replace("\r\n", "\n")
    assert batch.prompts(batch.as_lines((f"one{line_break}two", "three"))) == (f"one{kept}two", "three")
    assert batch.prompts(f"one{line_break}{line_break}two") == ("one", "two")
    assert batch.empty_lines(f"one{line_break}{line_break}two{line_break}") == 1


@pytest.mark.parametrize("line", ["{", "[" * 50_000, "9" * 5000, "1", '{"other": "key"}'], ids=len)
def test_a_line_that_is_no_prompt_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is"):
        batch.read_jsonl(f'"one"\n{line}')


def test_more_lines_than_a_run_takes_are_refused_and_not_made() -> None:
    draft = Draft(tab="batch", batch="a\n" * 500_000)
    assert len(select.prompts(draft)) == MOST_SEQUENCES + 1, "enough to know that it is too many"
    assert "500,000 prompts" in select.missing_prompt(draft)
    assert not select.missing_prompt(replace(draft, batch="a\n" * MOST_SEQUENCES))
