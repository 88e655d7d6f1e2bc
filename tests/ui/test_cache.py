"""The cache panel: bytes by layer, the formula against what was measured, the outlook."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.panels.cache import CachePanel
from app.panels.cache_words import formula, outlook
from app.state.intents import SelectStep
from app.theme import fonts
from app.theme.palette import LIGHT
from app.widgets.layer_bars import LEFT_PX, unit_of
from app.widgets.text_lines import wrap
from tests.ui import synthetic


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def make(qtbot: QtBot, bench: synthetic.Bench, size: tuple[int, int] = (422, 190)) -> CachePanel:
    fonts.load_fonts()
    panel = CachePanel(bench.dispatch)
    qtbot.addWidget(panel)
    panel.resize(*size)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.render(bench.state)
    QApplication.processEvents()  # a flat panel has folded its tabs away
    return panel


def test_the_formula_has_the_models_numbers_and_agrees_with_the_measured_bytes() -> None:
    run = synthetic.state(54).run
    assert run is not None
    report = run.step(53).cache
    assert plain(formula(run, report)) == "2 × 1 × 63 × 30 layers × 3 heads × 64 × 2 B = 1,451,520 B = measured ✓"


def test_a_difference_is_told() -> None:
    run = synthetic.state(54).run
    assert run is not None
    report = run.step(53).cache
    more = replace(report, key_used_bytes=report.key_used_bytes + 10)
    assert plain(formula(run, more)).endswith("= 1,451,520 B; measured 1,451,820 B, 300 B more")
    rows = replace(run.started, rows=run.started.rows * 2)
    assert "1,451,520 B less" in plain(formula(replace(run, started=rows), report))


def test_the_outlook_comes_from_the_measured_time_a_token() -> None:
    run = synthetic.state(54).run
    assert run is not None
    report = run.step(53).cache
    assert outlook(run.model, report, 24.6) == "23,040 B a token · full at 8,192 in 8,129 tokens, 3 min 20 s"
    assert outlook(run.model, replace(report, length=8192), 24.6) == "23,040 B a token · full"


def test_a_selected_step_shows_its_own_report(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(60))
    panel = make(qtbot, bench)
    newest = panel.readout.text()
    bench.dispatch(SelectStep(10))
    panel.render(bench.state)
    assert panel.readout.text() != newest
    assert panel.readout.text() == "461 kB used · 1.47 MB allocated"
    assert "20 positions" in panel.accessibleDescription()


def test_the_axis_does_not_shrink_for_a_past_step(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(200))
    panel = make(qtbot, bench)
    top = panel.bars._top
    bench.dispatch(SelectStep(3))
    panel.render(bench.state)
    assert panel.bars._top == top


def test_bars_stand_for_used_and_allocated_bytes(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(60, synthetic.model(layers=6))), (500, 400))
    image = panel.bars.grab().toImage()
    bar = QPoint(LEFT_PX + 6, 0)
    column = [image.pixelColor(bar.x(), y).name().upper() for y in range(image.height())]
    used = column.count(LIGHT.key)
    pale = column.count(panel.bars._pale[0].name().upper())
    report = panel._run.step(59).cache  # type: ignore[union-attr]
    share = report.key_used_bytes[0] / report.key_allocated_bytes[0]
    assert used / (used + pale) == pytest.approx(share, abs=0.03)


def test_hovering_a_layer_tells_its_bytes(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(54)))
    assert panel.bars.layer_at(LEFT_PX + 1) == 0
    assert panel.bars.layer_at(LEFT_PX - 3) is None
    assert panel.bars.tooltip(2) == "Layer 2\nK 24,192 B used of 24,576 B\nV 24,192 B used of 24,576 B"


def test_narrow_panels_shorten_their_texts(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(54)), (284, 114))
    assert panel.readout.text() == "1.45 MB / 1.47 MB"
    product, rate = panel.text._lines
    assert plain(product) == "2×1×63×30×3×64×2 B = 1,451,520 B ✓"
    assert rate.startswith("23,040 B a token · full in 3 min ")


def test_before_the_first_step_it_says_what_will_come(qtbot: QtBot) -> None:
    panel = make(qtbot, synthetic.Bench(synthetic.state(0)))
    assert not panel.growth.isVisible()
    assert panel.describe() == "No cache yet."


def test_units_and_wrapping() -> None:
    assert unit_of(1_500_000) == (1e6, "MB")
    assert unit_of(0) == (1.0, "B")
    assert wrap("aa bb cc dddddddd", 5) == ["aa bb", "cc", "dddddddd"]


def test_the_formula_is_never_broken_inside_a_quantity(qtbot: QtBot) -> None:
    bench = synthetic.Bench(synthetic.state(54))
    run = bench.state.run
    assert run is not None
    for terse in (False, True):
        for columns in range(20, 80):
            lines = wrap(formula(run, run.step(53).cache, terse), columns)
            assert not [line for line in lines if line[0] not in "2×=" or line.endswith(("×", "="))], (
                columns,
                lines,
            )
