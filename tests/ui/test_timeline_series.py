"""Axes and decimation of the timeline. No Qt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.widgets.series import Axis, curve, nice_top, robust_top, tick_text, ticks

VALUES = np.random.default_rng(5).gamma(2.0, 1.0, 10_000)


def test_small_values_are_short() -> None:
    assert [tick_text(value) for value in (0.0, 0.5, 2e-5, 1.2e-7, 3e12)] == ["0", "0.5", "2e−5", "1.2e−7", "3e12"]


def test_every_step_is_drawn_while_there_are_pixels() -> None:
    axis = Axis(30.0, 600.0, 320)
    x, y = curve(VALUES[:300], axis, 0, 700)
    np.testing.assert_array_equal(x, np.arange(300))
    np.testing.assert_array_equal(y, VALUES[:300])


def test_decimation_keeps_every_spike_in_two_points_a_pixel() -> None:
    axis = Axis(30.0, 600.0, 10_240)
    spiked = VALUES.copy()
    spiked[[17, 5000, 9999]] = 99.0
    x, y = curve(spiked, axis, 0, 700)
    assert len(x) <= 2 * 600
    assert np.count_nonzero(y == 99.0) == 3
    assert y.min() == spiked.min()


@given(st.integers(0, 600), st.integers(1, 200))
def test_the_curve_of_a_part_is_the_part_of_the_curve(left: int, width: int) -> None:
    axis = Axis(0.0, 600.0, 10_240)
    whole = dict(zip(*curve(VALUES, axis, 0, 600), strict=True))
    part_x, part_y = curve(VALUES, axis, left, left + width)
    inner = (part_x > axis.index(left)) & (part_x < axis.index(min(left + width, 600)) - 20)
    assert all(x in whole for x in part_x[inner])
    assert len(part_x) <= 2 * (width + 4)
    assert np.isin(part_y[inner], curve(VALUES, axis, 0, 600)[1]).all()


def test_x_and_index_are_inverse() -> None:
    axis = Axis(34.0, 500.0, 640)
    assert [axis.index(axis.x(i)) for i in range(640)] == list(range(640))
    assert axis.index(10.0) < 0


@pytest.mark.parametrize(
    ("value", "top"), [(0.0, 1.0), (0.7, 0.8), (1.0, 1.0), (5.2, 6.0), (11.0, 12.0), (23.0, 30.0), (1500.0, 1500.0)]
)
def test_tops_are_round(value: float, top: float) -> None:
    assert nice_top(value) == pytest.approx(top)


@given(st.floats(1e-3, 1e6), st.integers(1, 8))
def test_ticks_go_from_zero_to_the_top_evenly(value: float, most: int) -> None:
    top = nice_top(value)
    found = ticks(top, most)
    assert found[0] == 0
    assert found[-1] == pytest.approx(top)
    assert len(found) <= most + 1
    assert np.allclose(np.diff(found), found[1])


def test_a_few_spikes_do_not_flatten_the_rest() -> None:
    usual = np.full(200, 20.0)
    assert robust_top(usual) == 20.0
    usual[[3, 90]] = 900.0
    assert robust_top(usual) < 40.0
    assert robust_top(np.array([np.nan])) == 1.0
