"""The plan: a few lines of what, value, why."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QWidget

from app.theme import fonts
from app.widgets.elided_label import ElidedLabel
from core.contract import PlanLine


class PlanTable(QWidget):
    """Three columns of labels, reused from one plan to the next."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("Plan"))
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(12, 0, 8, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 3)
        self._grid.setColumnStretch(2, 4)
        self._shown: tuple[PlanLine, ...] = ()
        self._rows: list[tuple[ElidedLabel, ElidedLabel, ElidedLabel]] = []

    def show_plan(self, plan: tuple[PlanLine, ...]) -> None:
        """Show these lines."""
        if plan == self._shown:
            return
        self._shown = plan
        while len(self._rows) < len(plan):
            self._add_row()
        for row, labels in enumerate(self._rows):
            for label in labels:
                label.setVisible(row < len(plan))
        for line, (name, value, reason) in zip(plan, self._rows, strict=False):
            name.setText(line.name)
            value.setText(line.value)
            reason.setText(line.reason)

    def _add_row(self) -> None:
        name, value, reason = ElidedLabel("", self), ElidedLabel("", self), ElidedLabel("", self)
        name.setProperty("secondary", True)
        reason.setProperty("secondary", True)
        value.setFont(fonts.mono())
        for column, label in enumerate((name, value, reason)):
            self._grid.addWidget(label, len(self._rows), column)
        self._rows.append((name, value, reason))

    def texts(self) -> list[tuple[str, str, str]]:
        """What is shown, line by line."""
        rows = self._rows[: len(self._shown)]
        return [(name.text(), value.text(), reason.text()) for name, value, reason in rows]
