"""The growing attention map: pooling, colours, layout. No Qt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.panels.attention_questions import LARGEST_ANSWER, LARGEST_BLOCK, focus_query, snapped, thumbnail_query
from app.state.run import RunView
from app.state.state import AttentionFocus
from app.theme.colormaps import sequential
from app.widgets.heat_geometry import END_PX, FEW_CELLS, LABEL_CELL_PX, extent, fit, tick_step
from app.widgets.heat_matrix import HeatMatrix, HeatPixels, levels, max_pool, packed, pool_factor
from app.widgets.thumbnails import grid, wanted_width
from core.trace.attention import joined_cells
from tests.ui import synthetic
from tests.ui.synthetic import attention_weights

BACKGROUND = (1, 2, 3)
LUT = packed(sequential(), BACKGROUND)


def run_view() -> RunView:
    """A run of a model with nine heads."""
    run = synthetic.state(1, synthetic.model()).run
    assert run is not None
    return run


def causal(weights: np.ndarray) -> np.ndarray:
    """NaN where the key comes after the query."""
    n = len(weights)
    weights = weights[:, :n].copy()
    weights[np.triu_indices(n, 1)] = np.nan
    return weights


def pooled(weights: np.ndarray, factor: int) -> np.ndarray:
    return max_pool(max_pool(weights, factor, axis=0), factor, axis=1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_rows_in_any_portions_give_the_pooled_whole(portions: list[int]) -> None:
    n = sum(portions)
    weights = attention_weights(n)
    matrix = HeatMatrix(cells=16)
    at = 0
    for count in portions:
        matrix.append(at, weights[at : at + count, : at + count])
        at += count
    assert matrix.rows == n
    assert matrix.factor == max(1, 1 << max(0, (-(-n // 16) - 1).bit_length()))
    np.testing.assert_array_equal(matrix.values, pooled(causal(weights), matrix.factor))


def test_rows_that_came_twice_are_skipped_and_gaps_refused() -> None:
    weights = attention_weights(10)
    matrix = HeatMatrix()
    matrix.append(0, weights[:6, :6])
    matrix.append(3, weights[3:8, :8])
    np.testing.assert_array_equal(matrix.values, causal(weights[:8]))
    with pytest.raises(ValueError, match="row 9 after 8 rows"):
        matrix.append(9, weights[9:, :])


def test_the_pixels_of_portions_are_the_pixels_of_the_whole() -> None:
    weights = attention_weights(90)
    matrix, pixels = HeatMatrix(), HeatPixels()
    for at in range(0, 90, 9):
        changed = matrix.append(at, weights[at : at + 9, : at + 9])
        side = pixels.update(matrix.values, changed, LUT, "sqrt", most=40)
    expected = LUT[levels(pooled(causal(weights), 3), "sqrt")]
    assert side == 30
    np.testing.assert_array_equal(pixels.buffer[:side, :side], expected)


def test_keys_after_the_query_have_the_background_colour() -> None:
    matrix, pixels = HeatMatrix(), HeatPixels()
    matrix.append(0, np.full((3, 3), 0.5, np.float32))
    pixels.update(matrix.values, 0, LUT, "linear", most=100)
    assert pixels.buffer[0, 2] == 0xFF010203
    assert pixels.buffer[2, 0] == LUT[128]


def test_scales_agree_at_their_ends() -> None:
    ends = np.array([0.0, 1.0, np.nan], np.float32)
    for scale in ("linear", "sqrt", "log"):
        np.testing.assert_array_equal(levels(ends, scale), [0, 255, 256])
    quarter = np.array([0.25], np.float32)
    assert levels(quarter, "sqrt") == 128
    assert levels(quarter, "linear") == 64


def test_few_tokens_get_labels_and_many_get_positions() -> None:
    assert fit(300, 300, 8).labelled
    assert fit(300, 300, 8).cell_px >= LABEL_CELL_PX
    assert not fit(300, 300, 60).labelled
    assert not fit(300, 300, 8, factor=2).labelled


@pytest.mark.parametrize("size", [(230, 268), (140, 150), (620, 500)])
@pytest.mark.parametrize("factor", [1, 4])
def test_a_map_of_many_cells_fills_its_square_and_stays_inside(size: tuple[int, int], factor: int) -> None:
    for n in range(1, 513):
        g = fit(*size, n, factor)
        right, bottom = g.left + g.cell_px * n, g.top + g.cell_px * n
        assert right <= size[0] - END_PX + 1e-6
        assert bottom <= size[1] + 1e-6
        if n > FEW_CELLS and not g.labelled:
            assert right >= size[0] - END_PX - 1 or bottom >= size[1] - 4
        assert g.cell_at(right - 0.01, bottom - 0.01) == (n - 1, n - 1)


def test_a_map_of_few_cells_has_whole_pixels_and_rarely_changes_its_scale() -> None:
    sizes = [fit(230, 268, n).cell_px for n in range(1, 41)]
    whole = [px for px in sizes if px == int(px)]
    assert len(whole) > 30
    assert len(set(sizes)) < 24


@given(st.integers(1, 100_000))
def test_the_extent_is_never_much_larger_than_needed(n: int) -> None:
    assert n <= extent(n) <= max(n + 4, n * 1.13)


def test_ticks_are_round_and_apart() -> None:
    assert [tick_step(px, 34.0) for px in (40.0, 4.0, 0.4, 0.04)] == [1, 10, 100, 1000]


def test_only_missing_rows_are_asked_for_and_long_prompts_come_pooled() -> None:
    focus = AttentionFocus(3, 4)
    assert focus_query(run_view(), focus, 10, 10) is None
    query = focus_query(run_view(), focus, 10, 13)
    assert query is not None
    assert (query.rows, query.heads, query.reduce, query.layer) == ((10, None), (4,), None, 3)
    first = focus_query(run_view(), AttentionFocus(0, "max"), 0, 8000)
    assert first is not None
    assert (first.heads, first.reduce, first.rows[0]) == (None, "max", 0)
    one = focus_query(run_view(), focus, 0, 8000)
    assert one is not None
    assert (one.rows, one.pool) == ((0, 8000), (500, 500))
    several = focus_query(run_view(), AttentionFocus(0, "mean", (1, 3)), 0, 8000)
    assert several is not None
    assert (several.heads, several.reduce) == ((1, 3), "mean")
    more = focus_query(run_view(), focus, 4000, 8000)
    assert more is not None
    assert more.pool is None
    assert more.rows[1] is not None
    assert (more.rows[1] - 4000) * 8000 <= LARGEST_ANSWER


@given(st.integers(600, 9000), st.sampled_from([0, 512, 1000]))
@settings(max_examples=40, deadline=None)
def test_a_long_map_of_joined_heads_is_asked_for_block_by_block(fed: int, origin: int) -> None:
    span = snapped(origin if fed > 2 * origin else 0, None, fed)
    origin, factor, have, asked = span[0], pool_factor(fed - span[0]), 0, []
    run, focus = run_view(), AttentionFocus(3, "mean")
    while (query := focus_query(run, focus, have, fed, span=span)) is not None:
        start, stop = query.rows[0], fed if query.rows[1] is None else query.rows[1]
        assert start == origin + have < stop
        work = (stop - start) * stop * run.model.heads
        asked.append(work)
        if query.pool is None:
            assert (stop - start) * fed <= max(LARGEST_ANSWER, 16 * fed)
        else:
            assert joined_cells(stop - start, stop, query.pool) == (factor, factor)
            assert work <= LARGEST_BLOCK or stop - start == factor
        have = stop - origin
    assert have == fed - origin
    assert len(asked) > 1 or sum(asked) <= LARGEST_BLOCK


@given(st.integers(40, 400), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_blocks_of_cells_give_the_pooled_whole(rows: int, blocks: list[int], more: int) -> None:
    factor = pool_factor(rows, 32)
    weights = np.tril(np.random.default_rng(rows).random((rows, rows), dtype=np.float32))
    whole, later = HeatMatrix(cells=32), HeatMatrix(cells=32)
    whole.append(0, weights)
    stop = 0
    for size in blocks:
        start, stop = stop, min(stop + size * factor, rows - rows % factor)
        if stop > start:
            changed = later.append_cells(pooled(weights[start:stop, :stop], factor), stop, factor)
            assert changed == start // factor
    later.append(stop, weights[stop:])
    assert later.factor == whole.factor
    np.testing.assert_array_equal(later.values, whole.values)
    with pytest.raises(ValueError, match="cells up to"):
        later.append_cells(np.zeros((1, 1), np.float32), rows + more * factor, factor)


def test_a_map_that_came_finer_is_joined_before_blocks_of_larger_cells() -> None:
    weights = np.tril(np.random.default_rng(1).random((64, 64), dtype=np.float32))
    matrix, whole = HeatMatrix(cells=16), HeatMatrix(cells=16)
    matrix.append(0, weights[:32])
    assert matrix.factor == 2
    assert matrix.append_cells(pooled(weights[32:], 4), 64, 4) == 0
    whole.append(0, weights)
    np.testing.assert_array_equal(matrix.values, whole.values)


def test_a_range_asks_for_its_own_rows_and_begins_where_cells_do() -> None:
    focus = AttentionFocus(3, 4)
    part = focus_query(run_view(), focus, 5, 300, span=(100, 200))
    assert part is not None
    assert part.rows == (105, 200)
    assert focus_query(run_view(), focus, 100, 300, span=(100, 200)) is None
    assert snapped(1001, None, 5000) == (1000, None)
    assert snapped(7, 90, 5000) == (7, 90)
    long = focus_query(run_view(), focus, 0, 5000, span=snapped(1001, None, 5000))
    assert long is not None
    assert (long.rows, long.pool) == ((1000, 5000), (500, 625))


@given(st.integers(513, 3000), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_a_pooled_map_grows_like_one_that_came_row_by_row(rows: int, more: int) -> None:
    factor = pool_factor(rows, 64)
    rng = np.random.default_rng(rows)
    weights = np.tril(rng.random((rows + more, rows + more), dtype=np.float32))
    whole, later = HeatMatrix(cells=64), HeatMatrix(cells=64)
    whole.append(0, weights)
    cells = max_pool(max_pool(weights[:rows, :rows], factor, axis=0), factor, axis=1)
    later.set_cells(cells, rows, factor)
    later.append(rows, weights[rows:])
    assert later.factor == whole.factor
    np.testing.assert_array_equal(later.values, whole.values)


def test_thumbnails_are_asked_for_visible_layers_that_are_out_of_date() -> None:
    query = thumbnail_query(run_view(), range(2, 6), {2: 40, 3: 50, 5: 50}, 50)
    assert query is not None
    assert query.layers == (2, 4)
    assert thumbnail_query(run_view(), range(2, 4), {2: 50, 3: 50}, 50) is None


def test_thumbnails_are_sixteen_pixels_where_they_fit() -> None:
    width = wanted_width(9, 400)
    assert grid(width, 300, 9, 30).pitch == 34
    assert grid(wanted_width(9, 200), 300, 9, 30) == grid(194, 300, 9, 30)
    assert grid(194, 300, 9, 30).pitch == 18
    narrow = grid(200, 300, 32, 32)
    assert narrow.pitch == 8
    assert narrow.columns < 32


def test_a_long_context_takes_its_thumbnails_in_several_questions_the_oldest_first() -> None:
    first = thumbnail_query(run_view(), range(13), {0: 600, 1: 600}, 646)
    assert first is not None
    assert first.layers == (2,)
    later = thumbnail_query(run_view(), range(3), {0: 640, 1: 600, 2: 646}, 646)
    assert later is not None
    assert later.layers == (1,)
