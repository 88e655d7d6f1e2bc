"""The kinds of cache in the window: chosen with clicks, run on the real engine, shown by the panel."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.state import intents as i
from app.widgets.choice import Choice
from app.widgets.value_field import ValueField
from tests.ui.harness import Driven
from tests.ui.real import finished, live, opened


def pick(choice: Choice, text: str) -> None:
    """Choose an entry of the menu; offscreen there is no pointer to open it with."""
    next(action for action in choice.menu().actions() if action.text() == text).trigger()


def enter(qtbot: QtBot, field: ValueField, text: str) -> None:
    field.setFocus()
    field.selectAll()
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
