"""Draws without replacement: the numbers, and what they fall on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from core.decode import random as draws
from core.decode.random import Purpose, draw_without_replacement, uniform, uniforms


def test_the_numbers_depend_on_row_position_and_reroll_and_begin_with_the_single_one() -> None:
    numbers = uniforms(7, 2, 30, Purpose.BEAM, 10)
    assert len(set(numbers)) == 10
    assert all(0 <= u < 1 for u in numbers)
    assert numbers[0] == uniform(7, 2, 30, Purpose.BEAM)
    assert numbers[4] == uniform(7, 2, 30, Purpose.BEAM, k=1)
    assert numbers[:3] == uniforms(7, 2, 30, Purpose.BEAM, 3)
    others = [uniforms(8, 2, 30, Purpose.BEAM, 10), uniforms(7, 3, 30, Purpose.BEAM, 10)]
    others += [uniforms(7, 2, 31, Purpose.BEAM, 10), uniforms(7, 2, 30, Purpose.BEAM, 10, reroll=1)]
    assert all(set(numbers).isdisjoint(other) for other in others)


def test_pairs_come_as_often_as_successive_sampling_says() -> None:
    p = [0.5, 0.25, 0.15, 0.1]
    scores = torch.tensor(p).log()
    count = 4000
    seen: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(4), 2), 0)
    for position in range(count):
        seen[tuple(draw_without_replacement(scores, uniforms(0, 0, position, Purpose.BEAM, 2)))] += 1
    for (first, second), times in seen.items():
        expected = p[first] * p[second] / (1 - p[first])
        assert times / count == pytest.approx(expected, abs=4 * math.sqrt(expected / count))


@pytest.mark.parametrize("size", [3, 300, 5000])
def test_nothing_is_taken_twice_and_the_dead_only_when_the_living_are_used_up(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(size, generator=generator)
    scores[::2] = -torch.inf
    alive = set(range(1, size, 2))
    for position in range(50):
        taken = draw_without_replacement(scores, uniforms(1, 0, position, Purpose.BEAM, 3))
        assert len(set(taken)) == 3
        assert len(set(taken) & alive) == min(3, len(alive))


@pytest.mark.parametrize("spread", [0.5, 4.0, 60.0])  # 60: a single place has nearly all of the weight
def test_the_head_alone_gives_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    scores = torch.randn(3000, generator=torch.Generator().manual_seed(3)) * spread
    numbers = [uniforms(5, 0, position, Purpose.BEAM, 8) for position in range(100)]
    whole = [draw_without_replacement(scores, us) for us in numbers]
    monkeypatch.setattr(draws, "_SORTED_AT_ONCE", 0)
    assert whole == [draw_without_replacement(scores, us) for us in numbers]


def test_the_largest_number_falls_on_the_last_that_is_left() -> None:
    scores = torch.tensor([0.0, -1.0, -2.0])
    almost_one = 1 - 2**-53
    assert draw_without_replacement(scores, [almost_one] * 3) == [2, 1, 0]
    assert draw_without_replacement(scores, [0.0] * 3) == [0, 1, 2]


def test_thousands_of_draws_fall_on_what_one_by_one_renormalising_says() -> None:
    scores = torch.randn(9000, generator=torch.Generator().manual_seed(9)) * 3
    numbers = uniforms(4, 0, 1, Purpose.BEAM, 4000)
    order = sorted(range(9000), key=lambda place: -float(scores[place]))
    probabilities = torch.softmax(scores.double(), dim=-1).numpy()
    weights = probabilities[order]
    expected = []
    for u in numbers[:300]:
        ends = weights.cumsum()
        place = int((ends <= u * ends[-1]).sum())
        expected.append(order[place])
        weights[place] = 0.0
    taken = draw_without_replacement(scores, numbers)
    assert taken[:300] == expected
    assert len(set(taken)) == 4000


def test_the_work_of_a_draw_does_not_grow_with_the_draws_before(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    search = draws.np.searchsorted

    def counted(ends: object, *args: object, **kwargs: object) -> object:
        looked.append(len(ends))  # type: ignore[arg-type]
        return search(ends, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(draws.np, "searchsorted", counted)
    scores = torch.randn(20_000, generator=torch.Generator().manual_seed(2))
    draw_without_replacement(scores, uniforms(4, 0, 1, Purpose.BEAM, 15_000))
    assert max(looked) < 200
    assert len(looked) < 3 * 15_000  # it begins again with more, once


def test_where_nothing_has_any_weight_the_first_places_are_taken() -> None:
    assert draw_without_replacement(torch.full((5,), -torch.inf), [0.3, 0.9]) == [0, 1]
