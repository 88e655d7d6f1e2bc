"""Every control can be named, described and reached; text is readable in every theme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible, QPalette
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QFileDialog,
    QInputDialog,
    QLabel,
    QLineEdit,
    QListView,
    QPlainTextEdit,
    QSlider,
    QTabBar,
    QWidget,
)

from app.state import intents as i
from app.state import select
from app.theme.colormaps import contrast, rgb
from app.theme.palette import PALETTES, Palette
from app.widgets.card import CornerButton
from app.widgets.command_palette import CommandPalette
from app.widgets.modified_dot import ModifiedDot
from app.widgets.scroll_column import ScrollColumn
from app.widgets.twin import TwinStack
from tests.ui.harness import Driven, driven

pytestmark = pytest.mark.usefixtures("qapp")
OFFERED = (  # what the palette must have, whoever gathers it
    "Save as preset", "Import…", "Export…", "Remove › mine", "Decoding mode › Beam search", "Constraint › regex",
    "Candidates as a table", "Beams as a table", "New chat", "Add turn", "Copy all", "Dismiss all", "Config: Open",
    "Config: Create", "Config: Save", "ONNX: Export", "ONNX: Check", "Float Prompt", "Float Timeline",
    "Prompt: Batch",
)  # fmt: skip
CONTROLS = (QAbstractButton, QLineEdit, QPlainTextEdit, QSlider, QComboBox, QListView, QTabBar)


def controls(root: QWidget) -> list[QWidget]:
    return [w for kind in CONTROLS for w in root.findChildren(kind) if w.isVisible()]


def say(widget: QWidget, what: QAccessible.Text) -> str:
    return QAccessible.queryAccessibleInterface(widget).text(what)


def full(one: Driven) -> None:
    one.do(i.Run())
    one.do(i.Announce("error", "Broken.", "detail"))
    one.frames(4)
    one.window.show_errors()
    one.window.chooser.open_on()
    one.do(i.SelectTab("chat"))
    one.do(i.AddTurn())
    one.frames(4)


def test_every_control_has_a_name_and_a_description(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        full(one)
        unnamed, undescribed = [], []
        for widget in controls(one.window):
            name = say(widget, QAccessible.Text.Name)
            where = f"{type(widget).__name__} “{name}” in {type(widget.parentWidget()).__name__}"
            if not name:
                unnamed.append(where)
            described = widget.accessibleDescription() or say(widget, QAccessible.Text.Description)
            if not described and not isinstance(widget, ModifiedDot):
                undescribed.append(where)
        assert unnamed == []
        assert undescribed == [], "; ".join(undescribed)


def test_every_action_is_in_the_palette_and_needs_no_mouse(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        one.do(i.SavePreset("mine"))
        one.frames()
        one.window.open_palette()
        (palette,) = [d for d in one.window.findChildren(QWidget) if type(d).__name__ == "CommandPalette"]
        listed = [palette.proxy.index(r, 0).data() for r in range(palette.proxy.rowCount())]
        for entry in one.window.actions_.entries.values():
            if entry.action.objectName() != "palette":
                assert any(text.startswith(entry.action.text()) for text in listed), entry.action.text()
        assert "Apply preset mine" in listed
        for title in ("Errors", "Timeline"):
            assert title in listed
        missing = [text for text in OFFERED if not any(text in one for one in listed)]
        assert missing == []


@pytest.mark.qt_log_ignore("does not support raise", extend=True)
def test_what_a_card_offers_can_be_done_from_the_palette(tmp_path: Path, qtbot: Any) -> None:
    with driven(tmp_path / "settings.json") as one:

        def do(text: str) -> None:
            one.window.open_palette()
            (palette,) = [d for d in one.window.findChildren(CommandPalette) if d.isVisible()]
            assert not palette.isModal()
            palette.filter.setText(text)
            qtbot.keyClick(palette.filter, Qt.Key.Key_Return)
            one.frames(2)

        card = one.window.workspace.cards["timeline"]
        do("Float Timeline")
        assert card.isFloating()
        do("Dock Timeline")
        assert not card.isFloating()
        do("Candidates: Candidates as a table")
        assert one.panel("candidates").twins.shown is not None
        do("Decoding mode › Beam search")
        assert select.params(one.state).num_beams > 1
        do("Constraint › regex")
        assert one.state.grammar is not None
        one.do(i.SelectTab("chat"))
        do("Prompt: Add turn")
        assert len(one.state.draft.turns) == 1
        one.do(i.Announce("error", "Broken."))
        do("Errors: Dismiss all")
        assert one.state.errors == ()


def test_dialogs_leave_the_window_in_use(tmp_path: Path, qtbot: Any) -> None:
    with driven(tmp_path / "settings.json") as one:
        one.do(i.SetParameter("temperature", 0.25))
        panel = one.panel("parameters")
        panel.save_preset()
        (dialog,) = one.window.findChildren(QInputDialog)
        assert not dialog.isModal()
        one.do(i.Run())  # while the dialog is open
        one.frames(3)
        dialog.setTextValue("  mine ")
        dialog.accept()
        one.frames()
        assert [p.name for p in one.state.presets] == ["mine"]
        ways = (
            panel.export_preset,
            panel.import_preset,
            one.panel("config").choose_file,
            one.panel("onnx").choose_export,
            one.panel("onnx").choose_check,
            one.window.chooser.open_folder,
            one.window.chooser.open_gguf,
        )
        for ask in ways:
            ask()
            (files,) = [d for d in one.window.findChildren(QFileDialog) if d.isVisible()]
            assert not files.isModal()
            files.fileSelected.emit(str(tmp_path / "out.json")) if ask == panel.export_preset else files.close()
            files.close()
            one.frames()
        assert json.loads((tmp_path / "out.json").read_text())["temperature"] == 0.25


def test_every_button_can_have_the_focus_but_those_with_another_way(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        full(one)
        stuck = [
            f"{type(w).__name__} “{w.accessibleName()}”"
            for w in controls(one.window)
            if w.focusPolicy() == Qt.FocusPolicy.NoFocus
            and not isinstance(w, ModifiedDot)  # has the focus while it can reset something
            and not isinstance(w, CornerButton)  # the Layout menu and the palette do the same
        ]
        assert stuck == []


def test_tab_passes_over_cards_that_another_one_covers(tmp_path: Path, qtbot: Any) -> None:
    with driven(tmp_path / "settings.json") as one:
        cards = one.window.workspace.cards
        cards["interventions"].toggleViewAction().trigger()
        one.frames(2)
        cards["timeline"].raise_()
        one.frames(2)
        assert cards["interventions"].isVisible(), "as Qt sees it"
        assert cards["interventions"].visibleRegion().isEmpty()
        first = cards["prompt"].panel.text
        for key in (Qt.Key.Key_Tab, Qt.Key.Key_Backtab):
            first.setFocus()
            met = []
            while len(met) < 300 and (not met or met[-1] is not first):
                qtbot.keyClick(QApplication.focusWidget(), key)
                met.append(QApplication.focusWidget())
            assert met[-1] is first, "all the way round"
            homes = {name for name, card in cards.items() for widget in met if card.isAncestorOf(widget)}
            assert {"prompt", "parameters", "output", "cache"} <= homes
            assert "interventions" not in homes
        cards["interventions"].raise_()
        one.frames(2)
        assert one.window.workspace.shows(cards["interventions"].panel)
        assert not one.window.workspace.shows(cards["timeline"].panel)


def test_every_card_can_be_closed_and_comes_back(tmp_path: Path) -> None:
    with driven(tmp_path / "settings.json") as one:
        for name, card in one.window.workspace.cards.items():
            if not card.isVisible():
                card.toggleViewAction().trigger()
            card.close()
            one.frames()
            assert not card.isVisible(), name
            card.toggleViewAction().trigger()
            one.frames()
            assert card.isVisible(), name
        one.window.actions_["layout.reset"].trigger()
        one.frames(2)
        assert not one.window.workspace.cards["errors"].isVisible()


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
def test_text_shown_is_readable_in_every_theme(tmp_path: Path, palette: Palette) -> None:
    grounds = (palette.surface, palette.window)
    with driven(tmp_path / "settings.json", theme=palette.name) as one:
        full(one)
        poor = set()
        for widget in (*one.window.findChildren(QLabel), *controls(one.window)):
            if not widget.isVisible() or not widget.isEnabled():
                continue
            widget.ensurePolished()
            colour = widget.palette().color(QPalette.ColorGroup.Active, widget.foregroundRole()).name()
            ground = palette.accent if widget.property("primary") else None
            for behind in (ground,) if ground else grounds:
                if contrast(rgb(colour), rgb(behind)) < 4.5:
                    poor.add((type(widget).__name__, colour, behind))
        assert poor == set()
    assert QApplication.instance() is not None


def blank(twins: TwinStack) -> bool:
    """Whether the table shown has no rows and its ground is of one colour."""
    view = twins.views[twins.shown or 0]
    if view.rows.rowCount():
        return False
    picture = view.viewport().grab().toImage()
    points = ((x, y) for x in range(0, picture.width(), 2) for y in range(0, picture.height(), 2))
    return len({picture.pixel(x, y) for x, y in points}) == 1


@pytest.mark.parametrize("running", [False, True])
def test_every_card_and_its_tables_are_named_and_described(tmp_path: Path, running: bool) -> None:
    with driven(tmp_path / "settings.json") as one:
        if running:
            full(one)
        silent = set()
        for card in one.window.workspace.cards.values():
            if not card.isVisible():
                card.toggleViewAction().trigger()
            card.raise_()
            one.frames(2)
            twins = getattr(card.panel, "twins", None)
            for tables in (False, True) if twins is not None else (False,):
                if twins is not None:
                    twins.button.setChecked(tables)
                one.frames(2)
                if tables and not running:
                    assert not blank(twins), f"{card.panel.title} says nothing in its empty table"
                for widget in card.panel.findChildren(QWidget):  # controls and plots alike
                    if not widget.isVisible() or not widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
                        continue
                    if isinstance(widget, ModifiedDot | ScrollColumn):
                        continue
                    named = say(widget, QAccessible.Text.Name)
                    described = widget.accessibleDescription() or say(widget, QAccessible.Text.Description)
                    if not named or not described:
                        silent.add(f"{card.panel.title}: {type(widget).__name__} “{named}”")
        assert sorted(silent) == []
