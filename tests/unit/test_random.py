"""Counter-based draws: reproducible, independent, exact inverse of the cumulative distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.decode import random as draws
from core.decode.random import HEAD, _descending, inverse_cdf, uniform


def test_the_same_counter_gives_the_same_number_and_any_part_changes_it() -> None:
    base = uniform(7, 0, 5)
    assert uniform(7, 0, 5) == base
    others = {uniform(8, 0, 5), uniform(7, 1, 5), uniform(7, 0, 6), uniform(7, 0, 5, k=1), uniform(7, 0, 5, reroll=1)}
    assert len(others | {base}) == 6


def test_recorded_numbers_never_change() -> None:
    """A run file made today must replay in ten years."""
    assert uniform(0, 0, 0) == FIRST_DRAW
    assert 0.0 <= uniform(2**63, 10_000, 10_000) < 1.0


FIRST_DRAW = 0.011546754286331562


def test_numbers_are_uniform() -> None:
    numbers = np.array([uniform(3, row, position) for row in range(20) for position in range(200)])
    counts, _ = np.histogram(numbers, bins=16, range=(0, 1))
    chi_square = ((counts - 250) ** 2 / 250).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_tokens_follow_descending_probability_and_ties_go_by_id() -> None:
    scores = torch.log(torch.tensor([0.1, 0.4, 0.1, 0.4]))
    assert [inverse_cdf(scores, u) for u in (0.0, 0.39, 0.41, 0.79, 0.85, 0.95)] == [1, 1, 3, 3, 0, 2]


def test_killed_tokens_are_never_drawn() -> None:
    scores = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    assert {inverse_cdf(scores, u) for u in (*np.linspace(0, 0.999999, 50), 1 - 2**-53)} == {0, 2}


@pytest.mark.parametrize("at_once", [0, draws._SORTED_AT_ONCE])
def test_either_search_equals_the_full_sort(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(draws, "_SORTED_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(5 * HEAD, generator=generator) * 2).bfloat16().float()  # many ties
    probabilities = torch.softmax(scores.double(), -1).numpy()
    order = np.lexsort((np.arange(len(probabilities)), -probabilities))
    cumulative = np.cumsum(probabilities[order])
    for u in np.linspace(0, 0.9999, 300):
        assert inverse_cdf(scores, u) == order[np.searchsorted(cumulative, u, side="right")]


def test_a_vocabulary_of_one_is_drawn() -> None:
    assert inverse_cdf(torch.zeros(1), 0.999) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_order_of_a_draw_is_by_descending_score_then_by_id(dtype: torch.dtype) -> None:
    scores = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).mul(3).bfloat16().to(dtype)  # many ties
    scores[[5, 700, 19_000]] = torch.tensor([0.0, -0.0, -torch.inf], dtype=dtype)
    wanted = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    assert _descending(scores).tolist() == wanted
