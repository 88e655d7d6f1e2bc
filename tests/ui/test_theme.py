"""Colours and fonts: readable, the same everywhere, nothing missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QRectF
from PySide6.QtGui import QFontInfo, QFontMetricsF
from PySide6.QtWidgets import QApplication, QToolTip, QWidget

from app.state import intents as i
from app.theme import fonts
from app.theme.colormaps import contrast, diverging, indices, rgb, sequential, text_on, token_fills
from app.theme.palette import PALETTES, Palette
from app.theme.style import style_sheet
from app.widgets.command_palette import CommandPalette
from tests.ui.harness import Driven, driven
from tests.ui.test_contrast import ground

READABLE = 4.5


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
def test_text_is_readable_on_every_surface(palette: Palette) -> None:
    for colour in (palette.text, palette.secondary, palette.error, palette.warning):
        for surface in (palette.window, palette.surface, palette.raised):
            assert contrast(rgb(colour), rgb(surface)) >= READABLE, (colour, ground)
    for colour in (palette.accent, palette.key, palette.value, *palette.categorical):
        assert contrast(rgb(colour), rgb(palette.surface)) >= READABLE, colour
    assert contrast(rgb(palette.text), rgb(palette.accent_soft)) >= READABLE
    assert contrast(rgb(palette.on_accent), rgb(palette.accent)) >= READABLE


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
def test_text_is_readable_on_every_token_colour(palette: Palette) -> None:
    fills = token_fills(palette)
    assert fills.shape == (256, 3)
    assert min(contrast(rgb(palette.text), tuple(map(int, fill))) for fill in fills) >= READABLE


def test_text_on_any_fill_is_readable() -> None:
    for fill in [*sequential(), *diverging()]:
        colour = tuple(map(int, fill))
        assert contrast(rgb(text_on(colour)), colour) >= READABLE


def test_the_sequential_map_grows_lighter_all_the_way() -> None:
    lightness = sequential().astype(float) @ (0.2126, 0.7152, 0.0722)
    assert np.all(np.diff(lightness) > -1.0)
    assert lightness[-1] - lightness[0] > 180
    assert not sequential().flags.writeable


def test_values_outside_of_the_map_are_clipped() -> None:
    np.testing.assert_array_equal(indices(np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan])), [0, 0, 128, 255, 255, 0])


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
def test_the_style_sheet_has_no_holes(palette: Palette) -> None:
    sheet = style_sheet(palette)
    assert "$" not in sheet
    assert palette.accent in sheet


def test_the_shipped_fonts_are_used_and_figures_are_tabular(qapp: QApplication) -> None:
    fonts.load_fonts()
    for font, family in ((fonts.ui(), "Inter"), (fonts.mono(), "JetBrains Mono")):
        assert QFontInfo(font).family() == family
        for bold in (False, True):
            metrics = QFontMetricsF(fonts.ui(bold=bold) if family == "Inter" else fonts.mono(bold=bold))
            widths = [metrics.horizontalAdvance(digit) for digit in "0123456789"]
            assert max(widths) - min(widths) < 0.05


@pytest.mark.qt_log_ignore("does not support")  # offscreen, when a menu or a tooltip appears
@pytest.mark.parametrize("theme", PALETTES)
def test_dialogs_menus_and_tooltips_wear_the_theme_of_the_window(
    theme: str, tmp_path: Path, qapp: QApplication
) -> None:
    palette = PALETTES[theme]  # type: ignore[index]
    with driven(tmp_path / "settings.json", theme="light" if theme == "dark" else "dark") as one:
        window, card = one.window, one.window.workspace.cards["output"]
        one.do(i.SetTheme(theme))  # type: ignore[arg-type]
        one.frames(2)
        window.chooser.open_on()
        window.open_palette()
        window.twin_editor.open_for(one.state)
        menu = card.menu()
        menu.popup(window.rect().center())
        wanted: dict[QWidget, str] = {
            window.chooser: palette.window,
            window.findChildren(CommandPalette)[-1]: palette.surface,
            window.twin_editor: palette.window,
            menu: palette.surface,
        }
        assert {widget: seen(one, widget) for widget in wanted} == {w: rgb(c) for w, c in wanted.items()}
        for widget in wanted:
            widget.close()
        QToolTip.showText(window.rect().center(), "What this is", card.panel)
        (tip,) = (w for w in qapp.topLevelWidgets() if w.inherits("QTipLabel") and w.isVisible())
        assert seen(one, tip) == rgb(palette.raised)
        QToolTip.hideText()


def seen(one: Driven, widget: QWidget) -> tuple[int, int, int] | None:
    """The colour most of it has."""
    one.frames(2)
    return ground(widget.grab().toImage(), QRectF(widget.rect()))
