"""A panel in its card: a dock with a quiet title bar, a 1 px line and round corners."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QCloseEvent, QColor, QContextMenuEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QDockWidget, QHBoxLayout, QLabel, QMenu, QToolButton, QVBoxLayout, QWidget

from app.panels.panel import Panel
from app.theme import fonts
from app.theme.style import GAP_PX, RADIUS_PX
from app.widgets.elided_label import ElidedLabel

PADDING_PX = 12
HEADER_PX = 36
CORNER_PX = 18  # right of what a panel has: the card's own button
LEAST_TEXT_PX = 24  # narrower remains of a text say nothing


class CardHeader(QWidget):
    """Title, subtitle, the panel's small controls; right aligned numbers. Dragging it moves the card.

    In a narrow card the subtitle gives way first, then the numbers, then the controls, the last ones first.
    """

    def __init__(self, panel: Panel, parent: Card) -> None:
        super().__init__(parent)
        self.setFixedHeight(HEADER_PX)
        self.title = QLabel(panel.title)
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.title.setFont(fonts.ui(bold=True))
        self.subtitle = ElidedLabel()
        self.subtitle.setProperty("secondary", True)
        self.right = ElidedLabel()
        self.right.setProperty("secondary", True)
        self.right.setFont(fonts.mono(fonts.SMALL_PX))
        self.right.setAlignment(Qt.AlignmentFlag.AlignRight)
        self._controls = [_Holder(w) for w in panel.header_widgets()]
        self._right_controls = [_Holder(w) for w in panel.header_right_widgets()]
        row = QHBoxLayout(self)
        row.setContentsMargins(PADDING_PX, 4, CORNER_PX, 0)
        row.setSpacing(GAP_PX)
        row.addWidget(self.title)
        row.addWidget(self.subtitle)
        for holder in self._controls:
            row.addWidget(holder)
        row.addStretch(1)
        row.addWidget(self.right)
        for holder in self._right_controls:
            row.addWidget(holder)
        self.corner = CornerButton(parent, self)

    def sizeHint(self) -> QSize:
        return QSize(super().sizeHint().width(), HEADER_PX)  # a dock does not ask for the fixed height

    def minimumSizeHint(self) -> QSize:
        return QSize(self.title.sizeHint().width() + PADDING_PX + CORNER_PX, HEADER_PX)

    def show_texts(self, subtitle: str, right: str) -> None:
        """The texts beside the title."""
        if subtitle != self.subtitle.text() or right != self.right.text():
            self.subtitle.setText(subtitle)
            self.right.setText(right)
            self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.corner.setGeometry(self.width() - CORNER_PX + 1, 4, CORNER_PX - 4, HEADER_PX - 4)
        self._fit()

    def _fit(self) -> None:
        room = self.width() - PADDING_PX - CORNER_PX - self.title.sizeHint().width() - GAP_PX
        for holder in (*self._right_controls, *self._controls):
            room -= holder.sizeHint().width() + GAP_PX
            holder.setVisible(room >= -GAP_PX)
            if holder.isHidden():
                room += holder.sizeHint().width() + GAP_PX
        wanted = self.right.sizeHint().width()
        given = min(wanted, max(0, room))
        self.right.setFixedWidth(given)
        self.right.setVisible(bool(self.right.text()) and given > LEAST_TEXT_PX)
        room -= given + GAP_PX
        self.subtitle.setMaximumWidth(max(0, room))
        self.subtitle.setVisible(bool(self.subtitle.text()) and room > LEAST_TEXT_PX)


class _Holder(QWidget):
    """Holds a panel's control, so that the title bar can hide it without the panel's knowledge."""

    def __init__(self, control: QWidget) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(control)

    def event(self, event: QEvent) -> bool:
        header = self.parentWidget()
        if event.type() == QEvent.Type.LayoutRequest and isinstance(header, CardHeader):
            header._fit()
        return super().event(event)


class CornerButton(QToolButton):
    """Float and hide, in a menu. It has the corner for itself: nothing of the panel lies under it."""

    def __init__(self, card: Card, parent: QWidget) -> None:
        super().__init__(parent)
        self.setText("⋮")
        self.setProperty("corner", True)
        self.setToolTip(self.tr("Float or hide this card"))
        self.setAccessibleName(self.tr("Float or hide {0}").format(card.panel.title))
        self.setAccessibleDescription(self.tr("A menu; the Layout menu brings a hidden card back."))
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # the command palette has the same for the keyboard
        self.clicked.connect(lambda: card.menu().popup(self.mapToGlobal(self.rect().bottomLeft())))


class Card(QDockWidget):
    """The dock of one panel; it renders as a view of the store. `closed`: the user hid it."""

    closed = Signal()

    def __init__(self, panel: Panel, parent: QWidget) -> None:
        super().__init__(panel.title, parent)
        self.panel = panel
        self.heavy, self.calm = panel.heavy, panel.calm
        self.setObjectName(f"card.{panel.name}")
        self.setAccessibleName(panel.title)
        body = QWidget(self)
        box = QVBoxLayout(body)
        box.setContentsMargins(*panel.margins)
        box.addWidget(panel)
        self.header = CardHeader(panel, self)
        self.setTitleBarWidget(self.header)
        self.setWidget(body)

    def render(self, state: object) -> None:  # type: ignore[override]
        """Render the panel, then its title bar. The store leaves out a card that another tab covers."""
        self.panel.render(state)  # type: ignore[arg-type]
        self.header.show_texts(self.panel.subtitle, self.panel.header_right)

    def hidden(self) -> None:
        """The card was hidden, or another tab covers it."""
        self.panel.hidden()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        if event.pos().y() > HEADER_PX:
            return
        self.menu().popup(event.globalPos())

    def menu(self) -> QMenu:
        """What can be done with the card; it is gone once it closes."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(self.tr("Dock") if self.isFloating() else self.tr("Float"), self.turn_floating)
        menu.addAction(self.tr("Hide"), self.close)
        return menu

    def turn_floating(self) -> None:
        """A window of its own, or back in its place."""
        self.setFloating(not self.isFloating())

    def closeEvent(self, event: QCloseEvent) -> None:
        super().closeEvent(event)
        self.closed.emit()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = self.palette()
        if self.isFloating():
            painter.fillRect(self.rect(), colours.base())
        painter.setPen(QColor(colours.mid().color()))
        painter.setBrush(colours.base())
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), RADIUS_PX, RADIUS_PX)
