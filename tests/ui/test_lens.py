"""The lens card: questions at their pace, cells, norms, attribution, tables; with real clicks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.panels import lens
from app.panels.lens import LensPanel
from app.panels.lens_questions import ATTRIBUTION_SLOT, FILL_SLOT, LENS_SLOT, NORMS_SLOT, PORTION
from app.state import intents as i
from app.state.intents import AskView, SelectStep, SetFocus, WithdrawView
from app.theme import fonts
from app.widgets.lens_columns import LensColumns
from app.widgets.lens_table import HEAD_PX, LEFT_PX
from core.contract import AttributionQuery, LensQuery, NormsQuery, ViewStatus, WorkerState
from tests.ui import looking, synthetic
from tests.ui.harness import StillClock, clipped, driven

P = len(synthetic.PROMPT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    fake = StillClock()
    monkeypatch.setattr(lens, "time", fake)
    return fake


@pytest.fixture
def bench() -> synthetic.Bench:
    return synthetic.Bench(replace(synthetic.state(40), worker=WorkerState.PAUSED))


def make(qtbot: QtBot, bench: synthetic.Bench) -> LensPanel:
    fonts.load_fonts()
    panel = LensPanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(520, 420)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    QApplication.processEvents()
    panel.render(bench.state)
    return panel


def serve(panel: LensPanel, bench: synthetic.Bench, slot: str = LENS_SLOT) -> None:
    bench.answer(slot)
    panel.render(bench.state)


def fill(panel: LensPanel, bench: synthetic.Bench) -> None:
    while waiting := [
        s for s in (LENS_SLOT, FILL_SLOT) if bench.asked(s) and bench.state.asked[s].generation > panel._taken[s]
    ]:
        serve(panel, bench, waiting[0])


def page(qtbot: QtBot, panel: LensPanel, index: int) -> None:
    place = panel.tabs.tabRect(index).center()
    qtbot.mouseClick(panel.tabs, Qt.MouseButton.LeftButton, pos=place)


def test_the_shown_position_comes_first_then_what_is_in_view(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    assert bench.asked(LENS_SLOT) == [LensQuery(1, (P + 38, P + 39))]
    fill(panel, bench)
    visible = panel.table.visible_positions()
    assert visible.stop == P + 39
    assert set(visible) <= set(panel.columns.by_position)
    assert all(q.positions[1] - q.positions[0] <= PORTION for q in bench.asked(FILL_SLOT))
    count = len(bench.asked(FILL_SLOT))
    panel.table.horizontalScrollBar().setValue(3)
    assert len(bench.asked(FILL_SLOT)) == count + 1
    assert bench.asked(FILL_SLOT)[-1].positions[0] == 3
    assert len(bench.asked(LENS_SLOT)) == 1


def test_while_tokens_stream_it_asks_three_times_a_second(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.state = replace(bench.state, worker=WorkerState.DECODING)
    panel = make(qtbot, bench)
    serve(panel, bench)
    for _ in range(5):
        bench.grow(1)
        panel.render(bench.state)
    assert len(bench.asked(LENS_SLOT)) == 1
    clock.now += 0.34
    panel.render(bench.state)
    assert bench.asked(LENS_SLOT)[-1] == LensQuery(1, (P + 43, P + 44))
    assert all(q.positions[1] - q.positions[0] == 1 for q in bench.asked(FILL_SLOT))
    assert len(bench.asked(FILL_SLOT)) == 1


def test_a_moment_that_is_chosen_while_tokens_stream_does_not_wait_for_its_turn(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.state = replace(bench.state, worker=WorkerState.DECODING)
    panel = make(qtbot, bench)
    for step in (12, 13):  # the second one while the first one's question waits
        bench.dispatch(SelectStep(step))
        panel.render(bench.state)
        assert bench.intents[-1] == AskView(LENS_SLOT, LensQuery(1, (P + step - 1, P + step)), chosen=True)
        panel.render(bench.state)
    for index, slot in ((1, NORMS_SLOT), (2, ATTRIBUTION_SLOT)):
        page(qtbot, panel, index)
        asked = next(x for x in reversed(bench.intents) if isinstance(x, AskView))
        assert (asked.slot, asked.chosen) == (slot, True)


def test_cells_show_tokens_colours_and_where_the_model_commits(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    empty = panel.table.grab().toImage()
    fill(panel, bench)
    pictures = [empty]
    for by in ("probability", "rank", "KL"):
        (action,) = [a for a in panel.colour.menu().actions() if a.data() == by]
        action.trigger()
        pictures.append(panel.table.grab().toImage())
        assert panel.colour.key == by
    assert all(one != other for n, one in enumerate(pictures) for other in pictures[n + 1 :])
    assert panel.legend._ends == ("≥ 12 bits", "0")
    assert "is on top after layer 19 and later; there are 30 layers" in panel.describe()


def test_hovering_tells_the_top_five_escaped(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    fill(panel, bench)
    texts = [panel.table.tooltip(layer, P + 38) for layer in range(31)]
    assert all(text.count("<br>") >= 8 for text in texts)
    assert any("&lt;b&gt;" in text for text in texts)
    assert not any("<b>" in text for text in texts)
    assert "rank 20" in texts[0]
    assert "the input, before layer 0" in texts[0]  # row k is the stream after layer k - 1
    assert [f"after layer {k - 1}" in texts[k] for k in range(1, 31)] == [True] * 30
    assert panel.table.tooltip(3, 0) == ""  # not there yet


def test_a_click_on_a_column_selects_its_step_and_marks_it(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    fill(panel, bench)
    first = panel.table.visible_positions()[0]
    following = panel.table.grab().toImage()
    place = QPoint(LEFT_PX + 5, HEAD_PX + 40)
    qtbot.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert bench.intents[-1] == SelectStep(first - (P - 1))
    panel.render(bench.state)
    assert (panel.table._selected, panel.table._pinned) == (first, True)
    assert panel.table.grab().toImage() != following
    panel.table.horizontalScrollBar().setValue(0)
    panel.render(bench.state)
    bench.intents.clear()
    qtbot.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert SelectStep(-(P - 1)) in bench.intents  # a position of the prompt: the token that follows it
    panel.render(bench.state)
    assert (panel.table._selected, panel.table._pinned) == (0, True)


def test_norms_come_from_the_records_and_contributions_on_request(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    page(qtbot, panel, 1)
    assert bench.asked(NORMS_SLOT) == [NormsQuery(1, P + 38)]
    serve(panel, bench, NORMS_SLOT)
    assert len(panel.norms._series) == 3
    panel.add.click()
    assert bench.asked(NORMS_SLOT)[-1] == NormsQuery(1, P + 38, True)
    serve(panel, bench, NORMS_SLOT)
    assert len(panel.norms._series) == 5
    assert "attention" in panel.norms.tooltip(3)
    assert len(panel.norms._series[0].values) == 31


def test_attribution_is_of_the_chosen_token_and_a_head_can_be_looked_at(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.dispatch(SelectStep(12))
    panel = make(qtbot, bench)
    page(qtbot, panel, 2)
    run = bench.state.run
    assert run is not None
    assert bench.asked(ATTRIBUTION_SLOT) == [AttributionQuery(1, P + 11, run.step(12).token_id)]
    empty = panel.parts.grab().toImage()
    serve(panel, bench, ATTRIBUTION_SLOT)
    assert panel.parts.grab().toImage() != empty
    box, step = panel.parts._boxes()[1], panel.parts._column_px()
    place = QPoint(round(panel.parts._left_of(4) + 0.5 * step), round(box.top() + 2.5 * box.height() / 9))
    assert panel.parts.place_at(place.x(), place.y()) == (4, 2)
    assert panel.parts.tooltip(4, 2).startswith("layer 4, head 2: ")
    assert panel.parts.tooltip(-1, None).startswith("embedding: +0.50")
    qtbot.mouseClick(panel.parts, Qt.MouseButton.LeftButton, pos=place)
    assert bench.intents[-1] == SetFocus(4, 2)


def test_attribution_waits_while_tokens_stream(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    bench.state = replace(bench.state, worker=WorkerState.DECODING)
    panel = make(qtbot, bench)
    page(qtbot, panel, 2)
    assert bench.asked(ATTRIBUTION_SLOT) == []
    assert "pause" in panel.parts._empty[1]


def test_every_page_has_its_table(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    fill(panel, bench)
    panel.twins.button.click()
    assert panel.twins.tabs is not None
    lens_view = panel.twins.views[0]
    assert lens_view.rows.rowCount() == 31
    answer = panel.columns.by_position[P + 38]
    probabilities = [float(lens_view.rows.index(row, 2).data()) for row in range(31)]
    np.testing.assert_allclose(probabilities, np.exp(answer.logprob[:, 0]), atol=6e-4)
    for tab, slot in ((1, NORMS_SLOT), (2, ATTRIBUTION_SLOT)):
        panel.twins.tabs.setCurrentIndex(tab)
        serve(panel, bench, slot)
        assert panel.twins.views[tab].rows.rowCount() > 30
    panel.twins.tabs.setCurrentIndex(3)
    heads = panel.twins.views[3]
    assert heads.rows.rowCount() == 270
    heads.row_chosen.emit(0)
    assert isinstance(bench.intents[-1], SetFocus)


def test_dropped_records_are_told_and_fed_again_on_request(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    bench.decline(LENS_SLOT, "The records of the first 20 positions were dropped.", can_recompute=True)
    panel.render(bench.state)
    panel.render(bench.state)
    assert panel.table._message[0] == "The records of the first 20 positions were dropped."
    assert len(bench.asked(LENS_SLOT)) == 1  # it does not nag
    panel.again.click()
    assert bench.asked(LENS_SLOT)[-1] == LensQuery(1, (P + 38, P + 39), recompute=True)
    serve(panel, bench)
    assert not panel.again.isVisible()


def test_the_norms_of_dropped_records_are_fed_again_on_request(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    page(qtbot, panel, 1)
    bench.decline(NORMS_SLOT, "The records were dropped.", can_recompute=True)
    panel.render(bench.state)
    assert panel.again.isVisibleTo(panel.row)
    panel.again.click()
    assert bench.asked(NORMS_SLOT)[-1] == NormsQuery(1, P + 38, recompute=True)
    serve(panel, bench, NORMS_SLOT)
    assert not panel.again.isVisibleTo(panel.row)


def test_columns_whose_records_are_there_come_although_others_were_dropped(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    panel = make(qtbot, bench)
    serve(panel, bench)
    first = panel.table.visible_positions()[0]
    assert bench.asked(FILL_SLOT)[-1].positions[0] == first
    bench.decline(FILL_SLOT, "The records were dropped.", can_recompute=True, first_recorded=first + 2)
    panel.render(bench.state)
    assert bench.asked(FILL_SLOT)[-1].positions[0] == first + 2
    fill(panel, bench)
    assert set(range(first + 2, P + 39)) <= set(panel.columns.by_position)


def test_a_view_that_is_off_says_why_and_asks_nothing(qtbot: QtBot, clock: StillClock) -> None:
    info = replace(synthetic.model(), views=(ViewStatus("distribution", False, "The self-test failed."),))
    bench = synthetic.Bench(synthetic.state(20, info))
    panel = make(qtbot, bench)
    assert panel.table._message == ("The lens is not available for this model", "The self-test failed.")
    assert bench.intents == []


def test_hidden_it_withdraws_and_another_run_forgets(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    fill(panel, bench)
    panel.hidden()
    assert bench.intents[-1] == WithdrawView(LENS_SLOT)
    panel.render(replace(bench.state, run=None))
    assert panel.columns.by_position == {}
    assert "Ctrl+Enter" in panel.table._message[1]


def test_missing_columns_are_found_in_portions() -> None:
    columns = LensColumns()
    query = LensQuery(1, (3, 6))
    columns.take(looking.lens(query, synthetic.model(), 20))
    assert columns.missing(0, 20, 8) == (0, 3)
    assert columns.missing(3, 6, 8) is None
    assert columns.missing(4, 20, 8) == (6, 14)


def test_opened_they_share_the_place_of_the_heatmap_and_clip_nothing(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json", size=(1024, 640)) as one:
        one.do(i.Run())
        one.frames(6)
        for layout in ("attention", "everything", "sample", "cache"):
            one.do(i.SetLayout(layout))
            one.frames(3)
            for name in ("lens", "walk"):
                card = one.window.workspace.cards[name]
                assert not card.isVisible()
                card.toggleViewAction().trigger()
                one.frames(4)
                assert card.isVisible(), f"{name} in {layout}"
                assert one.window.workspace.rect().contains(card.geometry())
                assert clipped(card) == [], f"{name} in {layout}"


def test_no_page_pushes_the_other_cards_aside(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json", size=(1024, 640)) as one:
        one.do(i.Run())
        one.do(i.SetLayout("attention"))
        one.frames(4)
        one.window.workspace.cards["lens"].toggleViewAction().trigger()
        one.frames(4)
        panel, widths = one.panel("lens"), set()
        panel.add.setChecked(True)
        for index in range(3):
            panel.tabs.setCurrentIndex(index)
            one.frames(3)
            widths.add(one.window.workspace.cards["output"].width())
        assert len(widths) == 1


@pytest.mark.usefixtures("qapp")
def test_behind_another_tab_it_asks_nothing(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("attention"))
        one.frames(4)
        cards = one.window.workspace.cards
        for name in ("lens", "walk"):
            cards[name].toggleViewAction().trigger()
            one.frames(4)
        asked: list[str] = []
        one.window.workspace.cards["lens"].panel.dispatch = lambda intent: asked.append(type(intent).__name__)
        shown: list[object] = []
        cards["attention"].panel.render = shown.append  # type: ignore[method-assign]
        one.do(i.Run())
        one.frames(20)
        assert "AskView" not in asked
        assert shown == []
        cards["attention"].raise_()
        one.until(lambda: bool(shown))
        assert shown[-1].run is not None  # type: ignore[attr-defined]


def test_at_every_width_the_pages_name_what_they_draw(qtbot: QtBot, bench: synthetic.Bench, clock: StillClock) -> None:
    panel = make(qtbot, bench)
    panel.resize(375, 300)
    page(qtbot, panel, 1)
    panel.add.click()
    QApplication.processEvents()
    assert all(w.isVisible() for w in (panel.streams, panel.swatches, panel.add))
    page(qtbot, panel, 2)
    QApplication.processEvents()
    assert all(w.isVisible() for w in (panel.swatches, panel.rounded, panel.signs))


def test_heads_that_are_not_known_look_otherwise_and_between_has_its_bars(
    qtbot: QtBot, bench: synthetic.Bench, clock: StillClock
) -> None:
    bench.dispatch(SelectStep(12))
    panel = make(qtbot, bench)
    page(qtbot, panel, 2)
    serve(panel, bench, ATTRIBUTION_SLOT)
    answer = panel.parts_answer
    assert answer is not None
    before = panel.parts.grab().toImage()
    zeroed, unknown = answer.heads.copy(), answer.heads.copy()
    zeroed[3] = 0.0
    unknown[3] = np.nan
    pictures = [before]
    for heads in (zeroed, unknown):
        panel.parts.show_answer(replace(answer, heads=heads))
        pictures.append(panel.parts.grab().toImage())
    panel.parts.show_answer(replace(answer, between=np.full(len(answer.mlp), 0.5, np.float32)))
    pictures.append(panel.parts.grab().toImage())
    assert all(one != other for n, one in enumerate(pictures) for other in pictures[n + 1 :])
