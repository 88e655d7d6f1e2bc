"""The timeline: entropy and surprisal in bits, milliseconds per token, against the step."""

from __future__ import annotations

from html import escape

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels import tables
from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.acting import change_text
from app.state.intents import SelectStep
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.state.units import counted, paints
from app.widgets import numbers, step_text
from app.widgets.focus_ring import FocusRing
from app.widgets.legend import SwatchLegend
from app.widgets.readout import Readout, share_room
from app.widgets.series_plot import Flag, Lane, Series, SeriesPlot
from app.widgets.twin import Twin, TwinStack
from core.contract import words

LANES = (Lane(5, "bits", (0, 1)), Lane(2, "ms", (2,), robust=True))


class TimelinePanel(Panel):
    """Every step of the run; a click or a drag selects one."""

    name = "timeline"
    calm = True
    title = "Timeline"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Timeline")
        self.plot = SeriesPlot(LANES)
        self.plot.setAccessibleName(self.tr("Timeline of entropy, surprisal and time per token"))
        FocusRing(self.plot)
        self.plot.tooltip = self._tooltip
        self.plot.clicked.connect(self._clicked)
        self._paints = False  # what the legend says
        self._say_empty(self.tr("Press Ctrl+Enter to run; click a step to see it."))
        twin = Twin(self.tr("Timeline"), (self.plot,), self._clicked)
        self.twins = TwinStack(self.title, self.plot, (twin,), self)
        self.twins.turned.connect(self._show_table)
        self.legend = SwatchLegend((self.tr("entropy"), self.tr("surprisal"), self.tr("ms per token")), self)
        self.readout = Readout(numbers=True, parent=self)
        self.readout.wish_changed.connect(self._share_room)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.twins)
        self._series: tuple[Series, ...] = ()
        self._selected: int | None = None
        self._run: RunView | None = None
        self._index: int | None = None
        self._flags: tuple[Flag, ...] = ()
        self._changes = (0, 0)  # parameters, interventions
        self._key: object = None  # of the sequence shown
        self._theme = ""
        self._described: Moment = None

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.legend)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def _say_empty(self, hint: str) -> None:
        what = self.tr("Entropy, surprisal and time of every token appear here")
        if self._paints:
            what = self.tr("Entropy, surprisal and time of every pixel appear here")
        self.plot.set_empty(what, hint)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            colours = palette.categorical[:3]
            self.plot.set_palette(palette, colours)
            self.legend.set_colours(*colours)
            self.readout.set_palette(palette)
            self.twins.set_palette(palette)
        self._name_unit(paints(state.model if state.run is None else state.run.model))
        self._run, self._index = state.run, select.step_index(state)
        run, index = self._run, self._index
        if run is None or index is None:
            self._say_empty(select.next_step(state, self.tr("Press Ctrl+Enter to run; click a step to see it.")))
            self.plot.show_steps((), (), None, restart=True)
            self._key = None
            self.readout.set_wordings("")
            self._show_table()
            self._described = describe_selection(self, (self.plot,), state, self._described)
            return
        restart = run.key != self._key
        changes = len(run.flags), len(run.acts)
        if restart or changes != self._changes:
            self._flags, self._changes = flags_of(run), changes
        self._key = run.key
        self._series = (
            Series(run.column("entropy_bits")),
            Series(run.column("logprob"), -1.0 / step_text.LN2),
            Series(run.column("step_ms")),
        )
        self._selected = select.pinned_index(state)
        self.plot.show_steps(self._series, self._flags, self._selected, restart)
        self._show_table()
        self.readout.set_wordings(*_readout(run, index))
        self._described = describe_selection(self, (self.plot,), state, self._described)

    def _name_unit(self, pixels: bool) -> None:
        """Milliseconds are those of a token, or of a pixel."""
        if pixels != self._paints:
            self._paints = pixels
            unit = self.tr("ms per pixel") if pixels else self.tr("ms per token")
            self.legend.set_names((self.tr("entropy"), self.tr("surprisal"), unit))
            each = self.tr("Timeline of entropy, surprisal and time per pixel")
            self.plot.setAccessibleName(
                each if pixels else self.tr("Timeline of entropy, surprisal and time per token")
            )
            self._share_room()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._share_room()

    def _share_room(self) -> None:
        share_room(self.width(), self.title, (self.twins.button, self.legend), (self.readout, 0))

    def _show_table(self) -> None:
        if self.twins.shown is not None:
            run = self._run
            table = tables.timeline_table(run, self._series, self._flags, self._selected) if run and run.count else None
            self.twins.show_table(table)

    def describe(self) -> str:
        """The shown step, and what changed on the way to it, in words."""
        if self._run is None or self._index is None:
            return self.tr("No steps yet.")
        step = self._run.step(self._index)
        at = self.tr("at step {0} {1}")
        changes = "; ".join(at.format(f.index, f.text) for f in self._flags if f.index <= self._index)
        took = self.tr("It took {0} ms.").format(numbers.significant(step.timing.step_ms))
        said = f"{step_text.sentence(self._run, self._index)} {took}"
        return f"{said} " + self.tr("Changes: {0}.").format(changes) if changes else said

    def _clicked(self, index: int) -> None:
        count = self._run.count if self._run else 0
        self.dispatch(SelectStep(index if index < count - 1 else None))

    def _tooltip(self, index: int) -> str:
        if self._run is None or index >= self._run.count:
            return ""
        changes = [f"<br>{escape(f.text)}" for f in self._flags if f.index == index]
        timing = self._run.step(index).timing
        split = self.tr("{0} ms: forward {1}, pipeline {2}, probes {3}").format(
            *(f"{ms:.2f}" for ms in (timing.step_ms, timing.forward_ms, timing.pipeline_ms, timing.probes_ms))
        )
        return f"{step_text.token_tooltip(self._run, index)}<br>{split}" + "".join(changes)


def flags_of(run: RunView) -> tuple[Flag, ...]:
    """The changes made while the run went on, each with its old and new value."""
    before = [run.started.params, *(f.params for f in run.flags)]
    flags = [Flag(f.index, step_text.change_text(b, f)) for b, f in zip(before, run.flags, strict=False)]
    acts = [run.base, *(act.interventions for act in run.acts)]
    flags += [Flag(act.index, change_text(act, b)) for b, act in zip(acts, run.acts, strict=False)]
    if run.base:
        flags.append(Flag(0, ", ".join(map(words, run.base))))
    if run.branch_id:
        flags.append(Flag(run.kept, tr("branch")))
    return tuple(sorted(flags, key=lambda flag: flag.index))


def _readout(run: RunView, index: int) -> tuple[str, ...]:
    """The step's numbers in four wordings."""
    step, last = run.step(index), str(run.count - 1)
    short = tr("step {0}").format(str(index).rjust(len(last)))
    text = f"{short} · {counted(run.model, run.count)}"
    entropy, surprisal = numbers.significant(step.entropy_bits), numbers.significant(-step.logprob / step_text.LN2)
    bits = f"{text} · " + tr("{0} / {1} bits").format(entropy.rjust(4), surprisal.rjust(4))
    return f"{bits} · " + tr("{0} ms").format(numbers.significant(step.timing.step_ms).rjust(4)), bits, text, short
