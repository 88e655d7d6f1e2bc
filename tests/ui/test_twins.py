"""Every plot has a table that says the same, reached from its title bar, filled only while it is shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from app.panels import tables
from app.state import intents as i
from app.state import select
from app.theme import fonts
from app.widgets import candidate_rows, numbers
from app.widgets.attribution_plot import AttributionPlot
from app.widgets.beam_lanes import BeamLanes
from app.widgets.candidate_bars import CandidateBars
from app.widgets.card import Card
from app.widgets.detail_rows import DetailRows
from app.widgets.focus_ring import FocusRing
from app.widgets.heatmap import Heatmap
from app.widgets.layer_bars import LayerBars
from app.widgets.lens_table import LensTable
from app.widgets.needle import DrawNeedle
from app.widgets.row_list import RowList
from app.widgets.series_plot import SeriesPlot
from app.widgets.table_data import Column, Order, Table
from app.widgets.table_view import TableView
from app.widgets.thumbnails import Thumbnails
from app.widgets.token_flow import TokenFlow
from app.widgets.twin import TwinStack
from app.widgets.waterfall_rows import WaterfallRows
from tests.ui import synthetic
from tests.ui.harness import Driven, driven

PLOTS = (TokenFlow, CandidateBars, DrawNeedle, Heatmap, Thumbnails, LayerBars, SeriesPlot)
LATER = (WaterfallRows, BeamLanes, RowList, DetailRows, LensTable, AttributionPlot)


def plots_of(root: QWidget) -> list[QWidget]:
    """The plots of the cards that are open."""
    cards = [card for card in root.findChildren(Card) if card.isVisible()]
    return [w for kind in PLOTS for card in cards for w in card.findChildren(kind)]


def stack_of(plot: QWidget) -> TwinStack:
    parent = plot.parentWidget()
    while parent is not None and not isinstance(parent, TwinStack):
        parent = parent.parentWidget()
    assert isinstance(parent, TwinStack), f"{type(plot).__name__} stands in no stack with a table"
    return parent


def turn_to(plot: QWidget) -> TableView:
    stack = stack_of(plot)
    stack.button.setChecked(True)
    if stack.tabs is not None:
        stack.tabs.setCurrentIndex(stack.twin_of(plot))
    return stack.views[stack.twin_of(plot)]


def cells(view: TableView, title: str) -> list[str]:
    titles = [c.title for c in view.rows.table.columns]
    column = titles.index(title)
    return [view.rows.index(row, column).data() for row in range(view.rows.rowCount())]


def ran(one: Driven) -> None:
    one.do(i.Run())
    one.until(lambda: one.state.run is not None and one.state.run.finish is not None)
    one.do(i.SelectStep(2))
    one.frames(8)


@pytest.mark.usefixtures("qapp")
def test_every_plot_has_a_twin_with_its_numbers(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        ran(one)
        run = one.state.run
        assert run is not None
        step = run.step(2)
        plots = plots_of(one.window)
        assert {type(p) for p in plots} == set(PLOTS)
        found = {}
        for plot in plots:
            view = turn_to(plot)
            one.frames(8)
            assert view.isVisible()
            assert view.rows.rowCount() > 0, type(plot).__name__
            found[plot.accessibleName()] = view
        tokens, timeline = found["Output tokens"], found["Timeline of entropy, surprisal and time per token"]
        assert cells(tokens, "probability") == [numbers.probability(p) for p in select.probability(run)]
        plotted = one.panel("timeline").plot._series[0]
        assert cells(timeline, "entropy, bits") == [f"{v * plotted.scale:.2f}" for v in plotted.values]
        rows = one.panel("candidates").bars._rows
        assert cells(found["Candidates of the shown step"], "final") == [numbers.probability(r.final) for r in rows]
        heatmap = found["Attention of the chosen layer and head, queries down, keys across"]
        query = select.query_position(run, 2)
        matrix = one.panel("attention").matrix
        assert cells(heatmap, "weight") == [f"{matrix.at(query, key):.4f}" for key in range(query + 1)]
        layers = found["Cache bytes by layer"]
        one.panel("cache").twins.tabs.setCurrentIndex(0)
        one.frames()
        assert cells(layers, "K used, B") == [f"{n:,}" for n in step.cache.key_used_bytes.tolist()]
        growth = found["Growth of the cache over the steps"]
        assert cells(growth, "used, B") == [f"{n:,}" for n in run.column("used_bytes").tolist()]


@pytest.mark.usefixtures("qapp")
def test_the_plots_of_cards_that_are_closed_at_first_have_twins_too(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        ran(one)
        for card in one.window.workspace.cards.values():
            if not card.isVisible():
                card.toggleViewAction().trigger()
        one.frames(2)
        cards = one.window.workspace.cards.values()
        plots = [w for kind in LATER for card in cards for w in card.panel.findChildren(kind)]
        assert {type(plot) for plot in plots} == set(LATER)
        for plot in plots:
            stack = stack_of(plot)
            name = stack.twins[stack.twin_of(plot)].name
            assert name, type(plot).__name__
            turn_to(plot)
            one.frames(2)
            shown = stack.views[stack.twin_of(plot)]
            assert shown.accessibleName() == name
            assert shown.accessibleDescription()


@pytest.mark.usefixtures("qapp")
def test_every_view_has_a_name_a_description_and_the_focus(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        for finished in (False, True):
            if finished:
                ran(one)
            for plot in plots_of(one.window):
                face = QAccessible.queryAccessibleInterface(plot)
                assert face.text(QAccessible.Text.Name), type(plot).__name__
                assert face.text(QAccessible.Text.Description), plot.accessibleName()
                if not isinstance(plot, DrawNeedle):  # belongs to the bars above it
                    assert plot.focusPolicy() == Qt.FocusPolicy.StrongFocus, plot.accessibleName()
        flow = one.panel("output").flow
        assert flow.accessibleDescription().startswith("Token 2 of ")


@pytest.mark.usefixtures("qapp")
def test_tables_cost_nothing_while_the_plots_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("output_table", "timeline_table", "candidates_table", "layers_table", "growth_table"):
        real = getattr(tables, name)

        def spy(*args: object, real: object = real, name: str = name) -> Table:
            made.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(tables, name, spy)
    with driven(tmp_path / "settings.json") as one:
        ran(one)
        assert made == []
        shown = [card for card in one.window.findChildren(Card) if card.isVisible()]
        assert [view for card in shown for view in card.findChildren(TableView)] == []
        one.panel("timeline").twins.button.setChecked(True)
        one.do(i.SelectStep(1))
        one.frames(3)
        assert set(made) == {"timeline_table"}


@pytest.mark.usefixtures("qapp")
def test_a_card_keeps_its_table_over_runs_and_layouts(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        ran(one)
        one.panel("timeline").twins.button.setChecked(True)
        one.do(i.SetLayout("cache"))
        one.frames(2)
        ran(one)
        assert one.panel("timeline").twins.shown == 0
        assert one.panel("cache").twins.shown is None


def test_the_button_turns_the_card_over_by_keyboard_and_rows_select_steps(qtbot: QtBot, tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        ran(one)
        twins = one.panel("timeline").twins
        assert twins.button.focusPolicy() & Qt.FocusPolicy.TabFocus
        qtbot.keyClick(twins.button, Qt.Key.Key_Space)
        one.frames(2)
        (view,) = twins.views
        assert view.currentIndex().row() == 2
        qtbot.keyClick(view, Qt.Key.Key_Down)
        assert one.state.selected == 3
        qtbot.keyClick(twins.button, Qt.Key.Key_Space)
        assert one.panel("timeline").plot.isVisible()


def test_a_focus_ring_comes_with_the_keyboard_and_not_with_the_mouse(qtbot: QtBot) -> None:
    fonts.load_fonts()
    bars = CandidateBars()
    qtbot.addWidget(bars)
    ring = FocusRing(bars)
    bars.show()
    bars.activateWindow()
    qtbot.waitUntil(bars.isActiveWindow)
    bars.clearFocus()
    bars.setFocus(Qt.FocusReason.TabFocusReason)
    assert ring.isVisible()
    bars.resize(333, 222)
    assert ring.size() == bars.size()
    corner = bars.grab().toImage().pixelColor(bars.width() // 2, 0)
    assert corner != bars.grab().toImage().pixelColor(bars.width() // 2, 6)
    bars.clearFocus()
    assert not ring.isVisible()
    bars.setFocus(Qt.FocusReason.MouseFocusReason)
    assert not ring.isVisible()


@pytest.mark.usefixtures("qapp")
@pytest.mark.parametrize("size", [(1440, 900), (1024, 640)])
def test_no_control_of_a_title_bar_gives_way_when_its_texts_come(tmp_path: Path, size: tuple[int, int]) -> None:
    with driven(tmp_path / "settings.json", size=size) as one:
        ran(one)
        for layout, colour in (("everything", "probability"), ("everything", "surprisal"), ("attention", "rank")):
            one.do(i.SetLayout(layout))
            one.do(i.SetColour(colour))
            one.frames(3)
            for name in ("output", "timeline", "candidates", "attention", "cache"):
                panel = one.panel(name)
                if not panel.isVisible():
                    continue
                for widget in (*panel.header_widgets(), *panel.header_right_widgets()):
                    if widget is not getattr(panel, "progress", None) or size[0] > 1024:
                        assert widget.isVisible(), f"{layout}, {name}: {type(widget).__name__} with {colour}"


# the table itself


def table(rows: int, key: object = 1) -> Table:
    values = np.array([3.0, 1.0, np.nan, 2.0, 2.0, 0.0])[:rows]
    words = ["c", "B", "x", "a", "A", "z"][:rows]
    return Table((Column("n", values, lambda v: f"{v:g}", 10.0), Column("w", words, numeric=False)), rows, key)


def test_orders_are_stable_and_put_missing_numbers_last() -> None:
    one = table(6)
    assert Order(0, False).of(one).tolist() == [5, 1, 3, 4, 0, 2]
    assert Order(0, True).of(one).tolist() == [0, 3, 4, 1, 5, 2]
    assert [one.columns[1].cell(r) for r in Order(1, False).of(one)] == ["a", "A", "B", "c", "x", "z"]


@pytest.fixture
def view(qtbot: QtBot) -> TableView:
    fonts.load_fonts()
    shown = TableView("numbers")
    qtbot.addWidget(shown)
    shown.resize(300, 120)
    with qtbot.waitExposed(shown):
        shown.show()
    return shown


def test_a_click_on_a_title_sorts_and_the_third_gives_the_order_back(qtbot: QtBot, view: TableView) -> None:
    view.show_table(table(6))
    head = view.horizontalHeader()
    seen = []
    for _ in range(3):
        place = head.viewport().rect().topLeft()
        place.setX(head.sectionViewportPosition(0) + 10)
        place.setY(8)
        qtbot.mouseClick(head.viewport(), Qt.MouseButton.LeftButton, pos=place)
        seen.append(cells(view, "n"))
    assert seen[0] == ["0", "10", "20", "20", "30", "nan"]
    assert seen[1] == ["30", "20", "20", "10", "0", "nan"]
    assert seen[2] == ["30", "10", "nan", "20", "20", "0"]


def test_a_growing_table_keeps_its_order_and_its_selection(view: TableView) -> None:
    view.show_table(table(3))
    view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    view.show_table(Table(table(6).columns, 6, 1, selected=3))
    assert cells(view, "n") == ["0", "10", "20", "20", "30", "nan"]
    assert view.rows.source_row(view.currentIndex().row()) == 3
    view.show_table(table(2, key=2))
    assert cells(view, "n") == ["10", "30"]
    view.show_table(Table((), 0, None))
    assert view.rows.rowCount() == 0
    view.show_table(table(3, key=3))
    assert len(cells(view, "n")) == 3


def test_a_growing_table_sorted_by_words_writes_each_word_once() -> None:
    written: list[int] = []

    def text(value: int) -> str:
        written.append(value)
        return str(value % 7)

    order = Order(0, False)
    for rows in (10_000, 10_001, 10_050):
        got = order.of(Table((Column("word", range(rows), text, numeric=False),), rows, 1))
        assert got.tolist() == sorted(range(rows), key=lambda value: str(value % 7))
    assert len(written) == 10_050
    again = order.of(Table((Column("word", range(5), text, numeric=False),), 5, 2))
    assert again.tolist() == [0, 1, 2, 3, 4]


def test_ten_thousand_rows_write_only_the_visible_cells(view: TableView) -> None:
    written: list[int] = []

    def text(value: int) -> str:
        written.append(value)
        return str(value)

    view.show_table(Table((Column("n", range(10_000), text),), 10_000, 1))
    view.grab()
    QApplication.processEvents()
    assert len(set(written)) < 200


def test_the_cumulative_column_is_that_of_the_needle() -> None:
    run = synthetic.state(10).run
    assert run is not None
    step = run.step(4)
    rows, parts = candidate_rows.rows(step), candidate_rows.segments(step.top, step.token_id)
    made = tables.candidates_table(rows, parts, 1)
    ends = {row.token_id: made.columns[4].value(n) for n, row in enumerate(rows)}
    assert [ends[part.token_id] for part in parts] == [part.stop for part in parts]
    assert all(math.isnan(ends[row.token_id]) for row in rows if row.killed_by)
    assert made.selected == next(n for n, row in enumerate(rows) if row.chosen)
