"""The five views on a real run with tiny-gpt2: what they show is what core says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QMenu
from pytestqt.qtbot import QtBot

from app.panels.walk import LATER_SLOT
from app.state import intents as i
from app.state import select
from app.theme.colormaps import indices, token_fills
from app.theme.palette import LIGHT
from core.contract import AttentionAnswer, ColumnAnswer
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


def test_a_token_of_the_prompt_can_be_asked_about(one: Driven, qtbot: QtBot) -> None:
    run, output = one.state.run, one.panel("output")
    assert run is not None
    names = 2
    place = output.flow.token_rect(names).center()
    qtbot.mouseClick(output.flow.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert one.state.selected == names - run.prompt_tokens
    menu = QMenu()
    output.flow.more(menu, names)
    next(x for x in menu.actions() if x.text() == "Who looks at this token").trigger()
    settle(one)

    # The column of this very token, as the map has it, from itself on.
    got = select.answer(one.state, "attention.row")
    assert got is not None
    assert isinstance(got.answer, ColumnAnswer)
    assert got.answer.query.key == names
    matrix = one.panel("attention").matrix.values
    np.testing.assert_allclose(got.answer.weights[0][names:], matrix[names:, names], atol=1e-5)
    assert one.panel("attention").heatmap._row == names - 1

    # Lens, norms and parts of the position that leads to it; candidates say that nobody chose it.
    one.window.workspace.cards["lens"].toggleViewAction().trigger()
    settle(one)
    lens = one.panel("lens")
    assert lens.table._selected == names - 1 in lens.columns.by_position
    for page in (1, 2):
        lens.tabs.setCurrentIndex(page)
        settle(one)
    assert lens.norms_answer is not None
    assert lens.norms_answer.query.position == names - 1
    assert lens.parts_answer is not None
    asked = lens.parts_answer.query
    assert (asked.position, asked.token_id) == (names - 1, run.prompt.token_ids[names])
    assert "part of the prompt" in " ".join(one.panel("candidates").bars._empty)
    one.window.workspace.cards["walk"].toggleViewAction().trigger()
    settle(one)
    assert one.panel("walk")._answers[LATER_SLOT].positions == (names - 1, names)

    # The arrows go on from there, over the border to what was generated.
    keys = run.prompt_tokens - names
    for _ in range(keys):
        qtbot.keyClick(output.flow, Qt.Key.Key_Right)
    assert one.state.selected == 0
    settle(one)
    assert one.panel("candidates").moment.text().startswith("step 0")
