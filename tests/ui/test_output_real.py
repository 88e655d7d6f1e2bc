"""The five views on a real run with tiny-gpt2: what they show is what core says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from app.state import intents as i
from app.state import select
from app.theme.colormaps import indices, token_fills
from app.theme.palette import LIGHT
from core.contract import AttentionAnswer
from tests.ui.harness import Driven
from tests.ui.real import live, opened

TOKENS = 40


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    """A window after a run of 40 tokens, every question answered."""
    with opened(tmp_path / "settings.ini", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", TOKENS))
        driven.do(i.SetParameter("eos_token_id", ()))
        driven.do(i.Run())
        live(driven, lambda: driven.state.run is not None and driven.state.run.finish is not None)
        settle(driven)
        yield driven


def settle(one: Driven) -> None:
    """Until every panel has what it asked for and has shown it."""
    for _ in range(3):
        one.frames(3)
        live(one, lambda: not any(select.is_waiting(one.state, slot) for slot in one.state.asked))
    one.frames(3)


def test_every_view_shows_what_core_measured(one: Driven, qtbot: QtBot) -> None:
    run = one.state.run
    assert run is not None
    assert run.count == TOKENS
    first = run.prompt_tokens
    output, candidates, attention = one.panel("output"), one.panel("candidates"), one.panel("attention")
    cache, timeline = one.panel("cache"), one.panel("timeline")

    # Output: the text of the run, each chip in the colour of its probability.
    assert output.flow.text(first, first + TOKENS - 1) == run.text()
    level = indices(np.exp(run.column("logprob")[-1:]))[0]
    corner = output.flow.token_rect(first + TOKENS - 1).topLeft() + QPoint(2, 8)
    colour = output.flow.viewport().grab().toImage().pixelColor(corner)
    assert (colour.red(), colour.green(), colour.blue()) == tuple(token_fills(LIGHT)[level])

    # Attention: every row of the focused head, each adding up to one.
    assert attention.matrix.rows == select.fed_positions(run) == first + TOKENS - 1
    np.testing.assert_allclose(np.nansum(attention.matrix.values, axis=1), 1.0, atol=1e-4)
    assert set(attention._seen.values()) == {attention.matrix.rows}
    assert not attention.heatmap._image.isNull()

    # Cache: the formula agrees with the storages.
    assert cache.text._lines[-2].endswith("✓") or cache.text._lines[0].endswith("✓")
    assert "less" not in " ".join(cache.text._lines)

    # Candidates and timeline: the newest step.
    assert candidates.moment.text().startswith(f"step {TOKENS - 1}")
    assert timeline.readout.text().startswith(f"step {TOKENS - 1} · {TOKENS} tokens")
    chosen = next(s for s in candidates.needle._segments if s.chosen)
    assert candidates.needle._u is not None
    assert chosen.start - 1e-6 <= candidates.needle._u <= chosen.stop + 1e-6


def test_a_click_on_a_token_shows_that_moment_in_every_view(one: Driven, qtbot: QtBot) -> None:
    run = one.state.run
    assert run is not None
    output, candidates, attention = one.panel("output"), one.panel("candidates"), one.panel("attention")
    token = run.prompt_tokens + 12
    qtbot.mouseClick(output.flow.viewport(), Qt.MouseButton.LeftButton, pos=output.flow.token_rect(token).center())
    settle(one)
    position = run.prompt_tokens - 1 + 12
    assert one.state.selected == 12
    assert candidates.moment.text().startswith("step 12")
    assert (attention.heatmap._row, attention.heatmap._pinned) == (position, True)
    assert one.panel("timeline").plot._selected == 12
    assert f"{run.step(12).cache.length} positions" in one.panel("cache").accessibleDescription()

    # The row drawn over the text is that row of the heatmap.
    row = one.state.answers["attention.row"].answer
    assert isinstance(row, AttentionAnswer)
    np.testing.assert_allclose(row.weights[0, 0], attention.matrix.values[position, : position + 1], atol=1e-6)
    assert len(output.flow._marks.underlines) == position + 1
    for index in range(TOKENS):
        one.do(i.SelectStep(index))
        one.frames()
        chosen = next(s for s in candidates.needle._segments if s.chosen)
        assert chosen.start - 1e-6 <= candidates.needle._u <= chosen.stop + 1e-6


def test_another_layer_and_the_mean_of_its_heads_are_shown(one: Driven, qtbot: QtBot) -> None:
    attention = one.panel("attention")
    rows = attention.matrix.rows
    before = attention.matrix.values.copy()
    attention._focus(layer=0, head="mean")
    settle(one)
    assert attention.matrix.rows == rows
    np.testing.assert_allclose(np.nansum(attention.matrix.values, axis=1), 1.0, atol=1e-4)
    assert np.nanmax(np.abs(attention.matrix.values - before)) > 0.01
