"""The trace: what was recorded comes back, across blocks, forks and the budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.contract import ViewUnavailableError
from core.trace.path import Path
from core.trace.record import SEALED_POSITIONS, Trace

LAYERS, HEADS, WIDTH, HIDDEN = 2, 3, 4, 5
MODULE = nn.Identity()
PATH = Path(0, 0)
PER_POSITION = 4 * (LAYERS * HEADS * WIDTH + (LAYERS + 1) * HIDDEN)  # bytes


def feed(trace: Trace, positions: int, value: float, batch: int = 1) -> None:
    """One forward pass whose records all hold `value`, plus the number of their row."""
    rows = value + torch.arange(float(batch)).reshape(batch, 1, 1)
    for _ in range(LAYERS):
        trace.take_residual(rows.repeat(1, positions, HIDDEN))
        trace.take(MODULE, rows[..., None].repeat(1, HEADS, positions, WIDTH), 0.5, {})
    trace.take_residual(rows.repeat(1, positions, HIDDEN))
    trace.commit()


def test_ranges_come_back_across_chunks_and_steps() -> None:
    trace = Trace(1 << 30)
    feed(trace, 10, 1.0)
    for step in range(SEALED_POSITIONS + 5):
        feed(trace, 1, 2.0 + step)
    values = trace.queries(1, 8, trace.stop, PATH)[0, :, 0].tolist()
    assert values == [1.0, 1.0, *(2.0 + step for step in range(SEALED_POSITIONS + 5))]
    assert trace.residuals(LAYERS, 9, 11, PATH).shape == (2, HIDDEN)


def test_bytes_are_those_of_the_storages() -> None:
    trace = Trace(1 << 30)
    feed(trace, 10, 1.0)
    assert trace.nbytes == 10 * PER_POSITION
    for _ in range(SEALED_POSITIONS + 1):
        feed(trace, 1, 0.0)
    assert trace.nbytes == (10 + SEALED_POSITIONS + 1) * PER_POSITION


def test_views_of_larger_storages_are_not_kept_alive() -> None:
    trace = Trace(1 << 30)
    fused = torch.zeros(1, 8, 3 * HEADS * WIDTH)
    for _ in range(LAYERS):
        trace.take_residual(torch.zeros(1, 8, HIDDEN))
        trace.take(MODULE, fused[..., : HEADS * WIDTH].reshape(1, 8, HEADS, WIDTH).transpose(1, 2), None, {})
    trace.take_residual(torch.zeros(1, 8, HIDDEN))
    trace.commit()
    assert trace.nbytes == 8 * 4 * (LAYERS * HEADS * WIDTH + (LAYERS + 1) * HIDDEN)


def test_the_oldest_records_go_first_and_the_view_says_so() -> None:
    trace = Trace(25 * PER_POSITION)
    for _ in range(3):
        feed(trace, 10, 1.0)
    assert trace.nbytes <= 25 * PER_POSITION
    assert trace.queries(0, 10, 30, PATH).shape[1] == 20
    with pytest.raises(ViewUnavailableError, match="first 10 positions were dropped") as caught:
        trace.queries(0, 9, 30, PATH)
    assert caught.value.can_recompute


def test_a_broken_pass_leaves_no_records() -> None:
    trace = Trace(1 << 30)
    feed(trace, 3, 1.0)
    trace.take_residual(torch.zeros(1, 4, HIDDEN))
    trace.rollback()
    feed(trace, 1, 2.0)
    assert trace.stop == 4
    assert trace.queries(0, 0, 4, PATH)[0, :, 0].tolist() == [1.0, 1.0, 1.0, 2.0]


def test_a_fork_shares_its_parents_positions_and_grows_alone() -> None:
    trunk = Trace(1 << 30)
    feed(trunk, 6, 1.0)
    branch = trunk.fork(4)
    feed(branch, 2, 7.0)
    feed(trunk, 1, 3.0)
    assert branch.queries(0, 0, 6, PATH)[0, :, 0].tolist() == [1.0, 1.0, 1.0, 1.0, 7.0, 7.0]
    assert trunk.queries(0, 4, 7, PATH)[0, :, 0].tolist() == [1.0, 1.0, 3.0]
    # Four of the trunk's six and its own two; what the trunk says beyond the fork is the trunk's alone.
    assert (branch.nbytes, trunk.nbytes) == (6 * PER_POSITION, 7 * PER_POSITION)
    assert branch.fork(3).nbytes == 3 * PER_POSITION
    assert branch.fork(5).nbytes == 5 * PER_POSITION


def test_a_fork_within_the_budget_leaves_its_parents_records_alone() -> None:
    trunk = Trace(25 * PER_POSITION)
    feed(trunk, 24, 1.0)  # nearly all of the budget, but only ten of them are the fork's
    branch = trunk.fork(10)
    feed(branch, 15, 2.0)
    assert branch.nbytes == 25 * PER_POSITION
    assert trunk.queries(0, 0, 24, PATH).shape[1] == 24
    assert branch.queries(0, 0, 25, PATH)[0, [0, 9, 10], 0].tolist() == [1.0, 1.0, 2.0]


def test_a_fork_over_budget_drops_its_own_oldest_and_then_what_it_shares() -> None:
    trunk = Trace(30 * PER_POSITION)
    feed(trunk, 10, 1.0)
    feed(trunk, 10, 2.0)
    branch = trunk.fork(20)
    for value in (3.0, 4.0):
        feed(branch, 17 if value > 3 else 8, value)
    assert branch.nbytes <= 30 * PER_POSITION
    assert trunk.nbytes == 10 * PER_POSITION  # 17 newest of the fork leave room for ten of the shared ones


def test_positions_that_a_fork_dropped_are_named() -> None:
    trunk = Trace(40 * PER_POSITION)
    feed(trunk, 10, 1.0)
    branch = trunk.fork(10)
    for _ in range(3):
        feed(branch, 17, 2.0)
    assert trunk.nbytes == 10 * PER_POSITION
    assert branch.queries(0, 0, 10, PATH).shape[1] == 10
    with pytest.raises(ViewUnavailableError, match="positions 10 to 43 were dropped") as caught:
        branch.queries(0, 0, 61, PATH)
    assert caught.value.first_recorded == 44


def test_positions_never_recorded_are_refused() -> None:
    with pytest.raises(ViewUnavailableError, match="not recorded"):
        Trace(1 << 30).queries(0, 0, 1, PATH)


def test_a_sequence_that_changed_rows_is_read_along_its_path() -> None:
    trace = Trace(1 << 30)
    feed(trace, 4, 1.0, batch=1)
    for step in range(6):
        feed(trace, 1, 10.0 * step, batch=3)
    path = Path(0, 0).moved(4, 2).moved(6, 1).moved(7, 2)
    assert path.rows(2, 9) == [0, 0, 2, 2, 1, 2, 2]
    assert trace.queries(1, 2, 9, path)[0, :, 0].tolist() == [1.0, 1.0, 2.0, 12.0, 21.0, 32.0, 42.0]
    assert trace.residuals(0, 5, 8, path)[:, 0].tolist() == [12.0, 21.0, 32.0]


def test_paths_part_where_their_rows_first_differ() -> None:
    trunk = Path(0, 0).moved(4, 1)
    a, b = trunk.moved(8, 2).moved(10, 3), trunk.moved(9, 0).moved(10, 3)
    assert a.parts_from(b, 12) == 8
    assert a.parts_from(a, 12) == 12
    assert trunk.parts_from(a, 6) == 6


def test_what_was_fed_in_vain_is_forgotten() -> None:
    trace = Trace(1 << 30)
    feed(trace, 40, 1.0)
    feed(trace, 1, 2.0)
    kept = trace.nbytes
    feed(trace, 5, 3.0)
    feed(trace, 3, 4.0)
    trace.crop(43)
    assert trace.stop == 43
    assert trace.queries(0, 39, 43, PATH)[0, :, 0].tolist() == [1.0, 2.0, 3.0, 3.0]
    trace.crop(41)
    assert trace.nbytes == kept
    feed(trace, 1, 5.0)
    assert trace.queries(0, 40, 42, PATH)[0, :, 0].tolist() == [2.0, 5.0]
