"""The canvas on a real run with tiny-imagegpt: pixels, overlays, completions, layers are what core says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAccessible
from pytestqt.qtbot import QtBot

import core
from app import pictures
from app.panels.canvas_overlays import TITLES
from app.state import intents as i
from app.state import select
from app.theme.colormaps import indices, sequential
from app.widgets.pixel_words import COVER
from app.widgets.swatches import Swatch, Swatches
from core.contract import AttentionAnswer, KeyNormsAnswer, RolloutAnswer
from tests.ui.harness import Driven, clipped
from tests.ui.painting import HERE, LEFT, MODEL, ROWS, click, colours, painting, run, settle
from tests.ui.real import live
from tests.ui.test_accessible import controls, say


@pytest.fixture
def one(qtbot: QtBot, tmp_path: Path) -> Iterator[Driven]:
    with painting(tmp_path) as driven:
        yield driven


def test_a_sample_is_completed_pixel_by_pixel(one: Driven, qtbot: QtBot) -> None:
    canvas, editor = one.panel("canvas"), one.panel("prompt").image
    names = [sample.title for sample in pictures.samples()]
    place = editor.samples.rect_of(names.index("fox")).center().toPoint()
    qtbot.mouseClick(editor.samples, LEFT, pos=place)
    one.frames()
    assert one.state.draft.image.title == "fox"
    live(one, lambda: one.state.draft.image.token_ids is not None)
    assert (canvas.page, canvas.start.canvas._given) == (0, 128)
    one.do(i.SetParameter("do_sample", False))
    run(one, qtbot)
    state, fox = one.state.run, pictures.samples()[names.index("fox")].picture
    assert state is not None
    assert canvas.page == 1
    assert state.count == 256 - ROWS * 16
    assert state.finish is not None
    assert state.finish.finish_reason == "length_limit"
    expected = core.run(MODEL, image=fox, keep_rows=ROWS, mode="greedy_search", **HERE)
    assert canvas.result.token_ids.tolist() == expected.sequences[0][1:]
    assert np.array_equal(colours(canvas.result.canvas), expected.pictures[0].reshape(-1, 3))
    shot = canvas.result.canvas.grab().toImage()
    for pixel in (3, 130, 250):
        point = canvas.result.canvas.pixel_rect(pixel).center().toPoint()
        assert shot.pixelColor(point).getRgb()[:3] == tuple(expected.pictures[0].reshape(-1, 3)[pixel].tolist())
    bar, cache, timeline = one.window.statusbar, one.panel("cache"), one.panel("timeline")
    assert (bar.speed.words.text(), bar.first_token.words.text()) == ("pixels/s", "first pixel")
    assert "a pixel" in cache.describe()
    assert "B a pixel" in " ".join(cache.text._lines).replace("\xa0", " ")
    assert "32 pixels" in timeline.readout._wordings[0]
    assert "256 of 256 pixels are there, 224 of them given" in canvas.result.canvas.accessibleDescription()


def test_pixels_appear_while_the_run_goes_on_and_it_can_be_stepped(one: Driven, qtbot: QtBot) -> None:
    canvas = one.panel("canvas").result
    click(qtbot, one.panel("canvas").start.canvas, ROWS * 16 + 5)
    one.frames()
    assert one.state.draft.image.keep == ROWS * 16 + 5
    for steps in (1, 2, 3):
        qtbot.keyClick(one.window, Qt.Key.Key_F10)
        live(one, lambda steps=steps: one.state.run is not None and one.state.run.count == steps)
        assert (canvas.token_ids >= 0).sum() == ROWS * 16 + 5 + steps
        unpainted = colours(canvas.canvas)[ROWS * 16 + 5 + steps :]
        assert len(np.unique(unpainted, axis=0)) == 2  # the chequer
    qtbot.keyClick(one.window, Qt.Key.Key_Escape)
    live(one, lambda: not select.is_active(one.state))
    assert (canvas.token_ids >= 0).sum() == ROWS * 16 + 8


@pytest.mark.qt_log_ignore("This plugin does not support raise")  # a tooltip without a display
def test_a_pixel_is_selected_by_mouse_and_keyboard_and_its_colours_are_told(one: Driven, qtbot: QtBot) -> None:
    run(one, qtbot)
    page = one.panel("canvas").result
    click(qtbot, page.canvas, ROWS * 16 + 20)
    one.frames(3)
    assert one.state.selected == 20
    qtbot.keyClick(page.canvas, Qt.Key.Key_Right)
    qtbot.keyClick(page.canvas, Qt.Key.Key_Up)
    one.frames(3)
    assert one.state.selected == 5
    state, image = one.state.run, one.state.model.image if one.state.model else None
    assert state is not None
    assert image is not None
    step = state.step(5)
    shown = page.swatches.rows
    assert [s.token_id for s in shown] == step.top.token_ids.tolist()
    assert shown[0].rgb == image.rgb(int(step.top.token_ids[0]))
    np.testing.assert_allclose([s.raw for s in shown], np.exp(step.top.logprob), rtol=1e-5)
    np.testing.assert_allclose([s.final for s in shown], np.exp(step.top.final_logprob), rtol=1e-5)
    qtbot.mouseMove(page.canvas, page.canvas.pixel_rect(ROWS * 16 + 7).center().toPoint())
    assert [s.token_id for s in page.swatches.rows] == state.step(7).top.token_ids.tolist()
    assert one.state.selected == 5
    qtbot.mouseMove(page.canvas, page.canvas.pixel_rect(3).center().toPoint())
    assert page.swatches.rows == ()
    click(qtbot, page.canvas, 3)  # it was given: nothing was chosen there
    assert one.state.selected == 5
    for _ in range(3):
        qtbot.keyClick(page.canvas, Qt.Key.Key_Up)  # into what was given: there is nothing to select
        one.frames()
    qtbot.keyClick(page.canvas, Qt.Key.Key_Right)
    one.frames()
    assert one.state.selected == 6
    qtbot.keyClick(page.canvas, Qt.Key.Key_Home)
    one.frames()
    assert one.state.selected == 0
    qtbot.keyClick(page.canvas, Qt.Key.Key_Left)
    qtbot.keyClick(page.canvas, Qt.Key.Key_Down)
    one.frames()
    assert one.state.selected == 16
    qtbot.keyClick(page.canvas, Qt.Key.Key_End)
    one.frames()
    assert one.state.selected is None


def test_every_overlay_is_what_core_measured(one: Driven, qtbot: QtBot) -> None:
    run(one, qtbot)
    panel = one.panel("canvas")
    state, first = one.state.run, ROWS * 16
    assert state is not None
    click(qtbot, panel.result.canvas, first + 30)
    settle(one)
    plain = colours(panel.result.canvas).astype(float)
    painted = slice(first, 256)
    expected: dict[str, np.ndarray] = {
        by: indices(select.colour_values(state, by)) for by in ("probability", "entropy", "surprisal", "rank")
    }
    bits = core.score_picture(MODEL, panel.result.picture, **HERE).surprisal_bits.reshape(-1)
    expected["bits"] = indices(1.0 - np.clip(bits / select.SURPRISAL_TOP_BITS, 0, 1))
    for action in panel.overlay.menu().actions():
        action.trigger()
        settle(one)
        overlay = panel.result.overlay
        shown = colours(panel.result.canvas).astype(float)
        if overlay in ("attention", "column", "rollout"):
            answer = one.state.answers["canvas.attention"].answer
            row = answer.weights.reshape(-1, answer.weights.shape[-1])[-1]  # type: ignore[union-attr]
            if isinstance(answer, AttentionAnswer | RolloutAnswer):
                assert len(row) == first + 30 + 1
                assert panel.result.start_weight == pytest.approx(row[0], abs=0.01)
            levels = (np.sqrt(np.clip(row, 0, 1)) * 255).astype(int)[1:]
            where = np.arange(len(levels)) if overlay != "column" else np.arange(first + 30, len(levels))
            levels = levels[where]
        elif overlay == "none":
            assert np.array_equal(shown, plain)
            continue
        elif overlay == "keys":
            answer = one.state.answers["canvas.attention"].answer
            assert isinstance(answer, KeyNormsAnswer)
            norms = answer.norms[one.state.focus.head, 1:]
            where, levels = np.arange(255), indices((norms - norms.min()) / np.ptp(norms))
        else:
            where = np.arange(256) if overlay == "bits" else np.arange(256)[painted]
            levels = expected[overlay]
            assert np.array_equal(shown[:first], plain[:first]) == (overlay != "bits")
        wanted = plain[where] * (1 - COVER) + sequential()[levels] * COVER
        assert np.abs(shown[where] - wanted).max() <= 3, overlay
    assert panel.result.overlay == list(TITLES)[-1] == "bits"
    assert f"{bits.mean():.3f} bits per pixel" in panel.readout.text()


def test_every_layer_shows_the_picture_it_would_have_painted(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("do_sample", False))
    run(one, qtbot)
    layers, state = one.panel("layers"), one.state.run
    assert state is not None
    live(one, lambda: not np.isnan(layers.probability[:, ROWS * 16 :]).any())
    assert layers.grid.count == state.model.layers + 1
    # The last one is the model itself: its likeliest colours are those that greedy decoding chose.
    assert layers.token_ids[-1].tolist() == one.panel("canvas").result.token_ids.tolist()
    np.testing.assert_allclose(layers.probability[-1, ROWS * 16 :], np.exp(state.column("logprob")), atol=1e-3)
    assert (layers.token_ids[0] != layers.token_ids[-1]).any()
    click(qtbot, one.panel("canvas").result.canvas, ROWS * 16 + 9)
    one.frames(4)
    assert layers.grid._swatches[-1] == state.step(9).rgb
    names = ["in", *map(str, range(state.model.layers - 1)), "out"]
    assert [caption.split()[0] for caption in layers.grid._captions] == names
    for picture, layer in ((1, 0), (state.model.layers, state.model.layers - 1), (0, state.model.layers - 1)):
        qtbot.mouseClick(layers.grid, LEFT, pos=layers.grid.rect_of(picture).center().toPoint())
        one.frames(2)
        assert one.state.focus.layer == layer  # nothing has touched the first picture: a click changes nothing
        assert layers.grid._selected == layer + 1
    assert "after layer 0" in layers._tooltip(1)
    assert "the input" in layers._tooltip(0)
    assert f"out #{''.join(f'{c:02x}' for c in state.step(9).rgb or ())}" in layers.describe()


@pytest.mark.usefixtures("qapp")
def test_the_chosen_colour_is_shown_and_keys_reach_all(qtbot: QtBot) -> None:
    view = Swatches()
    qtbot.addWidget(view)
    view.resize(34 + 5 * 44, 90)
    rows = [Swatch(n, (n, n, n), 0.1, 0.1, n == 9) for n in range(12)]
    view.show_rows(rows)
    assert view.visible() == [0, 1, 2, 3, 9]
    taken: list[int] = []
    view.chosen.connect(taken.append)
    qtbot.mouseClick(view, LEFT, pos=view.square(4).center().toPoint())
    assert taken == [9]
    view.show_rows([])
    view.show_rows(rows[:8])
    assert view.visible() == [0, 1, 2, 3, 4]
    for _ in range(9):
        qtbot.keyClick(view, Qt.Key.Key_Right)
    assert view.visible() == [3, 4, 5, 6, 7]
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert taken == [9, 7]
    view.show_rows(rows)
    assert view.visible() == [0, 1, 2, 3, 9]


def test_small_pictures_keep_their_names(one: Driven, qtbot: QtBot) -> None:
    one.window.resize(1024, 640)
    one.do(i.SetLayout("image"))
    run(one, qtbot)
    grid, state = one.panel("layers").grid, one.state.run
    assert state is not None
    live(one, lambda: not np.isnan(one.panel("layers").probability).all(axis=1).any())
    one.frames(3)
    names = ["in", *map(str, range(state.model.layers - 1)), "out"]
    rooms = [grid.rect_of(n).width() - 14 for n in range(grid.count)]
    assert [grid.caption_in(n, room).split(" ")[0] for n, room in enumerate(rooms)] == names
    assert grid.caption_in(0, 500.0) == grid._captions[0]
    assert grid.caption_in(0, -20.0) == ""


def test_overlays_leave_the_tabs_whole_in_a_small_window(one: Driven, qtbot: QtBot) -> None:
    one.window.resize(1024, 640)
    one.do(i.SetLayout("image"))
    run(one, qtbot)
    panel = one.panel("canvas")
    for overlay in TITLES:
        panel.choose_overlay(overlay)
        one.frames(3)
        assert panel.tabs.width() >= panel.tabs.sizeHint().width(), overlay
        if overlay == "none":
            assert not panel.scale.isVisible()
            continue
        settle(one)  # its colours have numbers, whatever else hides for want of room
        assert panel.legend.isVisible()
        assert panel.legend.width() >= panel.legend.sizeHint().width() > 72, overlay
        assert all(any(c.isdigit() for c in end) for end in panel.legend._ends), overlay
        assert panel.meaning.text() == panel.legend.accessibleName() != ""
    menu = panel.menu.menu()
    menu.aboutToShow.emit()
    (several,) = [a.menu() for a in menu.actions() if a.menu() is not None]
    next(a for a in several.actions() if a.text() == "9").trigger()  # what hides for want of room is here
    one.frames(2)
    assert select.params(one.state).num_return_sequences == 9
    assert panel.again.text() in [a.text() for a in menu.actions()]


def test_a_painting_that_stays_incomplete_is_not_waited_for(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("max_new_tokens", 2))
    run(one, qtbot)
    panel = one.panel("canvas")
    panel.choose_overlay("bits")
    settle(one)
    assert "no bits, 30 pixels missing" in panel.readout._wordings[0]


def test_the_bits_of_what_is_opened_are_those_of_core(one: Driven, qtbot: QtBot) -> None:
    panel = one.panel("canvas")
    panel.choose_overlay("bits")
    settle(one)
    picture = one.state.draft.image.picture
    assert picture is not None
    bits = core.score_picture(MODEL, picture, **HERE)
    assert panel.readout.text().startswith(f"{bits.bits_per_pixel:.3f} bits per pixel")
    panel.twins.button.setChecked(True)
    panel.twins.tabs.setCurrentIndex(2)
    one.frames(2)
    table = panel.twins.views[2].rows
    assert table.rowCount() == 256
    assert float(table.index(40, 3).data()) == pytest.approx(float(bits.surprisal_bits.reshape(-1)[40]), abs=0.01)
    assert not math.isnan(bits.bits_per_pixel)


def test_the_beginning_is_what_a_run_begins_with(one: Driven, qtbot: QtBot) -> None:
    panel, prompt = one.panel("canvas"), one.panel("prompt")
    assert panel.readout.text() == "128 of 256 pixels given"
    prompt.tabs.setCurrentIndex(0)
    one.frames(2)
    assert panel.start.canvas.picture().isNull()
    assert panel.start.canvas._message[0] == "A run begins with the prompt’s text now"
    assert panel.readout.text() == ""
    assert "#ff8000" in prompt.text.placeholderText()
    prompt.tabs.setCurrentIndex(3)
    one.frames(2)
    assert not panel.start.canvas.picture().isNull()
    assert panel.readout.text() == "128 of 256 pixels given"


def test_a_drawing_is_made_with_the_palette_and_taken_back(one: Driven, qtbot: QtBot) -> None:
    page, image = one.panel("canvas").start, one.state.model.image if one.state.model else None
    assert image is not None
    qtbot.mouseClick(one.panel("prompt").image.empty, LEFT)
    one.frames(2)
    qtbot.mouseClick(page.draw, LEFT)
    one.frames(2)
    ground = image.palette[one.state.draft.image.token_ids[0]].tolist()  # type: ignore[index]
    assert ground == [255, 255, 255]
    qtbot.mouseClick(page.colours, LEFT, pos=page.colours.rect_of(10).center().toPoint())
    box = [page.canvas.pixel_rect(p).center().toPoint() for p in (2 * 16 + 2, 2 * 16 + 9)]
    qtbot.mousePress(page.canvas, LEFT, pos=box[0])
    qtbot.mouseMove(page.canvas, box[0] + QPoint(2, 0))
    qtbot.mouseMove(page.canvas, box[1])
    qtbot.mouseRelease(page.canvas, LEFT, pos=box[1])
    one.frames(2)
    drawn = np.array(one.state.draft.image.token_ids).reshape(16, 16)
    assert np.flatnonzero(drawn.reshape(-1) == 10).tolist() == list(range(34, 42))
    assert one.state.draft.image.keep == 3 * 16
    qtbot.mouseClick(page.tools.buttons()[1], LEFT)  # fill
    qtbot.mouseClick(page.colours, LEFT, pos=page.colours.rect_of(20).center().toPoint())
    click(qtbot, page.canvas, 0)
    one.frames(2)
    assert (np.array(one.state.draft.image.token_ids) == 20).sum() == 256 - 8
    qtbot.mouseClick(page.tools.buttons()[2], LEFT)  # pick
    click(qtbot, page.canvas, 2 * 16 + 5)
    assert page.colours.current == 10
    qtbot.keyClick(one.window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    one.frames(2)
    assert np.array_equal(np.array(one.state.draft.image.token_ids).reshape(16, 16), drawn)
    qtbot.mouseClick(page.tools.buttons()[3], LEFT)  # eraser
    click(qtbot, page.canvas, 2 * 16 + 5)
    one.frames(2)
    assert image.palette[one.state.draft.image.token_ids[37]].tolist() == ground  # type: ignore[index]


def test_paintings_are_saved_off_the_window_s_thread(one: Driven, qtbot: QtBot, tmp_path: Path) -> None:
    one.do(i.SetParameter("num_return_sequences", 2))
    run(one, qtbot)
    panel, state = one.panel("canvas"), one.state.run
    assert state is not None
    for name, save in (("a.png", panel.save_painting), ("b.png", panel.save_grid), ("c.gif", panel.save_animation)):
        save(tmp_path / name)
        live(one, lambda: not panel._files.busy)
        assert one.state.notices[-1].text == f"Saved {name}."
    saved = pictures.read_file(tmp_path / "a.png").picture
    assert saved is not None
    side = saved.width // 16
    assert side > 8
    assert np.array_equal(saved.array()[::side, ::side].reshape(-1, 3), colours(panel.result.canvas))
    assert pictures.read_file(tmp_path / "c.gif").notes == ("The first frame of an animation.",)
    for save in (panel.save_painting, panel.save_grid, panel.save_animation):  # no PNG under another name
        save(tmp_path / "a.jpg")
        live(one, lambda: not panel._files.busy)
        assert "“a.jpg”" in one.state.notices[-1].text
        assert not (tmp_path / "a.jpg").exists()
    panel.save_painting(tmp_path / "a.png" / "no.png")
    live(one, lambda: not panel._files.busy)
    assert "cannot be written" in one.state.notices[-1].text


def test_everything_has_a_name_and_its_place_at_every_size_and_theme(one: Driven, qtbot: QtBot) -> None:
    one.do(i.SetParameter("num_return_sequences", 4))
    run(one, qtbot)
    panel = one.panel("canvas")
    for page in (1, 0):
        panel.tabs.setCurrentIndex(page)
        panel.start.draw.setChecked(page == 0)
        one.do(i.SetTheme("dark" if page else "contrast"))
        for size in ((1024, 640), (1440, 900)):
            one.window.resize(*size)
            one.do(i.SetLayout("image"))
            one.frames(3)
            assert clipped(one.window) == []
        for widget in (*controls(panel), *controls(one.panel("prompt").image)):
            assert say(widget, QAccessible.Text.Name), type(widget).__name__
            assert widget.accessibleDescription() or say(widget, QAccessible.Text.Description), widget.accessibleName()
    for view in (panel.result.canvas, panel.result.grid, panel.result.swatches, one.panel("layers").grid):
        assert view.accessibleName()
        assert "row" in view.accessibleDescription().lower() or "layer" in view.accessibleDescription()
    panel.tabs.setCurrentIndex(1)
    panel.twins.button.setChecked(True)
    one.frames(2)
    state, table = one.state.run, panel.twins.views[0].rows
    assert state is not None
    assert table.rowCount() == 256
    first = ROWS * 16
    assert [table.index(first + 3, c).data() for c in (0, 1, 2, 3)] == ["14", "3", state.step(3).piece, "painted"]
    image = one.state.model.image if one.state.model else None
    assert image is not None
    red, green, blue = image.rgb(int(panel.result.token_ids[40])) or (0, 0, 0)
    cells = [table.index(40, c).data() for c in range(7)]  # of what was given the colour is told, and no more
    assert cells == ["2", "8", f"#{red:02x}{green:02x}{blue:02x}", "given", "", "", ""]
    panel._select_pixel(first + 3)
    one.frames(2)
    assert one.state.selected == 3
    panel._select_pixel(40)
    one.frames(2)
    assert one.state.selected == 3
    panel.twins.tabs.setCurrentIndex(1)
    one.frames(2)
    assert panel.twins.views[1].rows.rowCount() == 4
