"""One step of the plan: a heading that unfolds into its decisions, each with its reason."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QRect, Qt, Slot
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QGridLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.theme import fonts
from app.theme.palette import Palette
from core.contract import PlanLine, PlanStep

SHARES = (3, 4, 5)  # of name, value and reason, side by side
WIDE_PX = 460  # from here on the reason stands beside the value instead of below it
HEADING_PX = 28


class _Heading(QPushButton):
    """▸ 4  Length   9 + 200      ⚠ 1"""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._step: PlanStep | None = None
        self._colours: Palette | None = None
        self.setCheckable(True)
        self.setFixedHeight(HEADING_PX)
        self.setProperty("plain", True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def show_step(self, step: PlanStep, palette: Palette) -> None:
        self._step, self._colours = step, palette
        self.setAccessibleName(f"{step.number}. {step.title}")
        self.setAccessibleDescription(" ".join((step.summary, *step.warnings)))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        step, colours = self._step, self._colours
        if step is None or colours is None:
            return
        painter = QPainter(self)
        area = self.rect().adjusted(4, 0, -8, 0)
        left = self._draw(painter, area, 0, "▾" if self.isChecked() else "▸", colours.secondary)
        left = max(left + 4, 16)
        painter.setFont(fonts.mono(fonts.SMALL_PX))
        left = self._draw(painter, area, left, f"{step.number:>2}", colours.secondary) + 8
        painter.setFont(fonts.ui(bold=True))
        left = self._draw(painter, area, left, step.title, colours.text) + 8
        if step.warnings:
            painter.setFont(fonts.ui(bold=True))
            mark = f"⚠ {len(step.warnings)}"
            width = painter.fontMetrics().horizontalAdvance(mark) + 4
            self._draw(painter, area, area.width() - width, mark, colours.warning)
            area.setRight(area.right() - width - 8)
        painter.setFont(fonts.ui(fonts.SMALL_PX))
        self._draw(painter, area, left, step.summary, colours.secondary)

    def _draw(self, painter: QPainter, area: QRect, left: int, text: str, colour: str) -> int:
        """The text elided in what is left of the area; returns where it ends."""
        room = area.adjusted(left, 0, 0, 0)
        painter.setPen(QColor(colour))
        shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, max(0, room.width()))
        painter.drawText(room, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), shown)
        return left + painter.fontMetrics().horizontalAdvance(shown)


class PlanSection(QWidget):
    """Heading and body; the body is filled when it is first unfolded, and follows from then on."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.step: PlanStep | None = None
        self._filled: PlanStep | None = None
        self._rows: list[tuple[QLabel, QLabel, QLabel]] = []
        self._warnings: list[QLabel] = []
        self.heading = _Heading(self)
        self.heading.toggled.connect(self._toggled)
        self.body = QWidget(self)
        self._grid = QGridLayout(self.body)
        self._grid.setContentsMargins(20, 2, 8, 8)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(2)
        self.body.installEventFilter(self)
        self.body.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self.heading)
        box.addWidget(self.body)
        self._wide: bool | None = None

    def show_step(self, step: PlanStep, palette: Palette) -> None:
        """Show this step; folded or not as before."""
        self.step = step
        self.heading.show_step(step, palette)
        if self.heading.isChecked():
            self._fill(step)

    def unfold(self, unfolded: bool = True) -> None:
        """Show or hide the decisions."""
        self.heading.setChecked(unfolded)

    @Slot(bool)
    def _toggled(self, unfolded: bool) -> None:
        if unfolded and self.step is not None:
            self._fill(self.step)
        self.body.setVisible(unfolded)

    def _fill(self, step: PlanStep) -> None:
        if step == self._filled:
            return
        self._filled = step
        while len(self._warnings) < len(step.warnings):
            self._warnings.append(self._label("warning"))
        while len(self._rows) < len(step.lines):
            self._rows.append((self._label("named"), self._label("mono"), self._label("secondary")))
        for number, label in enumerate(self._warnings):
            label.setVisible(number < len(step.warnings))
        for number, row in enumerate(self._rows):
            for label in row:
                label.setVisible(number < len(step.lines))
        for label, warning in zip(self._warnings, step.warnings, strict=False):
            label.setText(f"⚠ {warning}")
        for row, line in zip(self._rows, step.lines, strict=False):
            _show(row, line)
        self._wide = None
        self._place()

    def _label(self, kind: str) -> QLabel:
        label = QLabel(self.body)
        label.setTextFormat(Qt.TextFormat.PlainText)
        label.setWordWrap(True)
        label.setProperty(kind, True)
        label.setProperty("small", kind != "mono")
        if kind == "mono":
            label.setFont(fonts.mono(fonts.SMALL_PX))
        label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        return label

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.body and event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _place(self) -> None:
        """Three columns where there is room, else the reason below the value."""
        wide = self.width() >= WIDE_PX
        if wide == self._wide:
            return
        self._wide = wide
        top = Qt.AlignmentFlag.AlignTop
        for at, label in enumerate(self._warnings):
            self._grid.addWidget(label, at, 0, 1, 3, top)
        at = len(self._warnings)
        for name, value, reason in self._rows:
            name.setWordWrap(wide)
            self._grid.addWidget(name, at, 0, top)
            self._grid.addWidget(value, at, 1, 1, 1 if wide else 2, top)
            if wide:
                self._grid.addWidget(reason, at, 2, top)
            else:
                self._grid.addWidget(reason, at + 1, 0, 1, 3, top)
            at += 2
        for column, share in enumerate(SHARES if wide else (0, 1, 0)):
            self._grid.setColumnStretch(column, share)


def _show(row: tuple[QLabel, QLabel, QLabel], line: PlanLine) -> None:
    name, value, reason = row
    name.setText(line.name)
    value.setText(line.value)
    reason.setText(line.reason)
    reason.setVisible(bool(line.reason))
    name.setAccessibleName(line.name)
    value.setAccessibleName(f"{line.name}: {line.value}")
