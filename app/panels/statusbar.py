"""The status bar: state, speed, memory, and what the tool itself costs. Numbers keep their place."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from app.state.state import AppState
from app.state.status import NOTHING, status
from app.state.units import paints
from app.store import FrameCost
from app.theme import fonts
from app.widgets.elided_label import ElidedLabel
from app.widgets.numbers import significant

HEIGHT_PX = 28
COST_EVERY_MS = 300


class Figure(QWidget):
    """A caption and a number in a field as wide as the widest number expected."""

    def __init__(self, caption: str, widest: str, tip: str, *, after: str = "") -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.value = QLabel(NOTHING)
        self.value.setTextFormat(Qt.TextFormat.PlainText)
        self.value.setFont(fonts.mono(fonts.SMALL_PX))
        self.make_room(widest)
        if after:
            self.value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for text in (caption, None, after):
            if text is None:
                row.addWidget(self.value)
            elif text:
                self.words = QLabel(text)
                self.words.setFont(fonts.ui(fonts.SMALL_PX))
                self.words.setProperty("secondary", True)
                row.addWidget(self.words)
        self._name = caption or after
        self.setToolTip(tip)
        self.setAccessibleName(self._name)

    def make_room(self, widest: str) -> None:
        """Keep as much room as this number takes.

        Of a fixed size, because a label that may grow has the whole window laid out anew with every text.
        """
        width = self.value.fontMetrics().horizontalAdvance(widest) + 2
        self.value.setFixedSize(max(width, self.value.minimumWidth()), self.value.sizeHint().height())

    def show_words(self, text: str) -> None:
        """Another caption or unit."""
        if text != self._name:
            self._name = text
            self.words.setText(text)
            self.setAccessibleName(text)
            self.value.setAccessibleName(f"{text} {self.value.text()}")

    def show_value(self, text: str) -> None:
        """Show a number."""
        if text != self.value.text():
            if self.value.fontMetrics().horizontalAdvance(text) > self.value.width():
                self.make_room(text)
            self.value.setText(text)
            self.value.setAccessibleName(f"{self._name} {text}")


class StatusBar(QWidget):
    """A view of the store, always visible."""

    heavy = False
    calm = True

    def __init__(self, cost: Callable[[], FrameCost], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("statusbar")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedHeight(HEIGHT_PX)
        self._cost = cost
        self._positions = 0
        self._errors = 0
        self.state = QLabel()
        self.state.setFont(fonts.ui(fonts.SMALL_PX, bold=True))
        self.state.setMinimumWidth(self.state.fontMetrics().horizontalAdvance("Finished · end of text"))
        self.first_token = Figure(
            self.tr("first token"), "999 ms", self.tr("From Run to the first token: prefill and one step")
        )
        self.speed = Figure("", "99.9", self.tr("While decoding; the first token is not counted"), after="tokens/s")
        self.context = Figure(
            self.tr("context"), "8,888 / 8,888", self.tr("Positions in the KV cache, of those the model has")
        )
        self.cache = Figure("KV", "99.9 / 99.9 MB", self.tr("Bytes of the KV cache: used / allocated"))
        self.probes = Figure(
            self.tr("probes"), "99.9 %", self.tr("Share of the worker's time that recording and views take")
        )
        self.lateness = Figure(
            self.tr("lateness"),
            "9,999 ms",
            self.tr("How late the window's frames come, 99th percentile of the last 300"),
        )
        self._refresh = QTimer(self)  # frames come while nothing changes, too
        self._refresh.setInterval(COST_EVERY_MS)
        self._refresh.timeout.connect(self._show_cost)
        self._refresh.start()
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 0, 12, 0)
        row.setSpacing(16)
        row.addWidget(self.state)
        for figure in (self.first_token, self.speed, self.context, self.cache, self.probes, self.lateness):
            row.addWidget(figure)
        self.errors = QPushButton()
        self.errors.setProperty("link", True)
        self.errors.setToolTip(self.tr("Open the list of errors"))
        self.errors.hide()
        self.aside = ElidedLabel()
        self.aside.setFont(fonts.ui(fonts.SMALL_PX))
        self.aside.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.aside, 1)
        row.addWidget(self.errors)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Show the state; the window's own cost follows a few times a second."""
        now = status(state)
        if now.state != self.state.text():
            self.state.setText(now.state)
        pixels = paints(state.run.model if state.run is not None else state.model)
        self.first_token.show_words(self.tr("first pixel") if pixels else self.tr("first token"))
        self.speed.show_words("pixels/s" if pixels else "tokens/s")
        self.first_token.show_value(now.first_token)
        self.speed.show_value(now.speed)
        if state.model is not None and state.model.max_positions != self._positions:
            self._positions = state.model.max_positions
            self.context.make_room(f"{self._positions:,} / {self._positions:,}")
        self.context.show_value(now.context)
        self.cache.show_value(now.cache)
        self.probes.show_value(now.probes)
        self.aside.set_wordings(now.aside, now.aside_brief)
        if len(state.errors) != self._errors:
            self._errors = len(state.errors)
            self.errors.setText(self.tr("1 error") if self._errors == 1 else self.tr("{0} errors").format(self._errors))
            self.errors.setVisible(self._errors > 0)

    @Slot()
    def _show_cost(self) -> None:
        self.lateness.show_value(f"{significant(self._cost().lateness_p99_ms)} ms")

    def hidden(self) -> None:
        """Nothing is asked for here."""
