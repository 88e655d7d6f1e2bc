"""What tests of interventions, breakpoints and watches do with the window."""

from __future__ import annotations

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QMenu

from app.state import intents as i
from app.state import select
from app.widgets.kind_form import KindForm
from tests.ui.harness import Driven
from tests.ui.real import live


def paused_after(one: Driven, tokens: int) -> None:
    """A run that is paused after so many tokens."""
    for count in range(1, tokens + 1):
        one.do(i.Step())
        live(one, lambda count=count: one.state.run is not None and one.state.run.count == count)
        live(one, lambda: select.is_paused(one.state))


def chosen_from_menu(widget: QAbstractScrollArea, at: QPoint, start: str) -> str:
    """Right-click at a point of the viewport, and click the first entry that begins so; returns its text."""
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, at, widget.viewport().mapToGlobal(at))
    QApplication.sendEvent(widget.viewport(), event)
    menu = next(m for m in widget.findChildren(QMenu) if m.isVisible())
    action = next(a for a in menu.actions() if a.text().startswith(start))
    assert action.isEnabled()
    text = action.text()
    QTest.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(action).center())
    return text


def written(form: KindForm, kind: str, *texts: str) -> None:
    """A kind is chosen, its fields are typed into, Add is clicked."""
    form.choose(kind)
    for field, text in zip(form.inputs[kind], texts, strict=True):
        field.selectAll()
        QTest.keyClick(field, Qt.Key.Key_Delete)
        QTest.keyClicks(field, text)
    QTest.mouseClick(form.add, Qt.MouseButton.LeftButton)
