"""One generation parameter: reset dot, name, slider, exact field."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable

from PySide6.QtCore import QObject, Qt, Slot
from PySide6.QtWidgets import QGridLayout, QWidget

from app.state.texts import tr
from app.widgets import parameter_text
from app.widgets.choice import Choice
from app.widgets.elided_label import ElidedLabel
from app.widgets.modified_dot import ModifiedDot
from app.widgets.scale import Scale, format_number, scale_of
from app.widgets.slider import QuietSlider
from app.widgets.value_field import ValueField
from app.widgets.visible_text import plain_tip
from core.contract import Parameter

DOT, NAME, SLIDER, GAP, FIELD = range(5)  # columns of the grid
FIELD_PX = 58
NAME_PX = 150  # longer names are cut; the tooltip begins with the whole of it
Change = Callable[[str, object, int | None], None]  # name, value, gesture
_gestures = itertools.count(1)


def explanation(parameter: Parameter, default: str) -> str:
    """The tooltip: what it does, its bounds, its default and where that comes from. Plain text, wrapped."""
    low, high = parameter.minimum, parameter.maximum
    lines = [parameter.name, parameter.doc]
    if low is not None and high is not None:
        lines.append(tr("Between {0} and {1}.").format(f"{low:g}", f"{high:g}"))
    elif low is not None:
        lines.append(tr("At least {0}.").format(f"{low:g}"))
    lines.append(default)
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 56))


class ParameterRow(QObject):
    """The controls of one parameter, placed in row `row` of the grid of `host`, so that all rows line up.

    `change(name, value, gesture)` is called with what the user wants, valid or not; changes of one drag carry the
    same number. `reset(name)` is called when the dot is clicked.
    """

    def __init__(
        self,
        parameter: Parameter,
        host: QWidget,
        grid: QGridLayout,
        row: int,
        change: Change,
        reset: Callable[[str], None],
    ) -> None:
        super().__init__(host)
        self.parameter = parameter
        self._change = change
        self._reset = reset
        self._value: object = None
        self._gesture: int | None = None
        self.dot = ModifiedDot(host)
        self.name = ElidedLabel(parameter.name, host)
        self.name.setContentsMargins(0, 0, 8, 0)
        self.name.setFixedWidth(min(NAME_PX, self.name.sizeHint().width()))
        self.field = ValueField(host)
        self.field.setAccessibleName(parameter.name)
        self.dot.setAccessibleName(self.tr("Reset {0}").format(parameter.name))
        self.name.setBuddy(self.field)
        grid.addWidget(self.dot, row, DOT)
        grid.addWidget(self.name, row, NAME)
        self.dot.clicked.connect(self._clicked)
        self.field.committed.connect(self._committed)
        self.field.stepped.connect(self._stepped)
        self.slider: QuietSlider | None = None
        self.scale: Scale | None = None
        self.choice: Choice | None = None
        if parameter.kind in ("int", "float"):
            self._add_slider(host, grid, row)
        elif parameter.kind in ("bool", "choice"):
            self._add_choice(host, grid, row)
        else:
            self.field.setPlaceholderText(self.tr("none"))
            grid.addWidget(self.field, row, SLIDER, 1, 3)

    def _add_choice(self, host: QWidget, grid: QGridLayout, row: int) -> None:
        self.choice = Choice("", self.parameter.name, self._chose, host)
        values: tuple[object, ...] = self.parameter.choices or (False, True)
        self._options = {_word(value, self.parameter.kind): value for value in values}
        self.choice.set_options([(word, self.tr(word)) for word in self._options])
        self.field.hide()
        self.name.setBuddy(self.choice)
        grid.addWidget(self.choice, row, SLIDER, 1, 3, Qt.AlignmentFlag.AlignLeft)

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        """All controls of the row."""
        value = (self.field,) if self.choice is None else (self.choice,)
        return (self.dot, self.name, *value, *((self.slider,) if self.slider is not None else ()))

    def set_visible(self, on: bool) -> None:
        """Show the row or take it away."""
        for widget in self.widgets:
            widget.setVisible(on)

    def _add_slider(self, host: QWidget, grid: QGridLayout, row: int) -> None:
        self.scale = scale_of(self.parameter)
        self.slider = QuietSlider(host)
        self.slider.setRange(0, 1000)
        self.slider.setMinimumWidth(34)
        self.slider.setAccessibleName(self.tr("{0}, slider").format(self.parameter.name))
        self.slider.valueChanged.connect(self._slid)
        self.slider.sliderPressed.connect(self._pressed)
        if self.parameter.optional:
            self.field.setPlaceholderText(self.tr("off"))
        self.field.setFixedWidth(FIELD_PX)
        self.field.setAlignment(Qt.AlignmentFlag.AlignRight)
        grid.addWidget(self.slider, row, SLIDER)
        grid.addWidget(self.field, row, FIELD)

    def show_value(
        self, value: object, *, changed: bool, pending: bool, default: str, most: float | None, waiting: str = ""
    ) -> None:
        """Show the value in force; never calls `change`. waiting: why it acts at the next run only."""
        self._value = value
        self.dot.show_state(changed, pending or bool(waiting))
        tip = explanation(self.parameter, default)
        tip, said = (f"{waiting}\n\n{tip}", f"{waiting} {self.parameter.doc}") if waiting else (tip, self.parameter.doc)
        if tip != self.name.toolTip():
            for widget in self.widgets[1:]:
                widget.setToolTip(tip)
                widget.setAccessibleDescription(said)
        self.dot.setToolTip(plain_tip(waiting or self._dot_tip(changed, pending, default)))
        if self.choice is not None:
            self.choice.show_key(_word(value, self.parameter.kind))
        elif isinstance(value, int | float) and self.slider is not None:
            self._show_number(value, most)
        else:
            self.field.show_text(parameter_text.written(value))
            if self.slider is not None:
                self._slide_to(0)

    def _show_number(self, value: float, most: float | None) -> None:
        self.scale = scale_of(self.parameter, most)
        self.field.show_text(format_number(value, self.scale.decimals))
        if self.slider is not None:
            self.slider.setSingleStep(self.scale.tick)
            self.slider.setPageStep(10 * self.scale.tick)
            self._slide_to(self.scale.position(value))

    def _slide_to(self, position: int) -> None:
        if self.slider is not None and not self.slider.isSliderDown():
            self.slider.blockSignals(True)
            self.slider.setValue(position)
            self.slider.blockSignals(False)

    def _dot_tip(self, changed: bool, pending: bool, default: str) -> str:
        if pending:
            return self.tr("Pending: acts at the next token.")
        return self.tr("Changed. Click to reset. {0}").format(default) if changed else ""

    @Slot()
    def _clicked(self) -> None:
        self._reset(self.parameter.name)

    @Slot()
    def _pressed(self) -> None:
        self._gesture = next(_gestures)  # one step of undo from press to release

    @Slot(int)
    def _slid(self, position: int) -> None:
        if self.scale is not None:
            self._change_number(self.scale.value(position))

    @Slot(int)
    def _stepped(self, direction: int) -> None:
        if self.scale is None:
            return
        base = self._value if isinstance(self._value, int | float) else self.scale.low - direction * self.scale.step
        low, high = self.parameter.minimum, self.parameter.maximum
        value = round(base + direction * self.scale.step, 10)
        value = value if low is None else max(low, value)
        self._change_number(value if high is None else min(high, value))

    @Slot(str)
    def _committed(self, text: str) -> None:
        value = parameter_text.parse(self.parameter, text)
        if self.scale is not None and isinstance(value, int | float):
            self._change_number(value)
        else:
            self._change(self.parameter.name, value, None)

    def _chose(self, word: str) -> None:
        self._change(self.parameter.name, self._options[word], None)

    def _change_number(self, value: float) -> None:
        whole = self.parameter.kind == "int" and float(value).is_integer()
        dragged = self.slider is not None and self.slider.isSliderDown()
        gesture = self._gesture if dragged else None
        self._change(self.parameter.name, int(value) if whole else value, gesture)


def _word(value: object, kind: str) -> str:
    """A choice as it is shown: `on` and `off` for a switch, a value of several kinds as JSON has it."""
    if isinstance(value, bool):
        return ("on" if value else "off") if kind == "bool" else str(value).lower()
    return str(value)
