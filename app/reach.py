"""What the cards offer, by name: for the command palette, so that nothing takes a mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import shiboken6
from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QAbstractButton, QMenu, QTabBar, QToolButton

from app.widgets.card import Card
from app.widgets.modified_dot import ModifiedDot
from app.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that a card can do. `do` brings the card up first."""

    text: str
    do: Callable[[], None]
    enabled: bool


def offers(workspace: Workspace, reveal: Callable[[str], None]) -> list[Offer]:
    """Every button, menu entry and tab of every card, and what can be done with the cards themselves."""
    found: dict[str, Offer] = {}
    for name, card in workspace.cards.items():
        for text, act, enabled in (*_of_card(card), *_of_panel(card)):
            found.setdefault(text, Offer(text, _after(reveal, name, act), enabled))
    return list(found.values())


def _after(reveal: Callable[[str], None], name: str, act: Callable[[], None]) -> Callable[[], None]:
    def do() -> None:
        reveal(name)
        act()

    return do


def _of_card(card: Card) -> Iterator[tuple[str, Callable[[], None], bool]]:
    floats = _tr("Dock {0}") if card.isFloating() else _tr("Float {0}")
    yield floats.format(card.panel.title), card.turn_floating, True


def _of_panel(card: Card) -> Iterator[tuple[str, Callable[[], None], bool]]:
    title = card.panel.title
    for button in card.findChildren(QAbstractButton):
        if isinstance(button, ModifiedDot) or button is card.header.corner:
            continue
        name = _named(button)
        menu = button.menu() if isinstance(button, QToolButton) else None
        can = button.isEnabled() and not button.isHidden()
        if menu is not None:
            menu.aboutToShow.emit()  # some are filled then
            for path, action in _entries(menu):
                yield f"{title}: {name} › {path}", _trigger(action), can and action.isEnabled()
        elif name:
            yield f"{title}: {name}", _click(button), can
    for tabs in card.findChildren(QTabBar):
        for index in range(tabs.count()):
            yield f"{title}: {tabs.tabText(index)}", _turn_to(tabs, index), tabs.isTabEnabled(index)


def _named(button: QAbstractButton) -> str:
    """What is written on it; its accessible name where that is a sign only, or a value that changes."""
    text = button.text().replace("▾", "").strip()
    plain = any(character.isalpha() for character in text) and not isinstance(button, QToolButton)
    return text if plain else button.accessibleName() or text


def _entries(menu: QMenu) -> Iterator[tuple[str, QAction]]:
    for action in menu.actions():
        inner = action.menu()
        text = action.text().replace("&&", "&")
        if isinstance(inner, QMenu):
            yield from ((f"{text} › {path}", entry) for path, entry in _entries(inner))
        elif text:
            yield text, action


def _trigger(action: QAction) -> Callable[[], None]:
    return lambda: action.trigger() if shiboken6.isValid(action) else None


def _click(button: QAbstractButton) -> Callable[[], None]:
    return lambda: button.click() if shiboken6.isValid(button) else None


def _turn_to(tabs: QTabBar, index: int) -> Callable[[], None]:
    return lambda: tabs.setCurrentIndex(index) if shiboken6.isValid(tabs) else None


def _tr(text: str) -> str:
    return QCoreApplication.translate("Reach", text)
