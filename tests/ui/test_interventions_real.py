"""Interventions on the real engine, with real clicks: the thumbnails, the list, the form, the preview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.panels import looking_tables
from app.state import acting_intents as a
from app.state import intents as i
from app.state import select
from app.widgets.thumbnails import LEFT_PX, TOP_PX
from core.contract import MutePositions, ScaleHeads, SkipPart, Steer, WorkerState
from tests.ui.acting import chosen_from_menu, paused_after, written
from tests.ui.harness import Driven
from tests.ui.real import answered, finished, live, opened

pytestmark = pytest.mark.qt_log_ignore("This plugin does not support")  # of menus that pop up offscreen


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as driven:
        driven.do(i.SetParameter("max_new_tokens", 12))
        driven.do(i.SetParameter("do_sample", False))
        yield driven


def place_of(one: Driven, layer: int, head: int) -> QPoint:
    """The middle of a thumbnail in its viewport."""
    maps = one.panel("attention").thumbnails
    pitch = maps._grid.pitch
    assert layer in maps.visible_layers()
    return QPoint(LEFT_PX + head * pitch + pitch // 2, TOP_PX + (layer - maps.first) * pitch + pitch // 2)


def test_a_thumbnail_has_a_checkbox(one: Driven) -> None:
    paused_after(one, 2)
    live(one, lambda: answered(one))
    maps = one.panel("attention").thumbnails
    box, middle = maps.box_of(2, 3).center().toPoint(), place_of(one, 2, 3)
    assert not maps.box_of(2, 3).contains(middle)
    QTest.mouseMove(maps.viewport(), place_of(one, 0, 0))
    one.frames(2)
    bare = maps.viewport().grab(maps.box_of(2, 3).toAlignedRect()).toImage()
    QTest.mouseMove(maps.viewport(), middle)
    one.frames(2)
    ticked = maps.viewport().grab(maps.box_of(2, 3).toAlignedRect()).toImage()
    assert ticked != bare  # shown under the pointer
    QTest.mouseClick(maps.viewport(), Qt.MouseButton.LeftButton, pos=box)
    assert one.state.acting.interventions == (ScaleHeads(2, (3,)),)
    assert one.state.focus.head != 3 or one.state.focus.layer != 2  # it is not focused by that
    QTest.mouseMove(maps.viewport(), place_of(one, 0, 0))
    one.frames(2)
    unticked = maps.viewport().grab(maps.box_of(2, 3).toAlignedRect()).toImage()
    assert unticked not in (ticked, bare)  # a muted head shows its own all the time
    QTest.mouseClick(maps.viewport(), Qt.MouseButton.LeftButton, pos=box)
    assert one.state.acting.interventions == ()


def test_a_head_is_muted_by_a_click_in_the_middle_of_a_run_and_the_model_obeys(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    untouched = one.state.run.finish.sequences[0]
    paused_after(one, 4)
    live(one, lambda: answered(one))
    maps = one.panel("attention").thumbnails
    shift = Qt.KeyboardModifier.ShiftModifier
    for head in range(one.state.model.heads):
        QTest.mouseClick(maps.viewport(), Qt.MouseButton.LeftButton, shift, place_of(one, 0, head))
    heads = tuple(range(one.state.model.heads))
    assert one.state.acting.interventions == (ScaleHeads(0, heads),)
    live(one, lambda: one.state.acting.epoch is None)
    assert maps._muted == {(0, head) for head in heads}
    assert [act.index for act in one.state.run.acts] == [4] * len(heads)
    assert one.window.workspace.cards["interventions"].isVisible()
    one.do(i.TogglePause())
    live(one, lambda: finished(one))
    changed = one.state.run.finish.sequences[0]
    prompt = one.state.run.prompt_tokens
    assert changed[: prompt + 4] == untouched[: prompt + 4]
    assert changed[prompt + 4 :] != untouched[prompt + 4 :]
    one.window.workspace.cards["timeline"].raise_()
    one.frames(2)
    flags = one.panel("timeline")._flags
    assert flags[-1].index == 4
    assert "heads 0-7 of layer 0 muted" in flags[-1].text
    assert one.state.run.plan.interventions == one.state.run.acts[-1].plan.interventions != ()
    one.do(i.SetFocus(0, 3))
    one.frames(2)
    assert one.panel("attention").head._options[-1][1].endswith("(muted)")
    assert one.state.worker is WorkerState.READY
    live(one, lambda: answered(one))
    panel = one.panel("attention")
    panel.twins.button.click()
    live(one, lambda: bool(panel.summaries.by_layer.get(0)))
    kinds = looking_tables.heads_table(panel.summaries.by_layer, 1, maps._muted).columns[2]
    assert all(kinds.cell(head).endswith("muted") for head in heads)
    assert not kinds.cell(len(heads)).endswith("muted")


def test_menu_keyboard_and_list_mute_and_unmute(one: Driven) -> None:
    paused_after(one, 2)
    live(one, lambda: answered(one))
    maps = one.panel("attention").thumbnails
    assert chosen_from_menu(maps, place_of(one, 1, 2), "Mute head") == "Mute head 1.2"
    one.do(i.SetFocus(1, 3))
    one.frames(2)
    QTest.keyClick(maps, Qt.Key.Key_M)
    assert one.state.acting.interventions == (ScaleHeads(1, (2, 3)),)
    assert chosen_from_menu(maps, place_of(one, 1, 2), "Skip the MLP").endswith("layer 1")
    assert one.state.acting.interventions[-1] == SkipPart(1, "mlp")
    one.frames(3)
    rows = one.panel("interventions").list.rows
    first, second = rows.values()
    assert (first.text.text(), second.text.text()) == ("heads 1.2, 1.3 muted", "MLP of layer 1 skipped")
    QTest.mouseClick(second.box, Qt.MouseButton.LeftButton, pos=QPoint(8, second.box.height() // 2))
    assert one.state.acting.interventions == (ScaleHeads(1, (2, 3)),)
    first.value.selectAll()
    QTest.keyClicks(first.value, "0.5")
    QTest.keyClick(first.value, Qt.Key.Key_Return)
    assert one.state.acting.interventions == (ScaleHeads(1, (2, 3), 0.5),)
    one.frames(2)
    assert maps._muted == frozenset()
    QTest.mouseClick(first.remove, Qt.MouseButton.LeftButton)
    assert [act.on for act in one.state.acting.acts] == [False]
    QTest.mouseClick(one.panel("interventions").clear, Qt.MouseButton.LeftButton)
    assert one.state.acting.acts == ()
    live(one, lambda: one.state.acting.epoch is None)
    assert one.state.run.acts[-1].interventions == ()


def test_the_form_adds_every_kind_and_says_what_is_wrong(one: Driven) -> None:
    paused_after(one, 3)
    one.window.workspace.cards["interventions"].toggleViewAction().trigger()
    one.frames(2)
    panel = one.panel("interventions")
    written(panel.form, "heads", "x", "1", "0")
    assert panel.form.problem.text() == "The layer is a whole number, counted from 0."
    assert panel.form.problem.isVisible()
    written(panel.form, "heads", "2", "1, 4-5", "-1")
    assert not panel.form.problem.isVisible()
    written(panel.form, "steer", "3", "happy", "sad", "2")
    written(panel.form, "mute", "1, 2")
    panel.form.choose("skip")
    panel.form.inputs["skip"][1].show_key("attention")
    QTest.mouseClick(panel.form.add, Qt.MouseButton.LeftButton)
    expected = (ScaleHeads(2, (1, 4, 5), -1.0), Steer(3, 2.0, "happy", "sad"), MutePositions(0, (1, 2)))
    assert one.state.acting.interventions == (*expected, SkipPart(0, "attention"))
    live(one, lambda: one.state.acting.epoch is None)
    assert one.state.run.acts[-1].interventions == one.state.acting.interventions
    assert one.panel("output").flow._marks.struck == {1, 2}
    written(panel.form, "heads", "99", "0", "0")  # the model has no such layer: said, and nothing changes
    assert "no layer 99" in one.state.notices[-1].text
    assert len(one.state.acting.acts) == 4


def test_positions_are_muted_from_the_output_and_the_cache(one: Driven) -> None:
    paused_after(one, 3)
    flow = one.panel("output").flow
    token = one.state.run.prompt_tokens - 2
    place = next(
        QPoint(x, y) for y in range(4, 200, 6) for x in range(4, 600, 6) if flow.token_at(QPoint(x, y)) == token
    )
    assert chosen_from_menu(flow, place, "Mute position") == f"Mute position {token}"
    one.frames(2)
    field = one.panel("cache").muted.field
    assert field.text() == str(token)
    field.show()
    field.selectAll()
    QTest.keyClicks(field, "0-1, 4")
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert one.state.acting.interventions == (MutePositions(0, (0, 1, 4)),)
    field.selectAll()
    QTest.keyClicks(field, "none")
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert one.panel("cache").muted.problem.text() == "Write positions such as 3, 5-7."
    assert one.state.acting.interventions == (MutePositions(0, (0, 1, 4)),)


def test_a_preview_shows_before_and_after_at_any_step_without_running_again(one: Driven) -> None:
    one.do(i.Run())
    live(one, lambda: finished(one) and one.state.run is not None)
    ids = one.state.run.finish.sequences
    one.do(a.AddIntervention(ScaleHeads(0, tuple(range(8)))))
    one.do(i.SelectStep(5))
    one.frames(2)
    QTest.mouseClick(one.panel("interventions").preview, Qt.MouseButton.LeftButton)
    panel = one.panel("candidates")
    live(one, lambda: panel._preview is not None)
    answer, run = panel._preview, one.state.run
    assert answer.query.position == select.query_position(run, 5)
    known = dict(zip(run.step(5).top.token_ids.tolist(), run.step(5).top.logprob.tolist(), strict=True))
    pairs = [
        (b, known[t]) for t, b in zip(answer.token_ids.tolist(), answer.before.tolist(), strict=True) if t in known
    ]
    assert len(pairs) > 5
    assert np.allclose(*zip(*pairs, strict=True), atol=1e-4)
    assert answer.kl_bits > 0.01
    assert all(row.preview for row in panel.bars._rows)
    one.do(a.ShowPreview(False))
    one.frames(3)
    assert not any(row.preview for row in panel.bars._rows)
    assert one.state.run.finish.sequences == ids


def test_another_model_forgets_what_was_meant_for_the_last_one(one: Driven) -> None:
    one.do(a.AddIntervention(ScaleHeads(1, (1,))))
    one.do(a.PinToken(7, "x"))
    one.do(i.ChooseModel("tiny-imagegpt", dtype="fp32"))
    live(one, lambda: one.state.model is not None and one.state.model.spec.name == "tiny-imagegpt")
    assert one.state.acting.acts == ()
    assert one.state.acting.pins == ()
    assert "for the model before" in one.state.notices[-1].text
