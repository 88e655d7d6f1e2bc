"""Several pictures of one beginning, on a real run: rows, beams, what is repainted beside them, a branch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

import core
from app import pictures
from app.state import intents as i
from tests.ui.harness import Driven
from tests.ui.painting import HERE, LEFT, MODEL, ROWS, click, colours, painting, run, settle
from tests.ui.real import live


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with painting(tmp_path) as driven:
        yield driven


def test_a_grid_of_nine_is_painted_and_one_of_it_is_gone_on_with(one: Driven, qtbot: QtBot) -> None:
    panel = one.panel("canvas")
    next(a for a in panel.many.menu().actions() if a.data() == "9").trigger()
    run(one, qtbot)
    page, state = panel.result, one.state.run
    assert state is not None
    assert page.grid.count == 9
    assert len({pictures.pixels_of(page.grid.picture(n)).tobytes() for n in range(9)}) == 9
    qtbot.mouseClick(page.grid, LEFT, pos=page.grid.rect_of(4).center().toPoint())
    settle(one)
    assert one.state.run is not None
    assert one.state.run.row == 4
    assert colours(page.canvas).tobytes() == pictures.pixels_of(page.grid.picture(4))[:, :, :3].tobytes()
    assert "measured ✓" in " ".join(one.panel("cache").text._lines).replace("\xa0", " ")  # every row's bytes
    click(qtbot, page.canvas, ROWS * 16 + 10)
    one.frames(2)
    ids = page.token_ids.tolist()
    qtbot.mouseClick(panel.go_on, LEFT)
    one.frames(2)
    live(one, lambda: one.state.draft.image.token_ids is not None)
    assert panel.page == 0
    assert one.state.draft.image.token_ids == tuple(ids)
    assert one.state.draft.image.keep == ROWS * 16 + 11


def test_beams_are_a_grid_while_they_grow_and_when_they_are_returned(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("do_sample", False))
    one.do(i.SetParameter("num_beams", 3))
    one.do(i.SetParameter("num_return_sequences", 2))
    panel = one.panel("canvas")
    page, first = panel.result, ROWS * 16
    click(qtbot, panel.start.canvas, first)
    for steps in (1, 2, 3):
        qtbot.keyClick(one.window, Qt.Key.Key_F10)
        live(one, lambda steps=steps: one.state.run is not None and one.state.run.count == steps)
        settle(one)
        state = one.state.run
        assert state is not None
        assert page.grid.count == 2
        for beam, found in enumerate(page.completions):
            path = state.sequences.path(0, beam, steps - 1)
            assert found.numbers[0].tolist() == [step.token_id for step in path]
            np.testing.assert_array_equal(found.numbers[1], [step.logprob for step in path])
    qtbot.keyClick(one.window, Qt.Key.Key_F5)
    live(one, lambda: one.state.run is not None and one.state.run.finish is not None)
    settle(one)
    state = one.state.run
    assert state is not None
    assert state.finish is not None
    params = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    fresh = core.run(MODEL, prompt_ids=list(state.prompt.token_ids), params=params, **HERE)
    assert [[64, *found.painted(np.full(256, -1)).tolist()] for found in page.completions] == fresh.sequences
    assert page.grid._selected == 0
    qtbot.mouseClick(page.grid, LEFT, pos=page.grid.rect_of(1).center().toPoint())
    one.frames(3)
    assert page.grid._selected == 1
    assert [64, *page.token_ids.tolist()] == fresh.sequences[1]
    assert colours(page.canvas).tobytes() == pictures.pixels_of(page.grid.picture(1))[:, :, :3].tobytes()
    assert len(page.paintings((0, 0, 0))) == 2
    panel.twins.button.setChecked(True)
    panel.twins.tabs.setCurrentIndex(1)
    one.frames(2)
    table = panel.twins.views[1].rows
    shown = [float(table.index(row, 2).data()) for row in range(2)]
    bits = [-found.numbers[1].mean() / math.log(2) for found in page.completions]
    assert shown == pytest.approx(bits, abs=0.01)


def test_one_of_nine_is_repainted_beside_the_others(one: Driven, qtbot: QtBot) -> None:
    panel = one.panel("canvas")
    one.do(i.SetParameter("num_return_sequences", 4))
    run(one, qtbot)
    page, first = panel.result, ROWS * 16
    qtbot.mouseClick(page.grid, LEFT, pos=page.grid.rect_of(2).center().toPoint())
    settle(one)
    before = page.token_ids.copy()
    click(qtbot, page.canvas, first + 8)
    one.frames(3)
    number = next(n for n, swatch in enumerate(page.swatches.rows) if not swatch.chosen)
    qtbot.mouseClick(page.swatches, LEFT, pos=page.swatches.square(number).center().toPoint())
    live(one, lambda: one.state.run is not None and one.state.run.branch_id > 0 and one.state.run.finish is not None)
    settle(one)
    assert page.grid.count == 5
    assert page.grid._captions[4].endswith("forced")
    assert page.grid._selected == 4
    repainted = page.token_ids.copy()
    assert repainted.tolist() == page.completions[4].painted(np.full(256, -1)).tolist() != before.tolist()
    assert page.completions[2].painted(np.full(256, -1)).tolist() == before.tolist()
    for number, expected in ((2, before), (4, repainted)):
        qtbot.mouseClick(page.grid, LEFT, pos=page.grid.rect_of(number).center().toPoint())
        settle(one)
        assert page.grid._selected == number
        assert page.token_ids.tolist() == expected.tolist()
    assert len(page.paintings((0, 0, 0))) == 5


def test_another_colour_makes_a_branch_and_the_rest_is_painted_anew(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("do_sample", False))
    run(one, qtbot)
    panel = one.panel("canvas")
    first = panel.result.token_ids.copy()
    click(qtbot, panel.result.canvas, ROWS * 16 + 12)
    one.frames(3)
    other = panel.result.swatches.rows[1]
    assert not other.chosen
    qtbot.mouseClick(panel.result.swatches, LEFT, pos=panel.result.swatches.square(1).center().toPoint())
    live(one, lambda: one.state.run is not None and one.state.run.branch_id > 0 and one.state.run.finish is not None)
    settle(one)
    ids = panel.result.token_ids
    assert ids[: ROWS * 16 + 12].tolist() == first[: ROWS * 16 + 12].tolist()
    assert ids[ROWS * 16 + 12] == other.token_id != first[ROWS * 16 + 12]
    fresh = core.run(MODEL, prompt_ids=[64, *ids[: ROWS * 16 + 13].tolist()], mode="greedy_search", **HERE)
    assert [64, *ids.tolist()] == fresh.sequences[0]
    assert colours(panel.result.canvas)[ROWS * 16 + 12].tolist() == list(other.rgb)
    one.do(i.SelectStep(12))
    one.frames(2)
    one.do(i.SetParameter("do_sample", True))
    before = one.state.run.branch_id if one.state.run else 0
    qtbot.mouseClick(panel.again, LEFT)
    live(one, lambda: one.state.run is not None and one.state.run.branch_id > before and one.state.run.count == 32)
    assert panel.result.token_ids[: ROWS * 16 + 12].tolist() == first[: ROWS * 16 + 12].tolist()
