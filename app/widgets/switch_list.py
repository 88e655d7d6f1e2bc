"""A list of things that are on or off: a box to tick, a note, for some a number, and a button that removes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from app.theme import fonts
from app.widgets.elided_label import ElidedLabel
from app.widgets.scroll_column import ScrollColumn
from app.widgets.value_field import ValueField
from app.widgets.visible_text import plain_tip

VALUE_PX = 60


@dataclass(frozen=True, slots=True)
class SwitchEntry:
    """number: of the thing. text: what it is. note: what became of it, `marked` as a warning.

    value: a number that can be changed in place, `value_name` says which. final: why it can be neither switched off nor
    removed, if so.
    """

    number: int
    text: str
    on: bool
    note: str = ""
    marked: bool = False
    value: str | None = None
    value_name: str = ""
    final: str = ""


class SwitchRow(QWidget):
    """One entry."""

    def __init__(self, owner: SwitchList, entry: SwitchEntry) -> None:
        super().__init__()
        self.entry = entry
        number = entry.number
        self.box = QCheckBox()
        self.box.clicked.connect(lambda on: owner.switched.emit(number, on))
        self.text = ElidedLabel()
        self.text.setFont(fonts.ui())
        self.value = ValueField()
        self.value.setFixedWidth(VALUE_PX)
        self.value.committed.connect(lambda text: owner.valued.emit(number, text))
        self.note = QLabel()
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.note.setFont(fonts.ui(fonts.SMALL_PX))
        self.remove = QToolButton()
        self.remove.setText("×")
        self.remove.setProperty("plain", True)
        self.remove.clicked.connect(lambda: owner.removed.emit(number))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        row.setSpacing(8)
        for widget, share in ((self.box, 0), (self.text, 1), (self.note, 0), (self.value, 0), (self.remove, 0)):
            row.addWidget(widget, share)
        self.setFixedHeight(28)
        self.show_entry(entry)

    def show_entry(self, entry: SwitchEntry) -> None:
        """Show it as it is now."""
        self.entry = entry
        self.box.setChecked(entry.on)
        self.box.setAccessibleName(entry.text)
        self.box.setToolTip(entry.final or self.tr("On or off; it stays in the list"))
        self.box.setEnabled(not entry.final)
        self.remove.setEnabled(not entry.final)
        self.box.setAccessibleDescription(entry.note)
        self.text.setText(entry.text)
        self.text.setEnabled(entry.on)
        self.value.setVisible(entry.value is not None)
        self.value.show_text(entry.value or "")
        self.value.setAccessibleName(f"{entry.value_name}, {entry.text}")
        self.value.setToolTip(entry.value_name)
        self.note.setText(entry.note)
        if self.note.property("warning") != entry.marked:
            self.note.setProperty("warning", entry.marked)
            self.note.setProperty("secondary", not entry.marked)
            self.note.style().polish(self.note)
        self.remove.setAccessibleName(self.tr("Remove {0}").format(entry.text))
        self.remove.setToolTip(entry.final or self.tr("Remove it from the list"))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The note gives way to the text in a narrow card; it can still be read on the row."""
        super().resizeEvent(event)
        self.note.setMaximumWidth(max(0, self.width() // 2))
        self.setToolTip(plain_tip(self.entry.note))


class SwitchList(ScrollColumn):
    """Rows in the order they are given."""

    switched = Signal(int, bool)
    removed = Signal(int)
    valued = Signal(int, str)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(name)
        self.rows: dict[int, SwitchRow] = {}
        self.empty = QLabel()
        self.empty.setTextFormat(Qt.TextFormat.PlainText)
        self.empty.setWordWrap(True)
        self.empty.setProperty("secondary", True)
        self.column.setSpacing(0)
        self.column.addWidget(self.empty)
        self.column.addStretch(1)

    def set_empty(self, text: str) -> None:
        """What stands here while there is nothing."""
        self.empty.setText(text)

    def show_entries(self, entries: Sequence[SwitchEntry]) -> None:
        """Show these; rows that stay keep the focus."""
        wanted = {entry.number for entry in entries}
        for number in [n for n in self.rows if n not in wanted]:
            row = self.rows.pop(number)
            self.column.removeWidget(row)
            row.hide()
            row.deleteLater()
        for place, entry in enumerate(entries):
            row = self.rows.get(entry.number) or SwitchRow(self, entry)
            if entry.number not in self.rows:
                self.rows[entry.number] = row
                self.column.insertWidget(place, row)
            elif row.entry != entry:
                row.show_entry(entry)
            else:
                row.box.setChecked(entry.on)  # a click that was refused
        self.empty.setVisible(not entries)

    def minimumSizeHint(self) -> QSize:
        """Two rows."""
        return QSize(160, 56)


def form_and_list(form: QWidget, rows: SwitchList, parent: QWidget) -> QVBoxLayout:
    """A form over its list."""
    box = QVBoxLayout(parent)
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(8)
    box.addWidget(form)
    box.addWidget(rows, 1)
    return box
