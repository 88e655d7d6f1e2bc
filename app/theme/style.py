"""The style sheet: controls 28 px high, 4 px steps, 1 px lines, radius 6; cards paint themselves."""

from __future__ import annotations

from string import Template

from app.theme.fonts import BODY_PX, MONO_FAMILY, SMALL_PX
from app.theme.palette import Palette

STEP_PX = 4
GAP_PX = 8
RADIUS_PX = 8

_SHEET = Template("""
QMainWindow, QDialog { background: $window; }
QMainWindow::separator { width: ${gap}px; height: ${gap}px; background: $window; }
QMainWindow::separator:hover { background: $line; }
QToolTip { background: $raised; color: $text; border: 1px solid $line; padding: 4px 8px; }
#toolbar { background: $surface; border-bottom: 1px solid $line; }
#statusbar { background: $surface; border-top: 1px solid $line; }
#notice { background: $surface; border: 1px solid $line; border-radius: 6px; }
#notice[kind="error"] { border-color: $error; }

QPushButton, QToolButton[control="true"] {
    min-height: 26px; max-height: 26px; padding: 0 10px; border: 1px solid $line; border-radius: 6px;
    background: $surface; color: $text;
}
QPushButton:hover, QToolButton[control="true"]:hover { background: $raised; }
QPushButton:pressed, QToolButton[control="true"]:pressed, QToolButton[control="true"]:open { background: $soft; }
QPushButton:disabled, QToolButton[control="true"]:disabled { color: $faint; background: $surface; }
QPushButton:focus, QToolButton[control="true"]:focus { border-color: $accent; }
QPushButton[primary="true"], QToolButton[primary="true"] {
    background: $accent; color: $on_accent; border-color: $accent; font-weight: 600;
}
QPushButton[primary="true"]:hover, QToolButton[primary="true"]:hover { background: $accent_hover; }
QPushButton[primary="true"]:focus, QToolButton[primary="true"]:focus { border-color: $text; }
QPushButton[primary="true"]:disabled, QToolButton[primary="true"]:disabled {
    background: $muted; border-color: $muted; color: $surface;
}
QToolButton[control="true"]::menu-indicator { image: none; width: 0; }
QToolButton[plain="true"], QPushButton[plain="true"] {
    border: none; border-radius: 4px; background: transparent; padding: 0 4px; min-height: 20px; max-height: 20px;
}
QToolButton[plain="true"]:hover, QPushButton[plain="true"]:hover { background: $raised; }
QToolButton[plain="true"]:focus, QPushButton[plain="true"]:focus { background: $soft; }
QToolButton[corner="true"] {
    border: none; border-radius: 4px; background: transparent; color: $secondary; padding: 0; margin: 4px 0;
}
QToolButton[corner="true"]:hover { background: $raised; color: $text; }
QPushButton[link="true"] {
    border: none; background: transparent; color: $accent; padding: 0; min-height: 20px; max-height: 20px;
    font-weight: 600;
}
QPushButton[link="true"]:hover, QPushButton[link="true"]:focus { text-decoration: underline; }

QPushButton:checked { background: $soft; font-weight: 600; }
QPushButton[segment="first"] { border-top-right-radius: 0; border-bottom-right-radius: 0; border-right: none; }
QPushButton[segment="last"] { border-top-left-radius: 0; border-bottom-left-radius: 0; }
QPushButton[segment="middle"] { border-radius: 0; border-right: none; }
QPushButton[segment] { padding: 0 4px; }
QPushButton[segment]:checked { background: $soft; font-weight: 600; }

QLineEdit, QPlainTextEdit, QComboBox {
    border: 1px solid $line; border-radius: 6px; background: $surface; color: $text;
    selection-background-color: $accent; selection-color: $on_accent;
}
QLineEdit { min-height: 26px; max-height: 26px; padding: 0 6px; }
QLineEdit[figures="true"] { padding: 0 4px 0 1px; }
QLineEdit:focus, QPlainTextEdit:focus, QComboBox:focus { border-color: $accent; }
QLineEdit:disabled, QPlainTextEdit:disabled, QComboBox:disabled { color: $faint; }
QLineEdit[bad="true"] { border-color: $error; }
QPlainTextEdit { padding: 4px; }
QComboBox { min-height: 26px; max-height: 26px; padding: 0 8px; }
QComboBox::drop-down { border: none; width: 16px; }
QComboBox[plain="true"] { border: none; background: transparent; min-height: 20px; max-height: 20px; padding: 0 2px; }
QComboBox QAbstractItemView, QMenu {
    background: $surface; color: $text; border: 1px solid $line; selection-background-color: $soft;
    selection-color: $text; outline: none;
}
QMenu { padding: 4px; }
QMenu::item { padding: 5px 20px 5px 12px; border-radius: 4px; }
QMenu::item:selected { background: $soft; }
QMenu::item:disabled { color: $faint; }
QMenu::separator { height: 1px; background: $line; margin: 4px 8px; }
QMenu::indicator { width: 14px; height: 14px; left: 6px; }
QMenu[checks="true"]::item { padding-left: 26px; }

QSlider { min-height: 20px; max-height: 20px; }
QSlider::groove:horizontal { height: 4px; border-radius: 2px; background: $muted; }
QSlider::sub-page:horizontal { background: $accent; border-radius: 2px; }
QSlider::handle:horizontal {
    width: 10px; height: 10px; margin: -5px 0; border-radius: 7px; background: $surface; border: 2px solid $accent;
}
QSlider::handle:horizontal:focus, QSlider::handle:horizontal:hover { background: $soft; }
QSlider::sub-page:horizontal:disabled { background: $muted; }
QSlider::handle:horizontal:disabled { border-color: $muted; }

QMainWindow > QTabBar { background: transparent; qproperty-drawBase: 0; }
QMainWindow > QTabBar::tab {
    background: transparent; color: $secondary; border: none; border-bottom: 2px solid transparent;
    padding: 2px 0 3px 0; margin: 0 2px 4px 12px;
}
QMainWindow > QTabBar::tab:selected { color: $text; font-weight: 600; border-bottom-color: $accent; }
QMainWindow > QTabBar::tab:hover { color: $text; }
QTabBar[underline="true"] { background: transparent; }
QTabBar[underline="true"]::tab {
    background: transparent; color: $secondary; border: none; border-bottom: 2px solid transparent;
    padding: 5px 0 3px 0; margin-right: 14px;
}
QTabBar[underline="true"][dense="true"]::tab { margin-right: 8px; }
QTabBar[underline="true"]::tab:selected { color: $text; font-weight: 600; border-bottom-color: $accent; }
QTabBar[underline="true"]::tab:disabled { color: $faint; }
QTabBar[underline="true"]::tab:focus { color: $accent; }

QMainWindow > QTabBar { background: transparent; qproperty-drawBase: 0; }
QMainWindow > QTabBar::tab {
    background: transparent; color: $secondary; border: none; border-bottom: 2px solid transparent;
    padding: 3px 0 3px 0; margin-left: 12px;
}
QMainWindow > QTabBar::tab:selected { color: $text; font-weight: 600; border-bottom-color: $accent; }
QMainWindow > QTabBar::tab:hover { color: $text; }

QScrollArea, QScrollArea > QWidget > QWidget#scrolled { background: transparent; border: none; }
QScrollBar:vertical { background: transparent; width: 8px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 8px; margin: 0; }
QScrollBar::handle { background: $muted; border-radius: 4px; }
QScrollBar::handle:vertical { min-height: 24px; }
QScrollBar::handle:horizontal { min-width: 24px; }
QScrollBar::handle:hover { background: $bar; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }
QProgressBar { border: none; border-radius: 2px; background: $muted; max-height: 4px; min-height: 4px; }
QProgressBar::chunk { background: $accent; border-radius: 2px; }
QListView { background: $surface; border: none; outline: none; }
QListView::item { padding: 5px 8px; border-radius: 4px; }
QListView::item:selected { background: $soft; color: $text; }
QLabel[secondary="true"] { color: $secondary; }
QLabel[small="true"] { font-size: ${small}px; }
QLabel[error="true"] { color: $error; }
QLabel[warning="true"] { color: $warning; }
QLabel[mono="true"], QLineEdit[mono="true"] { font-family: "$mono"; }
""")


def style_sheet(palette: Palette) -> str:
    """The style sheet in these colours."""
    return _SHEET.substitute(
        window=palette.window,
        surface=palette.surface,
        raised=palette.raised,
        line=palette.line,
        text=palette.text,
        secondary=palette.secondary,
        warning=palette.warning,
        faint=_blend(palette.secondary, palette.surface, 0.7),
        accent=palette.accent,
        accent_hover=_blend(palette.accent, palette.text, 0.88),
        soft=palette.accent_soft,
        on_accent=palette.on_accent,
        muted=palette.muted,
        bar=palette.bar,
        error=palette.error,
        gap=GAP_PX,
        small=SMALL_PX,
        body=BODY_PX,
        mono=MONO_FAMILY,
    )


def _blend(one: str, other: str, share: float) -> str:
    channels = [round(int(one[i : i + 2], 16) * share + int(other[i : i + 2], 16) * (1 - share)) for i in (1, 3, 5)]
    return "#{:02X}{:02X}{:02X}".format(*channels)
