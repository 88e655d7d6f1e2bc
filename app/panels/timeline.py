"""The timeline: entropy and surprisal in bits, milliseconds per token, against the step."""

from __future__ import annotations

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.intents import SelectStep
from app.state.run import RunView
from app.state.state import AppState
from app.widgets import numbers, step_text
from app.widgets.legend import SwatchLegend
from app.widgets.readout import Readout, share_room
from app.widgets.series_plot import Flag, Lane, Series, SeriesPlot

LANES = (Lane(5, "bits", (0, 1)), Lane(2, "ms", (2,), robust=True))


class TimelinePanel(Panel):
    """Every step of the run; a click or a drag selects one."""

    name = "timeline"
    title = "Timeline"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.plot = SeriesPlot(LANES, self)
        self.plot.setAccessibleName("Timeline of entropy, surprisal and time per token")
        self.plot.tooltip = self._tooltip
        self.plot.clicked.connect(self._clicked)
        self.plot.set_empty(
            "Entropy, surprisal and time of every token appear here", "Press Ctrl+Enter to run; click a step to see it."
        )
        self.legend = SwatchLegend(("entropy", "surprisal", "ms per token"), self)
        self.readout = Readout(numbers=True, parent=self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.plot)
        self._run: RunView | None = None
        self._index: int | None = None
        self._flags: tuple[Flag, ...] = ()
        self._run_id: int | None = None
        self._theme = ""
        self._described: Moment = (None, None)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.legend,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            colours = palette.categorical[:3]
            self.plot.set_palette(palette, colours)
            self.legend.set_colours(*colours)
            self.readout.set_palette(palette)
        self._run, self._index = state.run, select.step_index(state)
        run, index = self._run, self._index
        if run is None or index is None:
            self.plot.show_steps((), (), None, restart=True)
            self._run_id = None
            self.readout.set_wordings("")
            return
        restart = run.run_id != self._run_id
        if restart or len(run.flags) != len(self._flags):
            self._flags = flags_of(run)
        self._run_id = run.run_id
        series = (
            Series(run.column("entropy_bits")),
            Series(run.column("logprob"), -1.0 / step_text.LN2),
            Series(run.column("step_ms")),
        )
        self.plot.show_steps(series, self._flags, None if state.selected is None else index, restart)
        self.readout.set_wordings(*_readout(run, index))
        self._described = describe_selection(self, state, self._described)

    def resizeEvent(self, event: QResizeEvent) -> None:
        share_room(self.width(), self.title, (self.legend,), (self.readout, 0))

    def describe(self) -> str:
        """The shown step, and what changed on the way to it, in words."""
        if self._run is None or self._index is None:
            return "No steps yet."
        step = self._run.step(self._index)
        changes = "; ".join(f"at step {f.index} {f.text}" for f in self._flags if f.index <= self._index)
        return (
            f"{step_text.sentence(self._run, self._index)} It took {numbers.significant(step.timing.step_ms)} ms."
            + (f" Changes: {changes}." if changes else "")
        )

    def _clicked(self, index: int) -> None:
        count = self._run.count if self._run else 0
        self.dispatch(SelectStep(index if index < count - 1 else None))

    def _tooltip(self, index: int) -> str:
        if self._run is None or index >= self._run.count:
            return ""
        changes = [f"<br>{f.text}" for f in self._flags if f.index == index]
        timing = self._run.step(index).timing
        split = (
            f"<br>{timing.step_ms:.2f} ms: forward {timing.forward_ms:.2f}, pipeline {timing.pipeline_ms:.2f}, "
            f"probes {timing.probes_ms:.2f}"
        )
        return step_text.token_tooltip(self._run, index) + split + "".join(changes)


def flags_of(run: RunView) -> tuple[Flag, ...]:
    """The changes made while the run went on, each with its old and new value."""
    before = [run.started.params, *(f.params for f in run.flags)]
    return tuple(Flag(f.index, step_text.change_text(b, f)) for b, f in zip(before, run.flags, strict=False))


def _readout(run: RunView, index: int) -> tuple[str, ...]:
    """The step's numbers in three wordings."""
    step, last = run.step(index), str(run.count - 1)
    text = f"step {index:>{len(last)}} of {last}"
    entropy, surprisal = numbers.significant(step.entropy_bits), numbers.significant(-step.logprob / step_text.LN2)
    bits = f"{text} · {entropy:>4} / {surprisal:>4} bits"
    return f"{bits} · {numbers.significant(step.timing.step_ms):>4} ms", bits, text
