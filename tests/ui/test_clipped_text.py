"""Painted text: whole inside its plot, and no two texts over each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PySide6.QtCore import QRectF
from PySide6.QtGui import QPainter, Qt, QTextDocumentFragment
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from app.panels.mode import ModePanel
from app.panels.waterfall import WaterfallPanel
from app.theme import fonts
from app.widgets.elided_label import ElidedLabel
from app.widgets.heat_matrix import HeatMatrix
from app.widgets.heatmap import Heatmap
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.text_cache import TextCache

Drawn = list[tuple[str, QRectF]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Every text that is drawn, with the box of its capitals and digits in logical pixels of its widget."""
    texts: Drawn = []
    draw = TextCache.draw

    def note(self: TextCache, painter: QPainter, x: float, baseline: float, text: str) -> None:
        assert not painter.worldTransform().isRotating()
        texts.append((text, QRectF(x, baseline - 2 * self.rise, self.width(text), 2 * self.rise)))
        draw(self, painter, x, baseline, text)

    monkeypatch.setattr(TextCache, "draw", note)
    return texts


def look(widget: QWidget, drawn: Drawn) -> Drawn:
    """What one whole picture of the widget draws; all of it inside, nothing over anything else."""
    drawn.clear()
    widget.grab()
    whole = QRectF(widget.rect())
    assert drawn
    assert [text for text, box in drawn if not whole.contains(box)] == []
    over = [(a, b) for (a, first), (b, other) in combinations(drawn, 2) if first.intersects(other)]
    assert over == []
    return list(drawn)


@pytest.mark.parametrize("rows", [700, 10_001, 10_047, 100_001])
def test_positions_of_a_long_attention_map_are_whole(qtbot: QtBot, drawn: Drawn, rows: int) -> None:
    fonts.load_fonts()
    matrix = HeatMatrix()
    matrix.skip(rows)
    heatmap = Heatmap(matrix)
    qtbot.addWidget(heatmap)
    for side in (220, 300, 410, 523, 700):
        heatmap.resize(side, side)
        heatmap.show_rows(0)
        texts = [text for text, _ in look(heatmap, drawn)]
        assert {text for text in texts if texts.count(text) == 2} == set(texts)  # on both axes


@pytest.mark.parametrize("height", [0, 84, 92, 100, 125, 160, 300])
def test_values_of_a_low_timeline_do_not_lie_over_each_other(qtbot: QtBot, drawn: Drawn, height: int) -> None:
    fonts.load_fonts()
    plot = SeriesPlot((Lane(5, "bits", (0,)), Lane(2, "ms", (1,), robust=True)))
    qtbot.addWidget(plot)
    plot.resize(420, max(height, plot.minimumHeight()))
    bits, ms = np.linspace(0.0, 9.0, 40), np.full(40, 1400.0)
    plot.set_palette(plot._palette, ("#000000", "#000000"))
    plot.show_steps((Series(bits), Series(ms)), (), None, restart=True)
    texts = [text for text, _ in look(plot, drawn)]
    assert "1500" in texts  # the scale is told, however low the plot is


@pytest.mark.parametrize("text", ["It's 5 & “'s” \"so\"", "a <b>bold</b> name", "x &lt; y"])
def test_the_tooltip_of_what_may_be_cut_is_that_text(qtbot: QtBot, text: str) -> None:
    label, mode, waterfall = ElidedLabel(), ModePanel(lambda _: None), WaterfallPanel(lambda _: None)
    for widget in (label, mode, waterfall):
        qtbot.addWidget(widget)
    label.resize(20, 20)
    label.setText(text)
    mode._say(text)
    waterfall._tell(text)
    tips = [widget.toolTip() for widget in (label, mode.words, waterfall.outcome)]
    assert [QTextDocumentFragment.fromHtml(t).toPlainText() if Qt.mightBeRichText(t) else t for t in tips] == [text] * 3
