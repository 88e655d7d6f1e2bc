"""The attention panel: which questions it asks, when, and what it shows of the answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.panels import attention
from app.panels.attention import AttentionPanel
from app.panels.attention_questions import FOCUS_SLOT, HEADS_SLOT, THUMBNAILS_SLOT
from app.state import select
from app.state.intents import SelectStep, SetFocus, WithdrawView
from app.state.state import AttentionFocus
from app.theme import fonts
from app.widgets.heat_matrix import HeatMatrix
from core.contract import AttentionQuery, HeadsQuery, ThumbnailQuery, ViewStatus, WorkerState
from tests.ui import synthetic
from tests.ui.harness import StillClock

P = len(synthetic.PROMPT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    fake = StillClock()
    monkeypatch.setattr(attention, "time", fake)
    return fake


@pytest.fixture
def bench() -> synthetic.Bench:
    return synthetic.Bench(replace(synthetic.state(40), focus=AttentionFocus(11, 4)))


def make(qtbot: QtBot, bench: synthetic.Bench) -> AttentionPanel:
    fonts.load_fonts()
    panel = AttentionPanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(422, 290)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    QApplication.processEvents()  # the first render gives the thumbnails their width
    return panel


def serve(panel: AttentionPanel, bench: synthetic.Bench) -> None:
    bench.answer(FOCUS_SLOT)
    panel.render(bench.state)


def test_only_the_missing_rows_are_asked_for(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    bench.grow(5)
    panel.render(bench.state)
    serve(panel, bench)
    first, second = bench.asked(FOCUS_SLOT)
    assert first == AttentionQuery(1, 11, (4,), None, rows=(0, None))
    assert second == AttentionQuery(1, 11, (4,), None, rows=(P + 39, None))
    expected = synthetic.attention_weights(P + 44, seed=14)[-5:]
    np.testing.assert_array_equal(np.nan_to_num(panel.matrix.values[-5:]), expected)


def test_one_question_at_a_time(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    for _ in range(4):
        bench.grow(1)
        panel.render(bench.state)
    assert len(bench.asked(FOCUS_SLOT)) == 1
    assert len(bench.asked(THUMBNAILS_SLOT)) == 1


def test_another_head_starts_over_at_once(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    bench.dispatch(SetFocus(3, "max"))
    panel.render(bench.state)
    assert bench.asked(FOCUS_SLOT)[-1] == AttentionQuery(1, 3, None, "max", rows=(0, None))
    assert panel.matrix.rows == 0
    assert panel.head.text().startswith("head max")


def test_a_late_answer_for_another_head_is_not_shown(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    bench.answer(FOCUS_SLOT)
    bench.dispatch(SetFocus(3, 1))
    panel.render(bench.state)
    assert panel.matrix.rows == 0


def test_a_long_prompt_arrives_pooled_and_grows_row_by_row(qtbot: QtBot, clock: StillClock) -> None:
    bench = synthetic.Bench(replace(synthetic.state(1400), focus=AttentionFocus(11, 4)))
    panel = make(qtbot, bench)
    serve(panel, bench)
    assert (panel.matrix.rows, panel.matrix.factor) == (bench.fed(), 4)
    bench.grow(7)
    panel.render(bench.state)
    serve(panel, bench)
    assert panel.matrix.rows == bench.fed()
    assert [q.rows for q in bench.asked(FOCUS_SLOT) if isinstance(q, AttentionQuery)] == [(0, 1409), (1409, None)]


def test_the_mean_of_many_heads_grows_block_by_block(qtbot: QtBot, clock: StillClock) -> None:
    bench = synthetic.Bench(synthetic.state(2400))
    bench.dispatch(SetFocus(3, "mean"))
    panel = make(qtbot, bench)
    shown = []
    while panel.matrix.rows < bench.fed():
        bench.answer(FOCUS_SLOT)
        panel.render(bench.state)
        shown.append(panel.matrix.rows)
    assert len(shown) > 3
    assert sorted(set(shown)) == shown
    expected = HeatMatrix()
    expected.append(0, synthetic.attention_weights(bench.fed(), seed=6))
    assert panel.matrix.factor == expected.factor == 8
    np.testing.assert_array_equal(panel.matrix.values, expected.values)


def test_ctrl_clicks_join_heads_and_the_choice_says_which(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    pitch, row = panel.thumbnails._grid.pitch, 11 - panel.thumbnails.first
    for head in (2, 7):
        place = QPoint(22 + head * pitch + 5, 16 + row * pitch + 5)
        qtbot.mouseClick(
            panel.thumbnails.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ControlModifier, place
        )
        panel.render(bench.state)
    assert bench.state.focus == AttentionFocus(11, "mean", (2, 4, 7))
    assert bench.asked(FOCUS_SLOT)[-1] == AttentionQuery(1, 11, (2, 4, 7), "mean", rows=(0, None))
    assert panel.head.text().startswith("head mean of 2, 4, 7")
    panel._focus(head="max")
    assert bench.state.focus == AttentionFocus(11, "max", (2, 4, 7))
    panel._focus(head=3)
    assert bench.state.focus == AttentionFocus(11, 3)


def test_a_drag_over_rows_looks_at_these_and_the_choice_goes_back(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    g = panel.heatmap._geometry
    start, end = (QPoint(round(g.left + 2), round(g.top + (row + 0.5) * g.cell_px)) for row in (10, 30))
    qtbot.mousePress(panel.heatmap, Qt.MouseButton.LeftButton, pos=start)
    qtbot.mouseMove(panel.heatmap, end)
    qtbot.mouseRelease(panel.heatmap, Qt.MouseButton.LeftButton, pos=end)
    assert not [i for i in bench.intents if isinstance(i, SelectStep)]
    assert panel.range.text().startswith("positions 10 – 31")
    assert bench.asked(FOCUS_SLOT)[-1] == AttentionQuery(1, 11, (4,), None, rows=(10, 31))
    serve(panel, bench)
    assert panel.matrix.rows == 21
    whole = synthetic.attention_weights(P + 39, seed=14)
    assert panel.matrix.at(5, 3) == pytest.approx(whole[15, 13])
    assert "at 15" in panel.heatmap.tooltip(15, 13)
    (first,) = [a for a in panel.range.menu().actions() if a.data() == "all"]
    first.trigger()
    assert bench.asked(FOCUS_SLOT)[-1] == AttentionQuery(1, 11, (4,), None, rows=(0, None))


def test_heads_are_summed_up_once_the_maps_are_there_and_marked(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.state = replace(bench.state, worker=WorkerState.PAUSED)
    panel = make(qtbot, bench)
    bench.answer(THUMBNAILS_SLOT)
    panel.render(bench.state)
    while any(layer not in panel._seen for layer in panel.thumbnails.visible_layers()):
        bench.answer(THUMBNAILS_SLOT)
        panel.render(bench.state)
    before = panel.thumbnails.grab().toImage()
    (query,) = bench.asked(HEADS_SLOT)
    assert isinstance(query, HeadsQuery)
    bench.answer(HEADS_SLOT)
    panel.render(bench.state)
    layer = query.layers[0]
    letters = panel.thumbnails._kinds
    assert [letters.get((layer, head)) for head in range(4)] == ["S", "P", "I", None]
    assert panel.thumbnails.grab().toImage() != before
    assert "induction 0.600" in panel.thumbnails.tooltip(layer, 2)
    panel.twins.button.click()
    assert panel.twins.tabs is not None
    panel.twins.tabs.setCurrentIndex(1)
    table = panel.twins.views[1].rows.table
    assert [table.columns[2].cell(row) for row in range(3)] == ["sink", "previous token", "induction"]
    panel.twins.views[1].row_chosen.emit(2)
    assert bench.intents[-1] == SetFocus(sorted(panel.summaries.by_layer)[0], 2)


def test_thumbnails_are_asked_less_often_while_decoding(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    bench.answer(THUMBNAILS_SLOT)
    bench.grow(3)
    panel.render(bench.state)
    assert len(bench.asked(THUMBNAILS_SLOT)) == 1
    clock.now += 1.0
    panel.render(bench.state)
    query = bench.asked(THUMBNAILS_SLOT)[-1]
    assert query == ThumbnailQuery(1, tuple(panel.thumbnails.visible_layers()))
    bench.answer(THUMBNAILS_SLOT)
    bench.grow(3)
    bench.state = replace(bench.state, worker=WorkerState.PAUSED)
    panel.render(bench.state)
    assert len(bench.asked(THUMBNAILS_SLOT)) == 3


def test_scrolling_asks_for_the_layers_that_came_into_view(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    bench.answer(THUMBNAILS_SLOT)
    panel.render(bench.state)
    shown = len(panel.thumbnails.visible_layers())
    panel.thumbnails.verticalScrollBar().setValue(panel.thumbnails.first + 2)
    query = bench.asked(THUMBNAILS_SLOT)[-1]
    assert isinstance(query, ThumbnailQuery)
    assert len(query.layers) == 2
    first = panel.thumbnails.first
    assert panel.caption.text() == f"layers {first}–{first + shown - 1} of 30, 9 heads"


def test_a_click_on_a_thumbnail_focuses_the_head(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    pitch = panel.thumbnails._grid.pitch
    place = QPoint(22 + 2 * pitch + 5, 16 + 1 * pitch + 5)
    qtbot.mouseClick(panel.thumbnails.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert bench.intents[-1] == SetFocus(panel.thumbnails.first + 1, 2)


def test_a_click_on_a_row_selects_its_step(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    g = panel.heatmap._geometry
    row = P - 1 + 12
    place = QPoint(round(g.left + 3 * g.cell_px), round(g.top + (row + 0.5) * g.cell_px))
    qtbot.mouseClick(panel.heatmap, Qt.MouseButton.LeftButton, pos=place)
    assert bench.intents[-1] == SelectStep(12)
    prompt_row = QPoint(round(g.left + 1), round(g.top + 1.5 * g.cell_px))
    qtbot.mouseClick(panel.heatmap, Qt.MouseButton.LeftButton, pos=prompt_row)
    asked = bench.intents[-1]
    assert isinstance(asked, SelectStep)
    panel.render(bench.state)
    assert asked.index is not None
    assert panel.heatmap._row == select.shown_position(bench.state) == P - 1 + asked.index


def test_hovering_tells_query_key_and_weight_escaped(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    run = bench.state.run
    assert run is not None
    run.columns.snapshots[3] = replace(run.columns.snapshots[3], piece=" <b>")
    panel = make(qtbot, bench)
    serve(panel, bench)
    text = panel.heatmap.tooltip(P + 5, P + 3)
    assert "&lt;b&gt;" in text
    assert f"weight {panel.matrix.at(P + 5, P + 3):.4f}" in text


def test_the_selected_row_is_framed_and_the_newest_has_a_dot(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    assert (panel.heatmap._row, panel.heatmap._pinned) == (P - 1 + 39, False)
    following = panel.heatmap.grab().toImage()
    bench.dispatch(SelectStep(12))
    panel.render(bench.state)
    assert (panel.heatmap._row, panel.heatmap._pinned) == (P - 1 + 12, True)
    assert panel.heatmap.grab().toImage() != following
    assert "attends most to" in panel.accessibleDescription()


def test_scales_change_the_colours_and_the_legend(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    pictures = []
    for scale in ("sqrt", "linear", "log"):
        panel._set_scale(scale)
        pictures.append(panel.heatmap.grab().toImage())
    assert pictures[0] != pictures[1]
    assert pictures[1] != pictures[2]
    assert panel.legend._ends == ("0.0001", "1 log")


def test_a_dropped_record_is_told_in_place_and_can_be_recomputed(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    bench.decline(FOCUS_SLOT, "The records of positions 0 to 9 were dropped.", can_recompute=True)
    panel.render(bench.state)
    assert panel.heatmap._message[0] == "The records of positions 0 to 9 were dropped."
    assert panel.recompute.isVisible()
    bench.grow(1)
    panel.render(bench.state)
    assert len(bench.asked(FOCUS_SLOT)) == 1  # it does not nag
    panel.recompute.click()
    query = bench.asked(FOCUS_SLOT)[-1]
    assert isinstance(query, AttentionQuery)
    assert query == AttentionQuery(1, 11, (4,), None, rows=(0, None), recompute=True)
    serve(panel, bench)
    assert panel.matrix.rows == bench.fed()
    assert not panel.recompute.isVisible()


def test_rows_whose_records_are_there_are_shown_at_once(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    bench.decline(FOCUS_SLOT, "The records of the first 20 positions were dropped.", True, first_recorded=20)
    panel.render(bench.state)
    assert bench.asked(FOCUS_SLOT)[-1] == AttentionQuery(1, 11, (4,), None, rows=(20, None))
    serve(panel, bench)
    assert panel.matrix.rows == bench.fed()
    assert np.isnan(panel.matrix.values[:20]).all()
    assert panel.matrix.values[20, :21] == pytest.approx(synthetic.attention_weights(bench.fed(), 14)[20, :21])
    assert panel.recompute.isVisible()
    panel.recompute.click()
    while panel.matrix.rows < bench.fed():
        serve(panel, bench)
    assert not np.isnan(panel.matrix.values[:, 0]).any()
    assert not panel.recompute.isVisible()


def test_small_maps_begin_where_the_records_do(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    bench.state = replace(bench.state, worker=WorkerState.READY)
    bench.decline(THUMBNAILS_SLOT, "The records of the first 20 positions were dropped.", True, first_recorded=20)
    panel.render(bench.state)
    assert bench.asked(THUMBNAILS_SLOT)[-1].span == (20, None)  # type: ignore[union-attr]
    bench.decline(THUMBNAILS_SLOT, "All records were dropped.", True, first_recorded=bench.fed())
    panel.render(bench.state)
    assert len(bench.asked(THUMBNAILS_SLOT)) == 2


def test_what_heads_do_can_be_recomputed_where_its_records_are_gone(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.state = replace(bench.state, worker=WorkerState.READY)
    panel = make(qtbot, bench)
    bench.answer(FOCUS_SLOT)
    bench.decline(THUMBNAILS_SLOT, "All records were dropped.", True, first_recorded=bench.fed())
    panel.render(bench.state)
    assert bench.asked(HEADS_SLOT) == []
    assert panel.recompute.isVisible()
    qtbot.mouseClick(panel.recompute, Qt.MouseButton.LeftButton)
    for _ in range(4):
        if select.is_waiting(bench.state, THUMBNAILS_SLOT):
            bench.decline(THUMBNAILS_SLOT, "All records were dropped.", True, first_recorded=bench.fed())
        bench.answer(FOCUS_SLOT)
        panel.render(bench.state)
    (query,) = bench.asked(HEADS_SLOT)
    assert isinstance(query, HeadsQuery)
    assert (query.recompute, query.rows) == (True, (0, None))
    bench.answer(HEADS_SLOT)
    panel.render(bench.state)
    assert set(panel.summaries.by_layer) == set(query.layers)
    assert not panel.recompute.isVisible()


def test_recomputing_a_long_head_asks_in_small_portions(qtbot: QtBot, clock: StillClock) -> None:
    bench = synthetic.Bench(replace(synthetic.state(200), focus=AttentionFocus(11, 4)))
    panel = make(qtbot, bench)
    bench.decline(FOCUS_SLOT, "The records of the first 20 positions were dropped.", can_recompute=True)
    panel.render(bench.state)
    panel.recompute.click()
    while panel.matrix.rows < bench.fed():
        serve(panel, bench)
    asked = [q.rows for q in bench.asked(FOCUS_SLOT)[1:] if isinstance(q, AttentionQuery)]
    assert asked == [(0, 64), (64, 128), (128, 192), (192, None)]


def test_a_view_that_is_off_says_why_and_asks_nothing(qtbot: QtBot, clock: StillClock) -> None:
    info = replace(synthetic.model(), views=(ViewStatus("attention", False, "The self-test failed."),))
    bench = synthetic.Bench(synthetic.state(20, info))
    panel = make(qtbot, bench)
    assert panel.heatmap._message == ("Attention is not available for this model", "The self-test failed.")
    assert bench.intents == []
    assert not panel.thumbnails.isVisible()
    QApplication.processEvents()  # what is hidden takes no room any more


def test_hidden_it_withdraws_its_questions(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    panel.hidden()
    assert bench.intents[-2:] == [WithdrawView(FOCUS_SLOT), WithdrawView(THUMBNAILS_SLOT)]


def test_another_run_forgets_the_maps(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    other = synthetic.state(4).run
    assert other is not None
    other = replace(other, started=replace(other.started, run_id=2))
    panel.render(replace(bench.state, run=other, asked={}, answers={}))
    assert panel.matrix.rows == 0
    assert len(panel._labels) == P + 4


def test_without_a_run_it_says_what_will_come(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, synthetic.Bench(replace(bench.state, run=None)))
    assert "Ctrl+Enter" in panel.heatmap._message[1]
    assert panel.describe() == "No attention yet."
