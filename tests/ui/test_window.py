"""The window on a scripted lab: runs, shortcuts, layouts, themes, notices, what it remembers."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QEnterEvent, QPalette
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QSlider,
    QTabBar,
    QWidget,
)

from app.settings import Settings
from app.state import intents as i
from app.state import select
from app.state.state import LayoutName
from app.theme.palette import DARK, LIGHT
from app.widgets.command_palette import CommandPalette
from app.workspace import BEHIND, LAYOUTS, Workspace
from core.contract import CancelLoad, ErrorReport, LoadModel, ModelSpec, PauseRun, ResumeRun, StartRun, StopRun
from tests.ui.fake_lab import FakeLab
from tests.ui.harness import clipped, driven

EVERYTHING = {name for column in LAYOUTS["everything"] for name, _ in column.cards} | set(BEHIND["everything"])

pytestmark = pytest.mark.usefixtures("qapp")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def press(
    qtbot: object, target: QWidget, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier
) -> None:
    qtbot.keyClick(target, key, modifier)  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(1024, 640), (1440, 900)])
def test_no_text_of_the_toolbar_is_cut(settings: Path, size: tuple[int, int]) -> None:
    with driven(settings, size=size) as one:
        bar = one.window.toolbar
        for layout in LAYOUTS:
            one.do(i.SetLayout(layout))
            one.frames(2)
            cut = [b.text() for b in bar.findChildren(QAbstractButton) if b.width() < b.sizeHint().width()]
            assert cut == [], layout
        assert bar.name.isVisible() == (size[0] > 1024)


def test_ctrl_enter_in_the_editor_runs_and_every_panel_follows(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        editor = one.panel("prompt").text
        editor.setFocus()
        press(qtbot, editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        assert one.lab.sent(StartRun)
        one.frames(8)
        assert one.state.run is not None
        assert one.state.run.count >= 7
        assert one.window.statusbar.state.text() == "Running"
        assert one.window.statusbar.context.value.text().endswith("/ 512")
        for name, card in one.window.workspace.cards.items():
            assert card.isVisible() == (name in EVERYTHING)


def test_f5_pauses_and_resumes_f10_steps_esc_stops(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        window = one.window
        press(qtbot, window, Qt.Key.Key_F10)
        one.until(lambda: select.is_paused(one.state))
        assert one.state.run is not None
        assert one.state.run.count == 1
        assert window.actions_["pause"].text() == "Resume"
        press(qtbot, window, Qt.Key.Key_F10)
        one.until(lambda: one.state.run.count == 2)
        one.until(lambda: select.is_paused(one.state))
        press(qtbot, window, Qt.Key.Key_F5)
        assert one.lab.sent(ResumeRun)[-1] == ResumeRun()
        one.frames(2)
        press(qtbot, window, Qt.Key.Key_F5)
        assert one.lab.sent(PauseRun)
        one.frames(2)
        press(qtbot, window, Qt.Key.Key_Escape)
        assert one.lab.sent(StopRun)
        one.frames(2)
        assert window.statusbar.state.text() == "Stopped"
        assert not window.actions_["stop"].isEnabled()


def test_letters_and_arrows_select_tokens_only_outside_of_text_fields(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        one.do(i.Run())
        one.frames(10)
        one.do(i.Stop())
        one.frames(2)
        count = one.state.run.count
        target = one.window.workspace.cards["output"]
        target.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        target.setFocus()
        press(qtbot, target, Qt.Key.Key_K)
        press(qtbot, target, Qt.Key.Key_Left)
        assert one.state.selected == count - 3
        press(qtbot, target, Qt.Key.Key_J)
        assert one.state.selected == count - 2
        press(qtbot, target, Qt.Key.Key_Right)
        assert one.state.selected is None
        editor = one.panel("prompt").text
        editor.setFocus()
        before = editor.toPlainText()
        press(qtbot, editor, Qt.Key.Key_K)
        assert one.state.selected is None
        assert editor.toPlainText() != before
        slider = one.panel("parameters").rows["top_p"].slider
        slider.setFocus()
        press(qtbot, slider, Qt.Key.Key_Left)
        assert one.state.selected is None
        assert "top_p" in one.state.overrides


def test_tab_leaves_the_editor(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        editor = one.panel("prompt").text
        editor.setFocus()
        press(qtbot, editor, Qt.Key.Key_Tab)
        assert QApplication.focusWidget() is not editor
        assert "\t" not in editor.toPlainText()


def test_every_layout_shows_its_cards_and_clips_nothing(settings: Path) -> None:
    with driven(settings, size=(1024, 640)) as one:
        one.do(i.Run())
        one.frames(6)
        for layout, columns in LAYOUTS.items():
            one.do(i.SetLayout(layout))
            one.frames(6)  # the cards learn how small they can be, then the places are shared once more
            expected = {name for column in columns for name, _ in column.cards} | set(BEHIND.get(layout, ()))
            cards = one.window.workspace.cards
            assert {name for name, card in cards.items() if card.isVisible()} == expected
            assert clipped(one.window) == []
            room = one.window.workspace.rect()
            for name in expected - set(BEHIND.get(layout, ())):  # Qt keeps the tabs behind out of sight
                assert room.contains(cards[name].geometry()), f"{name} in {layout}"
            shown = [cards[name].geometry() for name in expected - set(BEHIND.get(layout, ()))]
            assert not any(a.intersects(b) for a in shown for b in shown if a is not b), layout


def _is_seen(widget: QWidget) -> bool:
    """Qt parks what is behind a tab, and spare rows of tabs, outside of the window."""
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


def _overlaps(workspace: Workspace) -> list[str]:
    """Cards and rows of tabs that lie over one another, or beyond the window."""
    bars = [bar for bar in workspace.findChildren(QTabBar) if bar.parent() is workspace and _is_seen(bar)]
    cards = [c for c in workspace.cards.values() if _is_seen(c)]
    places = [(c.panel.name, c.geometry()) for c in cards]
    places += [(" | ".join(bar.tabText(n) for n in range(bar.count())), bar.geometry()) for bar in bars]
    found = [f"{a} over {b}" for (a, one), (b, other) in combinations(places, 2) if one.intersects(other)]
    return found + [f"{name} outside" for name, place in places if not workspace.rect().contains(place)]


@pytest.mark.parametrize(
    ("layout", "opened"),
    [
        ("sample", ("lens",)),
        ("everything", ("lens",)),
        ("everything", ("lens", "layers")),
        ("everything", ("lens", "walk", "compare")),
        ("everything", ("mode", "lens")),
        ("image", ("mode", "lens")),
        ("image", ("lens", "config", "onnx")),
    ],
)
def test_cards_and_tabs_never_lie_over_each_other(settings: Path, layout: LayoutName, opened: tuple[str, ...]) -> None:
    """Opened in a large window that then becomes as small as it may be; what came last can be seen."""
    with driven(settings) as one:
        one.do(i.SetLayout(layout))
        one.frames(4)
        for name in opened:
            one.window.workspace.cards[name].toggleViewAction().trigger()
            one.frames(3)
        one.window.resize(1024, 640)
        one.frames(6)
        assert _overlaps(one.window.workspace) == []
        cards = one.window.workspace.cards
        assert all(cards[name].isVisible() for name in opened)
        assert _is_seen(cards[opened[-1]])


def test_a_hidden_panel_asks_for_nothing(settings: Path) -> None:
    with driven(settings) as one:
        one.do(i.SetLayout("cache"))
        one.frames(2)
        one.do(i.Run())
        one.frames(6)
        assert not one.state.asked


def test_theme_switches_live(settings: Path) -> None:
    with driven(settings) as one:
        app = QApplication.instance()
        assert app.palette().color(QPalette.ColorRole.Window).name().upper() == LIGHT.window
        one.window.toolbar.theme.click()
        one.frames(2)
        assert one.state.theme == "dark"
        assert app.palette().color(QPalette.ColorRole.Window).name().upper() == DARK.window
        one.window.toolbar.theme.click()
        one.frames(2)
        assert one.state.theme == "light"


def test_arrangement_theme_and_layout_are_remembered(settings: Path) -> None:
    with driven(settings, size=(1300, 800)) as one:
        one.do(i.SetTheme("dark"))
        one.do(i.SetLayout("cache"))
        one.frames(2)
        one.window.workspace.cards["cachelab"].close()
        one.frames(2)
    kept = Settings(settings)
    assert (kept.theme, kept.layout) == ("dark", "cache")
    with driven(settings, layout=kept.layout) as one:
        visible = {name for name, card in one.window.workspace.cards.items() if card.isVisible()}
        assert visible == {"prompt", "parameters", "output", "cache"}


def test_shares_of_a_named_layout_hold_at_every_size_until_a_separator_is_moved(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        workspace = one.window.workspace

        def widths() -> list[int]:
            return [workspace.cards[name].width() for name in ("prompt", "output", "candidates")]

        before = widths()
        assert before[1] > before[2] > before[0]
        one.window.resize(1024, 640)
        one.frames(2)
        one.window.resize(1440, 900)
        one.frames(2)
        assert widths() == before
        gap = workspace.cards["prompt"].geometry().topRight() + QPoint(4, 100)
        qtbot.mousePress(workspace, Qt.MouseButton.LeftButton, pos=gap)  # type: ignore[attr-defined]
        qtbot.mouseMove(workspace, gap + QPoint(60, 0))  # type: ignore[attr-defined]
        one.frames(2)
        qtbot.mouseRelease(workspace, Qt.MouseButton.LeftButton, pos=gap + QPoint(60, 0))  # type: ignore[attr-defined]
        one.frames(2)
        moved = widths()
        one.window.resize(1024, 640)
        one.frames(2)
        one.window.resize(1440, 900)
        one.frames(2)
        assert widths() != before
        assert moved != before
        one.do(i.SetLayout("everything"))  # asked for again: as it was
        one.frames(2)
        assert widths() == before


def test_a_hidden_card_comes_back_from_the_menu(settings: Path) -> None:
    with driven(settings, layout="sample") as one:
        card = one.window.workspace.cards["cache"]
        assert not card.isVisible()
        actions = {a.text(): a for a in one.window.toolbar.layout_button.menu().actions()}
        actions["KV cache"].trigger()
        one.frames(2)
        assert card.isVisible()
        assert not card.isFloating()
        menu = card.menu()
        {a.text(): a for a in menu.actions()}["Hide"].trigger()
        menu.deleteLater()
        one.frames(2)
        assert not card.isVisible()


def test_damaged_settings_fall_back_to_the_default(settings: Path) -> None:
    settings.write_text(
        '{"version": 1, "theme": "pink", "layout": 7, "geometry": "eA==", "cards": "?", "recent_models": [3, null]}'
    )
    with driven(settings) as one:
        assert one.settings.theme == "light"
        assert one.settings.layout == "everything"
        assert all(card.isVisible() for name, card in one.window.workspace.cards.items() if name in EVERYTHING)


def test_settings_of_another_version_are_dropped(settings: Path) -> None:
    settings.write_text('{"theme": "dark", "version": 99}')
    assert Settings(settings).theme == "light"


def test_choosing_a_model_loads_it_and_unavailable_ones_say_why(settings: Path) -> None:
    with driven(settings) as one:
        actions = {a.text(): a for a in one.window.toolbar.model.menu().actions()}
        assert not actions["Gone"].isEnabled()
        assert actions["Gone"].toolTip() == "The package is not installed."
        actions["SmolLM2-135M-Instruct"].trigger()
        assert one.lab.sent(LoadModel)[-1].spec.name == "smollm2"
        one.frames(3)
        assert one.window.toolbar.model.text().startswith("SmolLM2")
        weights = {a.text(): a for a in one.window.toolbar.placement.menu().actions()}
        weights["fp32"].trigger()
        assert one.lab.sent(LoadModel)[-1].spec == ModelSpec("smollm2", "auto", "fp32")
        one.frames(2)


def test_loading_shows_progress_and_can_be_cancelled(settings: Path) -> None:
    with driven(settings) as one:
        one.lab.hold_loading = True
        one.do(i.ChooseModel("smollm2"))
        one.frames(2)
        strip = one.window.notices.loading
        assert strip.isVisible()
        assert "SmolLM2-135M-Instruct" in strip.text.text()
        assert "50 %" in strip.text.text()
        strip.cancel.click()
        assert one.lab.sent(CancelLoad)
        one.frames(2)
        assert not strip.isVisible()
        assert one.state.model is not None
        assert one.window.toolbar.model.text().startswith("Tiny GPT-2")


def test_an_error_is_one_quiet_sentence_with_details_to_copy(settings: Path) -> None:
    with driven(settings) as one:
        one.lab.refuse = {StartRun: ErrorReport("prompt", "The prompt is too long.", "<b>not markup</b>")}
        one.do(i.Run())
        one.frames(2)
        assert QApplication.activeModalWidget() is None
        (strip,) = one.window.notices.strips
        assert strip.text.text() == "The prompt is too long."
        assert not strip.detail.isVisible()
        strip.details.click()
        assert strip.detail.isVisible()
        assert strip.detail.toPlainText() == "<b>not markup</b>"
        strip.copy.click()
        assert "not markup" in QApplication.clipboard().text()
        strip.dismiss.click()
        one.frames(2)
        assert one.window.notices.strips == []
        assert one.state.notices == ()


def test_palette_lists_every_action_and_runs_the_chosen_one(settings: Path, qtbot: object) -> None:
    with driven(settings) as one:
        press(
            qtbot,
            one.window,
            Qt.Key.Key_P,
            Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier,
        )
        (palette,) = one.window.findChildren(CommandPalette)
        everything = palette.proxy.rowCount()
        assert everything >= len(one.window.actions_.entries) - 1
        palette.filter.setFocus()
        QApplication.clipboard().setText("word " * 200_000)
        palette.filter.paste()  # Qt would warn of an expression that is too large
        assert palette.proxy.rowCount() == 0
        palette.filter.setText("dark th")
        assert palette.proxy.rowCount() == 1
        press(qtbot, palette.filter, Qt.Key.Key_Return)
        one.frames(2)
        assert one.state.theme == "dark"


def test_every_control_has_an_accessible_name(settings: Path) -> None:
    with driven(settings) as one:
        one.frames(4)
        unnamed = [
            f"{type(w).__name__} in {type(w.parentWidget()).__name__}"
            for kind in (QAbstractButton, QLineEdit, QPlainTextEdit, QSlider, QComboBox)
            for w in one.window.findChildren(kind)
            if w.isVisible() and not (w.accessibleName() or (isinstance(w, QAbstractButton) and w.text()))
        ]
        assert unnamed == []


@pytest.mark.qt_log_ignore("does not support raise", extend=True)  # floating, offscreen
def test_closing_in_the_middle_of_a_run_leaves_nothing(settings: Path) -> None:
    lab = FakeLab()
    with driven(settings, lab) as one:
        one.do(i.Run())
        one.frames(3)
        one.window.workspace.cards["cache"].setFloating(True)
        one.frames(2)
    assert settings.exists()


def test_status_keeps_its_place_while_numbers_change(settings: Path) -> None:
    with driven(settings) as one:
        one.do(i.Run())
        one.frames(3)
        bar = one.window.statusbar
        figures = (bar.first_token, bar.speed, bar.context, bar.cache, bar.probes, bar.lateness)
        before = [f.geometry() for f in figures]
        one.frames(60)
        assert [f.geometry() for f in figures] == before


def test_a_heavy_card_behind_another_one_is_rendered_when_it_comes_to_the_front(settings: Path) -> None:
    with driven(settings, size=(1440, 900)) as one:
        one.do(i.SetLayout("image"))
        one.frames(4)
        attention = one.window.workspace.cards["attention"]
        assert attention.heavy
        rendered: list[object] = []
        attention.panel.render = rendered.append  # type: ignore[method-assign]
        one.do(i.Run())
        one.frames(6)
        assert rendered == []
        attention.raise_()
        one.frames(2)
        assert rendered[-1].run is one.state.run  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(1440, 900), (1024, 640)])
def test_nothing_lies_over_the_controls_of_a_title_bar(settings: Path, size: tuple[int, int]) -> None:
    with driven(settings, size=size) as one:
        one.do(i.Announce("error", "A sentence about what went wrong."))
        one.window.show_errors()
        one.frames(3)
        seen = 0
        for card in one.window.workspace.cards.values():
            if card.isHidden():
                card.toggleViewAction().trigger()
            card.raise_()
            one.frames(2)
            QApplication.sendEvent(card, QEnterEvent(QPointF(5, 5), QPointF(5, 5), QPointF(5, 5)))
            one.frames(1)
            owners = (*card.panel.header_widgets(), *card.panel.header_right_widgets(), card.header.corner)
            for widget in (w for owner in owners for w in (owner, *owner.findChildren(QWidget))):
                if not widget.isVisible() or widget.visibleRegion().isEmpty():
                    continue
                if not isinstance(widget, QAbstractButton | QComboBox):
                    continue
                seen += 1
                found = one.window.childAt(widget.mapTo(one.window, widget.rect().center()))
                assert found is widget, f"{card.panel.title}: {found} over “{widget.accessibleName()}”"
        assert seen > 30
