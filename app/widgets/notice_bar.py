"""Errors, announcements and the progress of a load: quiet strips over the bottom of the window, never modal."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.panels.panel import Dispatch
from app.state.intents import CancelLoading, DismissNotice
from app.state.state import AppState, Loading, Notice
from app.theme import fonts

WIDEST_PX = 560
ANNOUNCED_MS = 6000  # an announcement leaves by itself; an error waits for the user
MOST_STRIPS = 3


class Strip(QWidget):
    """A framed line of controls."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("notice")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.text = QLabel()
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.row = QHBoxLayout()
        self.row.setSpacing(8)
        self.row.addWidget(self.text, 1)
        self.box = QVBoxLayout(self)
        self.box.setContentsMargins(12, 8, 8, 8)
        self.box.addLayout(self.row)


class NoticeStrip(Strip):
    """One notice: its sentence, its detail on demand, dismiss. `resized`: it needs another height."""

    resized = Signal()

    def __init__(self, notice: Notice, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.notice = notice
        self._dispatch = dispatch
        self.setProperty("kind", notice.kind)
        self.text.setText(notice.text if notice.count == 1 else f"{notice.text} (×{notice.count})")
        self.setAccessibleName(notice.text)
        if notice.detail:
            self._add_detail(notice.detail)
        self.dismiss = QToolButton()
        self.dismiss.setText("×")
        self.dismiss.setProperty("plain", True)
        self.dismiss.setAccessibleName(self.tr("Dismiss"))
        self.dismiss.setToolTip(self.tr("Dismiss"))
        self.dismiss.clicked.connect(self._dismiss)
        self.row.addWidget(self.dismiss, 0, Qt.AlignmentFlag.AlignTop)
        if notice.kind == "info":
            self._timer = QTimer(self)
            self._timer.setSingleShot(True)
            self._timer.timeout.connect(self._dismiss)
            self._timer.start(ANNOUNCED_MS)

    def _add_detail(self, detail: str) -> None:
        self.details = QPushButton(self.tr("Details"))
        self.details.setProperty("link", True)
        self.details.setCheckable(True)
        self.details.setToolTip(self.tr("What the program noted about it"))
        self.copy = QPushButton(self.tr("Copy"))
        self.copy.setToolTip(self.tr("Copy the sentence and its details"))
        self.copy.setProperty("link", True)
        self.detail = QPlainTextEdit(detail)
        self.detail.setReadOnly(True)
        self.detail.setFont(fonts.mono(fonts.SMALL_PX))
        self.detail.setFixedHeight(160)
        self.detail.setAccessibleName(self.tr("Details"))
        self.detail.hide()
        self.details.toggled.connect(self._toggled)
        self.copy.clicked.connect(self._copy)
        self.row.addWidget(self.details, 0, Qt.AlignmentFlag.AlignTop)
        self.row.addWidget(self.copy, 0, Qt.AlignmentFlag.AlignTop)
        self.box.addWidget(self.detail)

    @Slot(bool)
    def _toggled(self, on: bool) -> None:
        self.detail.setVisible(on)
        self.resized.emit()

    @Slot()
    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(f"{self.notice.text}\n\n{self.notice.detail}")

    @Slot()
    def _dismiss(self) -> None:
        self._dispatch(DismissNotice(self.notice.notice_id))


class LoadingStrip(Strip):
    """The load in progress, with its stage and a way out."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.clicked.connect(lambda: dispatch(CancelLoading()))
        self.row.addWidget(self.cancel)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName(self.tr("Loading progress"))
        self.box.addWidget(self.bar)

    def show_loading(self, loading: Loading, title: str) -> None:
        """Show how far it is; an unknown fraction shows an empty bar, nothing moves without need."""
        stage = loading.stage or self.tr("starting the engine")
        percent = "" if loading.fraction is None else f", {100 * loading.fraction:.0f} %"
        text = self.tr("Cancelling…") if loading.cancelling else self.tr("Loading {0}").format(title)
        self.text.setText(text if loading.cancelling else f"{text}: {stage}{percent}")
        self.bar.setValue(round(1000 * (loading.fraction or 0.0)))
        self.cancel.setEnabled(not loading.cancelling)


class NoticeBar(QWidget):
    """Stacks the strips; `place` puts it over the bottom middle of its parent."""

    heavy = False

    def __init__(self, dispatch: Dispatch, parent: QWidget) -> None:
        super().__init__(parent)
        self._over = parent
        self._dispatch = dispatch
        self.errors_listed: Callable[[], bool] = lambda: False  # where the list of errors is open, no strips
        self._shown: tuple[Notice, ...] = ()
        self._loading: Loading | None = None
        self.loading = LoadingStrip(dispatch)
        self.loading.hide()
        self.strips: list[NoticeStrip] = []
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(8)
        self._box.addWidget(self.loading)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow notices and load."""
        listed = self.errors_listed()
        notices = tuple(n for n in state.notices if n.kind != "error" or not listed)[-MOST_STRIPS:]
        if notices == self._shown and state.loading is self._loading:
            return
        if notices != self._shown:
            self._follow(notices)
        if state.loading is not self._loading:
            self._loading = state.loading
            self.loading.setVisible(state.loading is not None)
            if state.loading is not None:
                name = state.loading.spec.name
                titles = {m.name: m.title for m in state.models}
                self.loading.show_loading(state.loading, titles.get(name, name))
        self.place()

    def _follow(self, notices: tuple[Notice, ...]) -> None:
        self._shown = notices
        for strip in [s for s in self.strips if s.notice not in notices]:
            self.strips.remove(strip)
            self._box.removeWidget(strip)
            strip.hide()
            strip.deleteLater()
        known = {s.notice for s in self.strips}
        for notice in notices:
            if notice not in known:
                strip = NoticeStrip(notice, self._dispatch)
                strip.resized.connect(self.place)
                self.strips.append(strip)
                self._box.insertWidget(self._box.count() - 1, strip)
                strip.show()  # now, so that it counts in `place`

    @Slot()
    def place(self) -> None:
        """Over the bottom middle of the parent, as large as the strips need."""
        parent = self._over
        width = min(WIDEST_PX, parent.width() - 32)
        empty = not self.strips and self.loading.isHidden()
        height = 0 if empty else self._box.totalHeightForWidth(width)
        self.setGeometry((parent.width() - width) // 2, parent.height() - height - 16, width, height)
        self.raise_()

    def hidden(self) -> None:
        """Nothing is asked for here."""
