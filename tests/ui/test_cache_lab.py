"""The kinds of cache in the window: chosen with clicks, run on the real engine, shown by the panel."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QPointF, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication, QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from app import files
from app.panels.cache import CachePanel
from app.panels.cache_words import formula, storage
from app.state import intents as i
from app.widgets.choice import Choice
from app.widgets.value_field import ValueField
from core.contract import EXPERIMENT_TITLES, EXPERIMENTS, CacheSpec, ExperimentName
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened


def pick(choice: Choice, text: str) -> None:
    """Choose an entry of the menu; offscreen there is no pointer to open it with."""
    next(action for action in choice.menu().actions() if action.text() == text).trigger()


def enter(qtbot: QtBot, field: ValueField, text: str) -> None:
    field.setFocus()
    field.selectAll()
    qtbot.keyClick(field, Qt.Key.Key_Delete)
    qtbot.keyClicks(field, text)
    qtbot.keyClick(field, Qt.Key.Key_Return)


def generate(one: Driven, tokens: int, text: str = "Once upon a time there was a little dog") -> None:
    one.do(i.EditText(text))
    one.do(i.SetParameter("max_new_tokens", tokens))
    one.do(i.SetParameter("do_sample", False))
    one.do(i.Run())
    live(one, lambda: one.state.run is not None and one.state.requested is None and finished(one))


def test_two_kinds_chosen_with_clicks_run_and_are_shown(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        row, panel = one.panel("parameters").cache, one.panel("cache")
        one.do(i.SetLayout("cache"))
        generate(one, 24)
        growing = one.state.run
        assert growing is not None
        assert "growing" in panel.kind.text()

        pick(row.kind, "Sliding window")
        one.frames(2)
        assert row.sizes.isVisible()
        enter(qtbot, row.fields["window"], "8")
        generate(one, 24)
        sliding = one.state.run
        assert sliding is not None
        assert one.state.cache.window == 8
        assert "sliding_window 8" in panel.kind.text()
        last = sliding.step(23).cache
        assert last.length == growing.step(23).cache.length > 30
        assert last.used_bytes * last.length == growing.step(23).cache.used_bytes * last.held
        assert last.held == 8

        pick(row.kind, "8-bit integers")
        one.frames(2)
        assert not row.sizes.isVisible()
        generate(one, 8)
        assert one.state.run is not None
        assert one.state.run.step(7).cache.kind == "int8"
        one.do(i.Undo())
        assert one.state.cache.kind == "int8"  # the text was edited last


def test_a_size_that_is_no_number_is_said_and_changes_nothing(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        row = one.panel("parameters").cache
        one.do(i.SetCache(type(one.state.cache)("sink", window=40)))
        one.frames(2)
        enter(qtbot, row.fields["window"], "wide")
        assert "cannot be “wide”" in one.state.notices[-1].text
        enter(qtbot, row.fields["window"], "100000")
        live(one, lambda: "larger than the 512" in one.panel("parameters").plan_problem.text())
        one.do(i.Run())
        live(one, lambda: finished(one))
        assert "larger than the 512" in one.state.notices[-1].text


def press(qtbot: QtBot, button: QPushButton) -> None:
    assert button.isVisible()
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def open_tab(qtbot: QtBot, panel: CachePanel, index: int) -> None:
    bar = panel.tabs
    qtbot.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(index).center())
    assert panel.pages.currentIndex() == index


def done(one: Driven) -> bool:
    return one.state.cache_lab.working is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_runs_with_one_click(qtbot: QtBot, qapp: object, tmp_path: Path, name: ExperimentName) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.EditText("Once upon a time there was"))
        one.frames(2)
        lab = one.panel("cachelab")
        pick(lab.choice, EXPERIMENT_TITLES[name])
        one.frames(2)
        assert lab.plot.accessibleDescription() == "Nothing was measured yet"
        press(qtbot, lab.start)
        one.frames(1)
        assert lab.stop.isVisible()
        live(one, lambda: done(one))
        result = one.state.cache_lab.result
        assert result is not None
        assert result.complete
        assert result.name == name
        assert all(finding.holds is not False for finding in result.findings)
        assert all(finding.text in lab.findings.text() for finding in result.findings)
        names = {line.name for line in lab.plot._lines}
        assert names == {series.name for series in result.series}
        press(qtbot, lab.twins.button)
        one.frames(2)
        view = lab.twins.views[0]
        model = view.model()
        table = result.tables[0]
        assert (model.rowCount(), model.columnCount()) == (len(table.rows), len(table.columns))
        assert all(series.name in lab.plot.accessibleDescription() for series in result.series)


def test_an_experiment_is_stopped_with_a_click_and_keeps_what_it_found(
    qtbot: QtBot, qapp: object, tmp_path: Path
) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.frames(2)
        lab = one.panel("cachelab")
        pick(lab.choice, "Growth")
        one.frames(2)
        press(qtbot, lab.start)
        live(one, lambda: one.state.cache_lab.result is not None and bool(one.state.cache_lab.result.series))
        press(qtbot, lab.stop)
        live(one, lambda: done(one))
        assert one.state.cache_lab.stopped
        assert lab.findings.text().endswith("Stopped before its end.")
        assert lab.plot._lines
        assert lab.start.isVisible()


def test_sizes_are_typed_and_used(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.EditText("Once upon a time there was"))
        one.frames(2)
        lab = one.panel("cachelab")
        fields = lab.sizes.fields
        assert {name for name, field in fields.items() if field.isVisible()} == {"new_tokens"}
        pick(lab.choice, "Chunk size")
        one.frames(2)
        assert {name for name, field in fields.items() if field.isVisible()} == {"positions", "chunk_sizes"}
        enter(qtbot, fields["positions"], "0")
        assert one.state.notices[-1].text == "“0” is no whole number from 1 to 1,000,000,000."
        enter(qtbot, fields["chunk_sizes"], "5, x")
        assert one.state.notices[-1].text == "“5, x” is no list of sizes such as 8, 64, 256."
        enter(qtbot, fields["positions"], "20")
        enter(qtbot, fields["chunk_sizes"], "5 9")
        one.frames(2)
        assert fields["chunk_sizes"].text() == "5, 9"
        press(qtbot, lab.start)
        live(one, lambda: done(one))
        result = one.state.cache_lab.result
        assert result is not None
        assert [row[0] for row in result.tables[0].rows] == [5, 9, 20]
        assert "Left out" not in lab.findings.text()
        pick(lab.choice, "Kinds compared")
        one.frames(2)
        enter(qtbot, fields["new_tokens"], "6")
        enter(qtbot, fields["window"], "3")
        enter(qtbot, fields["sinks"], "0")
        enter(qtbot, fields["heavy"], "2")
        press(qtbot, lab.start)
        live(one, lambda: done(one))
        result = one.state.cache_lab.result
        assert result is not None
        assert {"sliding_window 3", "sink 0 + 3", "heavy_hitters 2 + 3"} < {row[0] for row in result.tables[0].rows}
        assert lab.plot._plots[1].log
        names = [line.name for line in lab.plot._lines]
        colours = {lab.plot.colour(name).name() for name in names}
        assert len(colours) == len(set(names))  # no two kinds look the same
        enter(qtbot, fields["window"], "")
        one.frames(2)
        assert one.state.cache_lab.asked.window is None
        pick(lab.choice, "Chunk size")
        one.frames(2)
        assert fields["positions"].text() == "20"  # each experiment keeps its sizes


def test_an_experiment_without_a_prompt_is_refused_as_a_run_is(qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SelectTab("batch"))
        one.do(i.EditBatch(""))
        one.do(i.StartExperiment())
        assert one.state.notices[-1].text == "The batch is empty; write a prompt on each line."
        assert one.state.cache_lab.working is None


def test_an_experiment_waits_for_the_end_of_a_run(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.SetParameter("max_new_tokens", 400))
        one.do(i.Run())
        live(one, lambda: one.state.run is not None and one.state.run.count > 2)
        assert not one.panel("cachelab").start.isEnabled()
        one.do(i.StartExperiment())
        assert "A run is in progress" in one.state.notices[-1].text
        one.do(i.Stop())
        live(one, lambda: finished(one))
        assert one.panel("cachelab").start.isEnabled()


def test_numbers_and_picture_are_exported(
    qtbot: QtBot, qapp: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.PickExperiment("prefix"))
        one.do(i.StartExperiment())
        live(one, lambda: done(one))
        lab = one.panel("cachelab")

        def export(ask: Callable[[], None], path: Path) -> None:
            ask()
            (dialog,) = (found for found in lab.findChildren(QFileDialog) if found.isVisible())
            assert not dialog.isModal()
            dialog.fileSelected.emit(str(path))
            dialog.close()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            assert len(lab.findChildren(QFileDialog)) == 1  # those before are gone

        export(lab.export_csv, tmp_path / "prefix.csv")
        result = one.state.cache_lab.result
        assert result is not None
        assert (tmp_path / "prefix.csv").read_text() == result.tables[0].as_csv()
        export(lab.export_png, tmp_path / "prefix.png")
        picture = QImage(str(tmp_path / "prefix.png"))
        assert (picture.width(), picture.height()) == (lab.plot.width(), lab.plot.height())
        blocked = tmp_path / "blocked"
        blocked.write_text("a file, no folder")
        for ask in (lab.export_csv, lab.export_png):
            export(ask, blocked / "out")
            assert "cannot be written" in one.state.notices[-1].text

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        for ask, path in ((lab.export_csv, tmp_path / "prefix.csv"), (lab.export_png, tmp_path / "prefix.png")):
            good = path.read_bytes()
            export(ask, path)
            assert one.state.notices[-1].text == f"“{path}” cannot be written: No space left on device."
            assert path.read_bytes() == good


def test_the_content_of_the_cache_is_seen_and_clicked(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.SetCache(CacheSpec("sink", window=6, sinks=2)))
        generate(one, 20)
        panel = one.panel("cache")
        open_tab(qtbot, panel, 1)
        live(one, lambda: panel.content._answer is not None)
        answer, run = panel.content._answer, one.state.run
        assert answer is not None
        assert run is not None
        fed = run.prompt_tokens + 19
        gone = np.isnan(answer.key_norms).all(axis=0)
        assert answer.key_norms.shape == (8, fed)
        assert gone.tolist() == [2 <= n < fed - 6 for n in range(fed)]
        strip = panel.content.norms
        assert "positions are gone" in panel.content.note.text()
        scales = [(label.text(), *legend._ends) for label, legend in panel.content.scales.scales if label.isVisible()]
        tops = [f"{np.nanmax(norms):.2f}" if np.nanmax(norms) < 10 else f"{np.nanmax(norms):.1f}" for norms in (
            answer.key_norms, answer.value_norms)]  # fmt: skip
        assert scales == [("K norm", "0", tops[0]), ("V norm", "0", tops[1]), ("cosine", "−1", "1")]
        lowest = np.unravel_index(np.nanargmin(answer.similarity), answer.similarity.shape)
        at = (float(answer.similarity[lowest]) + 1) / 2  # cosines below 0 have colours of their own
        colour = panel.content.likeness.lut()[round(255 * at)]
        pixel = panel.content.likeness._images[0].pixelColor(int(lowest[1]), int(lowest[0]))
        assert np.abs(np.array((pixel.red(), pixel.green(), pixel.blue())) - colour).max() <= 3
        assert strip._labelled()  # every column has its token above it
        newest = fed - 2
        box = strip._boxes()[0]
        at = QPointF(box.left() + (newest + 0.5) * strip._cell_px(), box.center().y())
        qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=at.toPoint())
        one.frames(2)
        assert one.state.selected == newest - run.prompt_tokens
        assert f"Position {newest}" in panel.content.note.text()
        qtbot.keyClick(strip, Qt.Key.Key_Left)
        one.frames(2)
        assert one.state.selected == newest - run.prompt_tokens - 1
        assert not panel.content.delete.isEnabled()  # this kind drops by a rule of its own
        assert "mute the position" in panel.content.delete.toolTip()
        panel.content.norms.clicked.emit(3)
        one.frames(2)
        assert "are gone" in panel.content.note.text()
        assert not panel.content.mute.isVisible()  # there is nothing to be muted
        panel.content.norms.clicked.emit(newest - 1)
        one.frames(2)
        press(qtbot, panel.content.mute)
        one.frames(2)
        assert panel.muted.field.text() == str(newest - 1)
        assert panel.content.mute.text() == "Unmute position"
        press(qtbot, panel.content.mute)
        one.frames(2)
        assert panel.muted.field.text() == ""
        panel.content.norms.clicked.emit(0)  # out of sight: the columns scroll there
        one.frames(2)
        assert strip.bar.value() == 0
        pick(panel.content.columns, "all")
        one.frames(2)
        assert not strip.bar.isVisible()
        assert strip._cell_px() * fed <= strip.width()
        pick(panel.content.layer, "3")
        live(one, lambda: panel.content._answer is not None and panel.content._answer.query.layer == 3)
        press(qtbot, panel.twins.button)
        panel.twins.tabs.setCurrentIndex(2)
        one.frames(2)
        assert panel.content.norms_table().rows == fed
        assert panel.content.likeness_table().rows == len(answer.similarity)


def test_what_if_has_both_forms_and_every_known_model(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.frames(2)
        panel = one.panel("cache")
        open_tab(qtbot, panel, 2)
        page = panel.what_if
        assert page is not None
        one.frames(2)
        assert "2 × 1 × 512 × 6 × 8 × 32 × 4 = 6,291,456 B" in page.text.text()
        assert "2 × 1 × 512 × 6 × 256 × 4 = 6,291,456 B" in page.text.text()
        enter(qtbot, page.batch, "3")
        enter(qtbot, page.positions, "1000")
        pick(page.dtype, "bf16")
        pick(page.model, "Llama 3 8B")
        enter(qtbot, page.positions, "1000")
        assert f"= {2 * 3 * 1000 * 32 * 8 * 128 * 2:,} B" in page.text.text()
        assert "4 query heads share" in page.text.text()
        one.do(i.SetCache(CacheSpec("int8")))
        one.frames(2)
        assert "int8: " in page.text.text()
        enter(qtbot, page.batch, "many")
        assert "no whole number" in one.state.notices[-1].text


def test_a_batch_tells_its_padding_and_int8_its_scales(qtbot: QtBot, qapp: object, tmp_path: Path) -> None:
    with opened(tmp_path / "settings.json", size=(1440, 900)) as one:
        one.do(i.SetLayout("cache"))
        one.do(i.SetCache(CacheSpec("int8")))
        one.do(i.SelectTab("batch"))
        one.do(i.EditBatch("Once upon a time there was a dog\nOnce"))
        one.do(i.SetParameter("max_new_tokens", 6))
        one.do(i.Run())
        live(one, lambda: one.state.run is not None and finished(one))
        run = one.state.run
        assert run is not None
        report = run.step(run.count - 1).cache
        said = formula(run, report).replace("\u00a0", " ")
        assert "(scales)" in said
        assert "(8 bits a number)" in said
        assert "not explained" not in said
        assert f"{report.used_bytes:,}" in said
        where = storage(run, run.step(run.count - 1)).replace("\u00a0", " ")
        assert "of it padding, in 2 rows" in where
        assert "(2, 8, " in where
