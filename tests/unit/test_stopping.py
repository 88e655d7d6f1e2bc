"""Stop conditions of one row."""

from __future__ import annotations

import pytest

from core.contract import FinishReason, GenerationParams
from core.decode.stopping import RowStop


def feed(stop: RowStop, pieces: list[str], params: GenerationParams) -> list[FinishReason | None]:
    return [stop.check([9] * (index + 1), piece, params) for index, piece in enumerate(pieces)]


@pytest.mark.parametrize("pieces", [["a", "EN", "D"], ["aEND"], ["E", "", "N", "D"], ["xx", "yENDz"]])
def test_a_stop_string_is_found_across_token_borders(pieces: list[str]) -> None:
    reasons = feed(RowStop(1, "", 100), pieces, GenerationParams(stop_strings=("END",)))
    assert reasons[-1] is FinishReason.STOP
    assert not any(reasons[:-1])


def test_a_stop_string_may_begin_in_the_prompt_but_must_end_after_it() -> None:
    params = GenerationParams(stop_strings=("END",))
    assert feed(RowStop(1, "the EN", 100), ["D"], params) == [FinishReason.STOP]
    assert feed(RowStop(1, "the END", 100), ["x", "y"], params) == [None, None]


def test_any_eos_id_ends_the_row() -> None:
    params = GenerationParams(eos_token_id=(4, 5))
    stop = RowStop(1, "", 100)
    assert stop.check([3], "", params) is None
    assert stop.check([3, 5], "", params) is FinishReason.STOP


def test_the_asked_length_ends_the_row() -> None:
    assert feed(RowStop(1, "", 100), ["a", "b"], GenerationParams(max_new_tokens=2)) == [None, FinishReason.LENGTH]


def test_every_position_is_fed_once_then_the_limit_ends_the_row() -> None:
    reasons = feed(RowStop(8, "", 10), ["a", "b", "c"], GenerationParams())
    assert reasons == [None, None, FinishReason.LENGTH_LIMIT]
