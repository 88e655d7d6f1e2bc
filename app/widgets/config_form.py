"""A configuration as rows: reset dot, name with its aliases, the value, what it means."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from PySide6.QtCore import QObject, Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QWidget

from app.state.config_facts import written
from app.state.texts import tr
from app.theme import fonts
from app.widgets.choice import Choice
from app.widgets.elided_label import ElidedLabel
from app.widgets.modified_dot import ModifiedDot
from app.widgets.value_field import ValueField
from core.contract import ConfigField

DOT, NAME, VALUE, MEANING = range(4)  # columns of the grid
VALUE_PX = 116
MEANING_FROM_PX = 520  # from this width on a row says beside it what it means
Change = Callable[[str, object], None]


def explanation(field: ConfigField) -> str:
    """The tooltip: meaning, what transformers says, type and default. Escaped."""
    lines = [f"<b>{escape(field.name)}</b>  {escape(field.type_name)}", escape(field.meaning)]
    if field.aliases:
        lines.append(escape(tr("Also called {0}.").format(", ".join(field.aliases))))
    if field.documentation and field.documentation != field.meaning:
        lines.append(escape(tr("transformers says: {0}").format(field.documentation)))
    lines.append(escape(tr("Default {0}.").format(written(field.default))))
    return "<div style='width:360px'>" + "<br>".join(lines) + "</div>"


class ConfigRow(QObject):
    """One field, in row `row` of the grid of `host`. `change(name, value)` gets what was typed or chosen."""

    def __init__(
        self,
        field: ConfigField,
        host: QWidget,
        grid: QGridLayout,
        row: int,
        change: Change,
        reset: Callable[[str], None],
    ) -> None:
        super().__init__(host)
        name = field.name
        self.dot = ModifiedDot(host)
        self.dot.setAccessibleName(self.tr("Reset {0}").format(name))
        self.dot.clicked.connect(lambda: reset(name))
        self.name = ElidedLabel("", host)
        self.meaning = QLabel("", host)
        self.meaning.setTextFormat(Qt.TextFormat.PlainText)
        self.meaning.setWordWrap(True)
        self.meaning.setProperty("secondary", True)
        self.meaning.setProperty("small", True)
        self.value: ValueField | Choice
        if field.kind in ("bool", "choice"):
            values = ("true", "false") if field.kind == "bool" else field.choices
            choice = Choice("", name, lambda value: change(name, value), host)
            choice.set_options([(v, v) for v in (*values, *(("null",) if field.nullable else ()))])
            self.value = choice
        else:
            line = ValueField(host)
            line.setAccessibleName(name)
            line.setFixedWidth(VALUE_PX)
            line.committed.connect(lambda text: change(name, text))
            self.value = line
        self._grid, self._row = grid, 2 * row  # a narrow form has the meanings between the rows
        grid.addWidget(self.dot, self._row, DOT)
        grid.addWidget(self.name, self._row, NAME)
        grid.addWidget(self.value, self._row, VALUE)

    def place_meaning(self, beside: bool) -> None:
        """In a column of its own, or below the name."""
        self._grid.removeWidget(self.meaning)
        if beside:
            self._grid.addWidget(self.meaning, self._row, MEANING)
        else:
            self._grid.addWidget(self.meaning, self._row + 1, NAME, 1, 2)

    def show_field(self, field: ConfigField, bad: bool) -> None:
        """Show the value; never calls `change`."""
        self.dot.show_state(field.changed, False)
        self.dot.setToolTip(self.tr("Changed. Click to reset it.") if field.changed else "")
        alias = f"  = {', '.join(field.aliases)}" if field.aliases else ""
        self.name.setText(f"{field.name}{alias}")
        self.meaning.setText(field.meaning)
        tip = explanation(field)
        for widget in (self.name, self.value, self.meaning):
            widget.setToolTip(tip)
        self.value.setAccessibleDescription(field.meaning)
        self.value.setEnabled(field.editable)
        if isinstance(self.value, Choice):
            self.value.show_key(written(field.value))
            return
        self.value.show_text(written(field.value))
        if self.value.property("bad") != bad:
            self.value.setProperty("bad", bad)
            self.value.style().polish(self.value)


class ConfigForm(QWidget):
    """All fields of a config class; made anew for another class."""

    def __init__(self, change: Change, reset: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("Fields of the configuration"))
        self._change, self._reset = change, reset
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 8, 0)
        self._grid.setHorizontalSpacing(4)
        self._grid.setVerticalSpacing(1)
        self._grid.setColumnStretch(NAME, 5)
        self._grid.setColumnStretch(MEANING, 4)
        self._names: tuple[tuple[str, str], ...] = ()
        self.rows: dict[str, ConfigRow] = {}
        self.empty = QLabel(self.tr("The fields of the configuration appear here in a moment."))
        self.empty.setProperty("secondary", True)
        self.empty.setFont(fonts.ui())
        self._grid.addWidget(self.empty, 0, NAME, 1, 3)

    def show_fields(self, fields: tuple[ConfigField, ...], bad: frozenset[str]) -> None:
        """Show these fields; those in `bad` are marked."""
        names = tuple((field.name, field.kind) for field in fields)
        if names != self._names:
            self._rebuild(fields, names)
        for field in fields:
            self.rows[field.name].show_field(field, field.name in bad)

    def _rebuild(self, fields: tuple[ConfigField, ...], names: tuple[tuple[str, str], ...]) -> None:
        self.empty.setVisible(not fields)
        for row in self.rows.values():
            for widget in (row.dot, row.name, row.value, row.meaning):
                self._grid.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
            row.deleteLater()
        self._names = names
        self.rows = {
            field.name: ConfigRow(field, self, self._grid, place, self._change, self._reset)
            for place, field in enumerate(fields, start=1)
        }
        self.set_width(self.width())

    def set_width(self, px: int) -> None:
        """Meanings have a column where there is room for one."""
        for row in self.rows.values():
            row.place_meaning(px >= MEANING_FROM_PX)
        self._grid.setColumnStretch(MEANING, 4 if px >= MEANING_FROM_PX else 0)
