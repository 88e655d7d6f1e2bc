"""Every error so far: one line a kind, how often it came, its details to copy. Nothing here interrupts a run."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from app.panels.panel import Dispatch, Panel
from app.state.intents import DismissError
from app.state.state import AppState, Notice
from app.theme import fonts
from app.widgets.scroll_column import ScrollColumn

DETAIL_PX = 120


class ErrorRow(QWidget):
    """One kind of error."""

    def __init__(self, notice: Notice, dispatch: Dispatch) -> None:
        super().__init__()
        self.notice = notice
        self.setAccessibleName(notice.text)
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.text, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 2, 4, 2)
        box.setSpacing(4)
        box.addLayout(top)
        self._box = box
        self.detail: QPlainTextEdit | None = None  # made when it is first looked at: a hundred of them take 0.4 s
        self.details = self._link(self.tr("Details"), self.tr("What the program noted about it"))
        self.details.setCheckable(True)
        self.details.toggled.connect(self._turn)
        self.copy = self._link(self.tr("Copy"), self.tr("Copy the sentence and its details"))
        self.copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(written(self.notice)))
        self.dismiss = self._link(self.tr("Dismiss"), self.tr("Take this error off the list"))
        self.dismiss.clicked.connect(lambda: dispatch(DismissError(self.notice.notice_id)))
        for button in (self.details, self.copy, self.dismiss):
            top.addWidget(button, 0, Qt.AlignmentFlag.AlignTop)
        self.show_notice(notice)

    def _turn(self, on: bool) -> None:
        if self.detail is None:
            self.detail = QPlainTextEdit(self.notice.detail)
            self.detail.setReadOnly(True)
            self.detail.setTabChangesFocus(True)
            self.detail.setFont(fonts.mono(fonts.SMALL_PX))
            self.detail.setFixedHeight(DETAIL_PX)
            self.detail.setAccessibleName(self.tr("Details"))
            self.detail.setAccessibleDescription(self.tr("What the program noted about this error"))
            self._box.addWidget(self.detail)
        self.detail.setVisible(on)

    def show_notice(self, notice: Notice) -> None:
        """The error, or the same one come again: what is open stays open, what is selected stays so."""
        self.notice = notice
        self.text.setText(notice.text if notice.count == 1 else f"{notice.text} (×{notice.count})")
        self.details.setVisible(bool(notice.detail))
        if self.detail is not None and notice.detail != self.detail.toPlainText():
            self.detail.setPlainText(notice.detail)

    @staticmethod
    def _link(text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setProperty("link", True)
        button.setToolTip(tip)
        return button


class ErrorsPanel(Panel):
    """Newest first."""

    name = "errors"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Errors")
        self._shown: tuple[Notice, ...] | None = None
        self.rows: list[ErrorRow] = []
        self.copy_all = QPushButton(self.tr("Copy all"))
        self.copy_all.setToolTip(self.tr("Copy every error with its details"))
        self.copy_all.clicked.connect(self._copy)
        self.dismiss_all = QPushButton(self.tr("Dismiss all"))
        self.dismiss_all.setToolTip(self.tr("Empty the list"))
        self.dismiss_all.clicked.connect(lambda: dispatch(DismissError(None)))
        for button in (self.copy_all, self.dismiss_all):
            button.setProperty("link", True)
        self.empty = QLabel(self.tr("No errors."))
        self.empty.setProperty("secondary", True)
        self._area = ScrollColumn(self)
        self._area.column.addWidget(self.empty)
        self._area.column.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._area)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.dismiss_all, self.copy_all)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the list."""
        if state.errors is self._shown:
            return
        self._shown = state.errors
        before = {row.notice.text: row for row in self.rows}
        self.rows = []
        for place, notice in enumerate(reversed(state.errors)):
            row = before.pop(notice.text, None)
            if row is None:
                row = ErrorRow(notice, self.dispatch)
            elif row.notice is not notice:
                row.show_notice(notice)  # its details stay open
            self.rows.append(row)
            if self._area.column.indexOf(row) != place:
                self._area.column.insertWidget(place, row)
        for row in before.values():
            self._area.column.removeWidget(row)
            row.hide()
            row.deleteLater()
        some = bool(self.rows)
        self.empty.setVisible(not some)
        self.copy_all.setEnabled(some)
        self.dismiss_all.setEnabled(some)
        self.header_right = f"{sum(n.count for n in state.errors)}" if some else ""

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText("\n\n".join(written(row.notice) for row in self.rows))


def written(notice: Notice) -> str:
    """An error as text."""
    times = f" (×{notice.count})" if notice.count > 1 else ""
    return f"{notice.text}{times}" + (f"\n\n{notice.detail}" if notice.detail else "")
