"""Stop conditions of one row."""

from __future__ import annotations

import pytest
import torch
from transformers import MaxLengthCriteria

from core.contract import FinishReason, GenerationParams
from core.decode.stopping import RowStop, Timer, asked_to_stop


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


class Hands:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_counts_from_the_first_pass_and_leaves_pauses_out() -> None:
    hands = Hands()
    timer = Timer(hands)
    timer.pause(50.0)  # before anything began
    hands.now = 10.0
    assert timer.seconds == 0.0
    timer.start()
    hands.now = 12.0
    timer.start()
    assert timer.seconds == 2.0
    hands.now = 20.0
    timer.pause(7.5)
    assert timer.seconds == 2.5


def test_max_time_ends_the_row_after_the_token_in_work() -> None:
    hands = Hands()
    timer = Timer(hands)
    timer.start()
    stop, params = RowStop(1, "", 100, timer), GenerationParams(max_time=2.0)
    hands.now = 2.0
    assert stop.check([1], "a", params) is None
    hands.now = 2.1
    assert stop.check([1, 2], "b", params) is FinishReason.TIME
    assert stop.check([1, 2, 0], "b", params.replace({"eos_token_id": 0})) is FinishReason.STOP
    assert stop.check([1, 2], "b", params.replace({"max_new_tokens": 2})) is FinishReason.LENGTH


def test_a_complete_grammar_ends_the_row_where_no_eos_token_can() -> None:
    stop = RowStop(1, "", 100, None, lambda ids: len(ids) == 2)
    assert stop.check([1], "a", GenerationParams()) is None
    assert stop.check([1, 2], "b", GenerationParams()) is FinishReason.STOP
    assert stop.check([1, 2], "b", GenerationParams(eos_token_id=(0,))) is None


def test_own_criteria_are_all_asked_and_one_is_enough() -> None:
    ids, scores = torch.tensor([[1, 2]]), torch.zeros(1, 5)
    seen: list[tuple[int, ...]] = []

    def counts(given: torch.Tensor, given_scores: tuple[torch.Tensor, ...]) -> torch.Tensor:
        seen.append((*given.shape, *given_scores[-1].shape))
        return torch.tensor([False])

    assert not asked_to_stop((), ids, scores)
    assert not asked_to_stop((counts,), ids, scores)
    assert asked_to_stop((lambda *_: True, counts), ids, scores)
    assert seen == [(1, 2, 1, 5)] * 2
    assert asked_to_stop((MaxLengthCriteria(2),), ids, scores)
    assert not asked_to_stop((MaxLengthCriteria(3),), ids, scores)
