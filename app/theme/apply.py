"""Applying a palette to the whole application: Fusion, a QPalette, a small style sheet, pyqtgraph's colours."""

from __future__ import annotations

import pyqtgraph as pg
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QWidget

from app.theme import fonts
from app.theme.palette import Palette
from app.theme.style import style_sheet


def apply_theme(app: QApplication, palette: Palette, window: QWidget) -> None:
    """Give the application these colours; callable again at any time.

    The sheet is the window's, and by that of its dialogs, menus and tooltips: on the application it costs four times
    as much to change.
    """
    fonts.load_fonts()
    if app.style().objectName() != "fusion":
        app.setStyle("Fusion")
    app.setFont(fonts.ui())
    app.setPalette(qt_palette(palette))
    window.setStyleSheet(style_sheet(palette))
    pg.setConfigOptions(background=palette.surface, foreground=palette.secondary, antialias=True)


def qt_palette(colours: Palette) -> QPalette:
    """The same colours by Qt's roles, for everything that the style sheet leaves alone."""
    role = QPalette.ColorRole
    wanted = {
        role.Window: colours.window,
        role.WindowText: colours.text,
        role.Base: colours.surface,
        role.AlternateBase: colours.raised,
        role.Text: colours.text,
        role.PlaceholderText: colours.secondary,
        role.Button: colours.surface,
        role.ButtonText: colours.text,
        role.ToolTipBase: colours.raised,
        role.ToolTipText: colours.text,
        role.Highlight: colours.accent,
        role.HighlightedText: colours.on_accent,
        role.Accent: colours.accent,
        role.Link: colours.accent,
        role.Light: colours.raised,
        role.Midlight: colours.raised,
        role.Mid: colours.line,
        role.Dark: colours.line,
        role.Shadow: colours.line,
    }
    palette = QPalette()
    for r, colour in wanted.items():
        palette.setColor(r, QColor(colour))
    for r in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, r, QColor(colours.secondary))
    return palette
