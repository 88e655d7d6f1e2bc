"""The timeline panel: selection, flags, and painting only what is new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.panels.timeline import TimelinePanel, flags_of
from app.state.intents import SelectStep
from app.theme import fonts
from app.widgets.series_plot import Lane, Series, SeriesPlot
from tests.ui import synthetic


def make(qtbot: QtBot, bench: synthetic.Bench) -> TimelinePanel:
    fonts.load_fonts()
    panel = TimelinePanel(bench.dispatch)
    qtbot.addWidget(panel)
    for control in (*panel.header_widgets(), *panel.header_right_widgets()):
        control.hide()  # a card has them in its title bar
    panel.resize(640, 200)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    QApplication.processEvents()
    return panel


def point(panel: TimelinePanel, index: int) -> QPoint:
    return QPoint(round(panel.plot.axis.x(index)), 60)


def test_a_click_selects_the_step_below_it_and_right_of_the_newest_follows(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(60))
    panel = make(qtbot, bench)
    qtbot.mouseClick(panel.plot, Qt.MouseButton.LeftButton, pos=point(panel, 17))
    assert bench.intents == [SelectStep(17)]
    qtbot.mouseClick(panel.plot, Qt.MouseButton.LeftButton, pos=point(panel, 62))
    assert bench.intents[-1] == SelectStep(None)


def test_dragging_scrubs(qtbot: QtBot) -> None:
    from PySide6.QtCore import QEvent, QPointF
    from PySide6.QtGui import QMouseEvent

    bench = synthetic.Bench(synthetic.state(60))
    panel = make(qtbot, bench)
    left = Qt.MouseButton.LeftButton
    qtbot.mousePress(panel.plot, left, pos=point(panel, 10))
    where = QPointF(point(panel, 25))
    panel.plot.mouseMoveEvent(
        QMouseEvent(QEvent.Type.MouseMove, where, where, left, left, Qt.KeyboardModifier.NoModifier)
    )
    assert [i.index for i in bench.intents if isinstance(i, SelectStep)] == [10, 25]


def test_changes_are_flagged_with_both_values() -> None:
    run = synthetic.state(60, flag_at=30).run
    assert run is not None
    (flag,) = flags_of(run)
    assert (flag.index, flag.text) == (30, "temperature 1.0 → 0.8")


def test_the_description_names_the_changes_before_the_step(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(60, flag_at=30))
    panel = make(qtbot, bench)
    bench.dispatch(SelectStep(40))
    panel.render(bench.state)
    assert "at step 30 temperature 1.0 → 0.8" in panel.accessibleDescription()
    bench.dispatch(SelectStep(20))
    panel.render(bench.state)
    assert "temperature" not in panel.accessibleDescription()


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[QRect]:
    found: list[QRect] = []
    paint = SeriesPlot.paintEvent

    def watched(self: SeriesPlot, event: QPaintEvent) -> None:
        found.append(event.rect())
        paint(self, event)

    monkeypatch.setattr(SeriesPlot, "paintEvent", watched)
    return found


def test_a_step_adds_to_the_picture_and_the_result_is_that_of_painting_it_all(
    qtbot: QtBot, painted: list[QRect]
) -> None:
    bench = synthetic.Bench(synthetic.state(1000, flag_at=None))
    panel = make(qtbot, bench)
    painted.clear()
    for _ in range(5):
        bench.grow(2)
        panel.render(bench.state)
        QApplication.processEvents()
    assert len(painted) == 5
    assert max(rect.width() for rect in painted) < panel.plot.width() / 3
    by_parts = panel.plot.grab().toImage()
    panel.plot.update()
    QApplication.processEvents()
    assert panel.plot.grab().toImage() == by_parts


def test_nothing_new_paints_nothing(qtbot: QtBot, painted: list[QRect]) -> None:
    bench = synthetic.Bench(synthetic.state(50))
    panel = make(qtbot, bench)
    painted.clear()
    panel.render(replace(bench.state, seed=9))
    QApplication.processEvents()
    assert painted == []


def test_the_selected_step_has_a_line_in_the_accent_colour(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(60))
    panel = make(qtbot, bench)
    before = panel.plot.grab().toImage()
    bench.dispatch(SelectStep(20))
    panel.render(bench.state)
    image = panel.plot.grab().toImage()
    assert image != before
    assert image.pixelColor(point(panel, 20)).name().upper() == panel.plot._palette.accent


def test_another_run_starts_over(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(500)))
    other = synthetic.state(5)
    run = other.run
    assert run is not None
    panel.render(replace(other, run=replace(run, started=replace(run.started, run_id=2))))
    assert panel.plot.axis.steps == 32
    assert panel.readout.text().startswith("step 4 · 5 tokens")


def test_the_tooltip_has_the_split_of_the_time(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(60, flag_at=30)))
    text = panel.plot.tooltip(30)
    assert "forward" in text
    assert "temperature 1.0 → 0.8" in text
    assert panel.plot.tooltip(60) == ""


def test_before_the_first_step_it_says_what_will_come(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(0)))
    assert panel.describe() == "No steps yet."
    assert not panel.plot.grab().toImage().isNull()


def test_the_axis_holds_every_surprisal_also_of_steps_that_came_at_once(qtbot: QtBot) -> None:
    plot = SeriesPlot((Lane(1, "bits", (0,)),))
    qtbot.addWidget(plot)
    logprob = np.array([-0.1, -7.0, -0.2, -0.1, -14.0, -0.3])
    for count in (3, 6):  # surprisal is the negative of it
        plot.show_steps((Series(logprob[:count], -1.0),), (), None, restart=count == 3)
        assert plot._tops[0] >= -logprob[:count].min()
