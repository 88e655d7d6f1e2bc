"""Frames come as often as the window can afford."""

from __future__ import annotations

import pytest

from app.tempo import FRAME_MS, LONGEST_MS, SHARE, Tempo


class _Cpu:
    """Processor time that grows by `cost_ms` from look to look."""

    def __init__(self, cost_ms: float) -> None:
        self.cost_ms, self.spent_s = cost_ms, 0.0

    def __call__(self) -> float:
        self.spent_s += self.cost_ms / 1e3
        return self.spent_s


@pytest.mark.parametrize("cost_ms", [0.1, 1.5, 2.5])
def test_cheap_frames_come_thirty_times_a_second(cost_ms: float) -> None:
    tempo = Tempo(_Cpu(cost_ms))
    assert {tempo.after_frame(streams=True) for _ in range(100)} == {FRAME_MS}


@pytest.mark.parametrize("cost_ms", [5.0, 7.0])
def test_dear_frames_take_their_share_of_the_time_and_no_more(cost_ms: float) -> None:
    tempo = Tempo(_Cpu(cost_ms))
    for _ in range(100):
        interval_ms = tempo.after_frame(streams=True)
    assert cost_ms / interval_ms == pytest.approx(SHARE, rel=0.16)
    assert tempo.after_frame(streams=False) == FRAME_MS


def test_a_moving_picture_it_stays() -> None:
    tempo = Tempo(_Cpu(80.0))
    assert max(tempo.after_frame(streams=True) for _ in range(100)) == LONGEST_MS


def test_small_changes_of_the_cost_leave_the_timer_alone() -> None:
    cpu = _Cpu(6.0)
    tempo = Tempo(cpu)
    for _ in range(100):
        tempo.after_frame(streams=True)
    steady = tempo.interval_ms
    for n in range(100):
        cpu.cost_ms = 6.0 + 0.3 * (n % 2)
        assert tempo.after_frame(streams=True) == steady
