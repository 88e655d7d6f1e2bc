"""A line to add something of one of several kinds: the kind, its fields, Add. What is wrong is said beneath it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QSize, Qt, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QToolButton, QWidget

from app.state.texts import tr
from app.theme import fonts
from app.widgets.choice import Choice
from core.contract import ParameterError

NUMBER_PX, LEAST_TEXT_PX = 42, 44
NARROW_PX = 440  # below it the fields have a line of their own
SHORT_PX = 150  # of a panel: below it the form gives way to the list, until it is asked for


@dataclass(frozen=True, slots=True)
class FormField:
    """label: in front of it. name: for screen readers and as a tooltip. wide: takes what room there is.

    first: what stands in it at first. options: a choice instead of a text, as (key, text).
    """

    label: str
    name: str
    first: str = ""
    wide: bool = False
    hint: str = ""
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FormKind:
    """make: what the texts of the fields mean; raises `ParameterError`, or `ValueError` for what is no number."""

    key: str
    title: str
    fields: tuple[FormField, ...]
    make: Callable[[Sequence[str]], object]


class KindForm(QWidget):
    """Calls `made(thing)` when Add or Enter is pressed and the fields make sense."""

    def __init__(
        self, name: str, kinds: tuple[FormKind, ...], made: Callable[[object], None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._kinds = {kind.key: kind for kind in kinds}
        self._made = made
        self.kind = Choice("", name, self.choose, self)
        self.kind.set_options([(kind.key, kind.title) for kind in kinds])
        self.inputs: dict[str, list[QLineEdit | Choice]] = {}
        self._pages: dict[str, QWidget] = {}
        self.add = QPushButton(self.tr("Add"))
        self.add.setToolTip(name)
        self.add.clicked.connect(self._add)
        self.problem = QLabel()
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.setWordWrap(True)
        self.problem.setProperty("error", True)
        self.problem.hide()
        self._fields = QWidget()
        pages = QHBoxLayout(self._fields)
        pages.setContentsMargins(0, 0, 0, 0)
        for kind in kinds:
            pages.addWidget(self._page(kind), 1)
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(8)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(1, 1)
        self._narrow: bool | None = None
        self._arrange(narrow=False)
        self.choose(kinds[0].key)

    def _arrange(self, narrow: bool) -> None:
        if narrow == self._narrow:
            return
        self._narrow = narrow
        for widget in (self.kind, self._fields, self.add, self.problem):
            self._grid.removeWidget(widget)
        self._grid.addWidget(self.kind, 0, 0)
        if narrow:
            self._grid.addWidget(self._fields, 1, 0, 1, 3)
        else:
            self._grid.addWidget(self._fields, 0, 1)
        self._grid.addWidget(self.add, 0, 2)
        self._grid.addWidget(self.problem, 2, 0, 1, 3)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """One line, or two where it is narrow."""
        super().resizeEvent(event)
        self._arrange(self.width() < NARROW_PX)

    def minimumSizeHint(self) -> QSize:
        """What two lines need."""
        return QSize(240, super().minimumSizeHint().height())

    def choose(self, key: str) -> None:
        """The fields of another kind."""
        self.kind.show_key(key)
        for own, page in self._pages.items():
            page.setVisible(own == key)
        self._say("")

    def fill(self, key: str, *texts: str) -> None:
        """A kind with these texts in its fields, ready to be added."""
        self.choose(key)
        for field, text in zip(self.inputs[key], texts, strict=True):
            if isinstance(field, Choice):
                field.show_key(text)
            else:
                field.setText(text)

    def _page(self, kind: FormKind) -> QWidget:
        page = QWidget()
        row = QHBoxLayout(page)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.inputs[kind.key] = []
        for field in kind.fields:
            if field.label:
                label = QLabel(field.label)
                label.setProperty("secondary", True)
                row.addWidget(label)
            made = self._field(field)
            self.inputs[kind.key].append(made)
            row.addWidget(made, 1 if field.wide else 0)
        if not any(field.wide for field in kind.fields):
            row.addStretch(1)
        self._pages[kind.key] = page
        return page

    def _field(self, field: FormField) -> QLineEdit | Choice:
        if field.options:
            choice = Choice("", field.name, lambda key: choice.show_key(key))
            choice.set_options(field.options)
            choice.show_key(field.first or field.options[0][0])
            return choice
        line = QLineEdit(field.first)
        line.setFont(fonts.mono(fonts.SMALL_PX))
        line.setAccessibleName(field.name)
        line.setToolTip(field.name)
        line.setPlaceholderText(field.hint)
        if field.wide:
            line.setMinimumWidth(LEAST_TEXT_PX)
        else:
            line.setFixedWidth(NUMBER_PX)
        line.returnPressed.connect(self._add)
        line.textEdited.connect(lambda _text: self._say(""))
        return line

    @Slot()
    def _add(self) -> None:
        kind = self._kinds[self.kind.key or ""]
        texts = [(f.key or "") if isinstance(f, Choice) else f.text() for f in self.inputs[kind.key]]
        try:
            thing = kind.make(texts)
        except ParameterError as error:
            self._say(error.message)
        except (ValueError, OverflowError):
            self._say(self.tr("A field holds no number that can be used; correct it."))
        else:
            self._say("")
            self._made(thing)

    def _say(self, text: str) -> None:
        self.problem.setText(text)
        self.problem.setVisible(bool(text))


class FormToggle(QToolButton):
    """Shows a form or folds it away: by itself where there is little room, and as the user wants it."""

    def __init__(self, form: KindForm, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._form = form
        self._chosen = False
        self.setText(self.tr("add…"))
        self.setCheckable(True)
        self.setChecked(True)
        self.setProperty("plain", True)
        self.setToolTip(form.kind.accessibleName())
        self.setAccessibleName(form.kind.accessibleName())
        self.toggled.connect(form.setVisible)
        self.clicked.connect(self._clicked)

    def _clicked(self) -> None:
        self._chosen = True

    def fit(self, height: int, empty: bool) -> None:
        """The panel is so high, and its list perhaps empty."""
        if not self._chosen:
            self.setChecked(empty or height >= SHORT_PX)

    def set_accent(self, colour: str) -> None:
        """Colours of another theme."""
        self.setStyleSheet(f"QToolButton:checked {{ color: {colour} }}")


def number(text: str, what: str) -> float:
    """What a field says. Raises `ParameterError` in one sentence."""
    try:
        return float(text)
    except ValueError:
        raise ParameterError(tr("{0} is a number, such as 0.5.").format(what)) from None


def whole(text: str, what: str) -> int:
    """The same for whole numbers."""
    try:
        return int(text)
    except ValueError:
        raise ParameterError(tr("{0} is a whole number.").format(what)) from None
