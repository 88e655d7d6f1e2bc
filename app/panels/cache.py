"""The KV cache: bytes by layer, their growth, and the formula beside what was measured."""

from __future__ import annotations

import numpy as np
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QVBoxLayout, QWidget

from app.panels import tables
from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.acting_intents import SetMuted
from app.state.intents import SelectStep
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.focus_ring import FocusRing
from app.widgets.layer_bars import LayerBars, unit_of
from app.widgets.legend import SwatchLegend
from app.widgets.muted_field import MutedField
from app.widgets.readout import Readout, share_room
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.text_lines import TextLines
from app.widgets.twin import Twin, TwinStack
from core.contract import CacheReport, ModelInfo

MUTED_PX = 180  # from this height on muted positions have a line, where there are some
TALL_PX = 340  # from this height on the growth line stands below the bars
RECENT_STEPS = 64
WORDY_PX = 380  # from this width on the formula names its factors


class CachePanel(Panel):
    """Used and allocated bytes of K and V."""

    name = "cache"
    title = "KV cache"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("KV cache")
        self.bars = LayerBars()
        self.bars.setAccessibleName(self.tr("Cache bytes by layer"))
        self.bars.tooltip = self._tooltip
        self.bars.set_empty(
            self.tr("The bytes of each layer’s K and V appear here"),
            self.tr("Press Ctrl+Enter to run; they grow with every token."),
        )
        self._caption = self.tr("used, allocated")
        self.growth = SeriesPlot((Lane(1, "MB", (0, 1), caption=self._caption),))
        self.growth.setAccessibleName(self.tr("Growth of the cache over the steps"))
        self.growth.setMinimumWidth(110)
        for plot in (self.bars, self.growth):
            FocusRing(plot)
        self.text = TextLines(self)
        self.legend = SwatchLegend(("K", "V"), self)
        self.kind = Readout(numbers=False, parent=self)
        self.readout = Readout(numbers=True, parent=self)
        for readout in (self.readout, self.kind):
            readout.wish_changed.connect(self._share_room)
        plots = QWidget(self)
        self._plots = QBoxLayout(QBoxLayout.Direction.LeftToRight, plots)
        self._plots.setContentsMargins(0, 0, 0, 0)
        self._plots.setSpacing(8)
        self._plots.addWidget(self.bars, 2)
        self._plots.addWidget(self.growth, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        layers = Twin(self.tr("Layers"), (self.bars,))
        growth = Twin(self.tr("Growth"), (self.growth,), self._select)
        self.twins = TwinStack(self.title, plots, (layers, growth), self)
        self.twins.turned.connect(self._show_table)
        box.addWidget(self.twins, 1)
        box.addWidget(self.text)
        self.muted = MutedField(self._mute, self)
        box.addWidget(self.muted)
        self._run: RunView | None = None
        self._index: int | None = None
        self._shown: tuple[object, ...] = ()
        self._top_bytes = 0
        self._theme = ""
        self._pinned = False
        self._muted: frozenset[int] = frozenset()
        self._described: Moment = None
        self._show_nothing()

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.kind, self.legend)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def resizeEvent(self, event: QResizeEvent) -> None:
        tall = self.height() >= TALL_PX
        self._plots.setDirection(QBoxLayout.Direction.TopToBottom if tall else QBoxLayout.Direction.LeftToRight)
        self._share_room()
        self._show_muted()
        if self._run is not None and self._index is not None:
            self._show_texts(self._run, self._index)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._set_theme(state)
        run, index = state.run, select.step_index(state)
        self._run, self._index, self._pinned = run, index, state.selected is not None
        self._described = describe_selection(self, (self.bars, self.growth), state, self._described)
        muted = select.muted_positions(state.acting.interventions, 0 if run is None else run.row)
        if muted != self._muted:
            self._muted = muted
            self._show_muted()
        if run is None or index is None:
            self._show_nothing()
            return
        shown = (run.key, run.count, index, state.selected is None)
        if shown == self._shown:
            return
        restart = self._shown[:1] != (run.key,)
        self._shown = shown
        self._show_step(run, index, restart)
        self._show_table()

    def _show_muted(self) -> None:
        """Where there is room for one more line, or something to be told."""
        self.muted.show_positions(self._muted)
        self.muted.setVisible(self.height() >= (MUTED_PX if self._muted else TALL_PX))

    def _mute(self, positions: tuple[int, ...]) -> None:
        self.dispatch(SetMuted(0 if self._run is None else self._run.row, positions))

    def _share_room(self) -> None:
        fixed = (self.twins.button, self.legend)
        share_room(self.width(), self.title, fixed, (self.readout, 0), (self.kind, 0))

    def _select(self, index: int) -> None:
        newest = self._run is not None and index == self._run.count - 1
        self.dispatch(SelectStep(None if newest else index))

    def _set_theme(self, state: AppState) -> None:
        self._theme = state.theme
        palette = select.palette(state)
        self.bars.set_palette(palette)
        self.growth.set_palette(palette, (palette.text, palette.secondary))
        for widget in (self.text, self.kind, self.readout, self.twins):
            widget.set_palette(palette)
        self.legend.set_colours(palette.key, palette.value)

    def _show_nothing(self) -> None:
        self._shown = ()
        self.bars.show_report(None, 0)
        self.growth.hide()
        self.text.hide()
        self.kind.set_wordings("")
        self.readout.set_wordings("")
        self._show_table()

    def _show_table(self) -> None:
        which, run, index = self.twins.shown, self._run, self._index
        if which is None:
            return
        if run is None or index is None:
            self.twins.show_table(None)
        elif which == 0:
            self.twins.show_table(tables.layers_table(run.step(index).cache, (run.key, index)))
        else:
            self.twins.show_table(tables.growth_table(run, index if self._pinned else None))

    def _show_step(self, run: RunView, index: int, restart: bool) -> None:
        report = run.step(index).cache
        newest = run.step(run.count - 1).cache
        most = int(max(newest.key_allocated_bytes.max(initial=1), newest.value_allocated_bytes.max(initial=1)))
        self._top_bytes = most if restart else max(self._top_bytes, most)
        self.bars.show_report(report, self._top_bytes)
        used, allocated = run.column("used_bytes"), run.column("allocated_bytes")
        factor, unit = unit_of(float(allocated[-1]))
        self.growth.set_lanes((Lane(1, unit, (0, 1), caption=self._caption),))
        self.growth.show_steps(
            (Series(used, 1 / factor), Series(allocated, 1 / factor)), (), index if self._pinned else None, restart
        )
        self._show_texts(run, index)
        self.growth.show()
        self.text.show()

    def _show_texts(self, run: RunView, index: int) -> None:
        report = run.step(index).cache
        recent = run.column("step_ms")[max(0, index + 1 - RECENT_STEPS) : index + 1]
        terse = self.width() < WORDY_PX
        self.text.set_paragraphs(
            formula(run, report, terse), outlook(run.model, report, float(np.median(recent)), terse)
        )
        self.kind.set_wordings(" · ".join((run.plan.cache.kind, run.model.dtype)), run.model.dtype, "")
        used_text, allocated_text = numbers.byte_count(report.used_bytes), numbers.byte_count(report.allocated_bytes)
        both = self.tr("{0} used · {1} allocated").format(used_text, allocated_text)
        self.readout.set_wordings(both, f"{used_text} / {allocated_text}", used_text)

    def describe(self) -> str:
        """Bytes at the shown step, in words."""
        if self._run is None or self._index is None:
            return self.tr("No cache yet.")
        report = self._run.step(self._index).cache
        used, allocated = numbers.byte_count(report.used_bytes), numbers.byte_count(report.allocated_bytes)
        return self.tr("Step {0}: {1} positions in {2} layers, {3} used, {4} allocated; {5} a token.").format(
            self._index,
            f"{report.length:,}",
            len(report.key_used_bytes),
            used,
            allocated,
            numbers.byte_count(self._run.model.kv_bytes_per_token),
        )

    def _tooltip(self, layer: int) -> str:
        if self._run is None or self._index is None:
            return ""
        r = self._run.step(self._index).cache
        k, v = int(r.key_used_bytes[layer]), int(r.value_used_bytes[layer])
        k_held, v_held = int(r.key_allocated_bytes[layer]), int(r.value_allocated_bytes[layer])
        line = self.tr("{0} {1} B used of {2} B")
        rows = (line.format(name, f"{n:,}", f"{of:,}") for name, n, of in (("K", k, k_held), ("V", v, v_held)))
        return "\n".join((self.tr("Layer {0}").format(layer), *rows))


def formula(run: RunView, report: CacheReport, terse: bool = False) -> str:
    """K and V × rows × positions × layers × heads × head dimension × bytes of a number, beside the measured bytes."""
    info = run.model
    rows = len(run.started.rows) * run.started.params.num_return_sequences
    elements = 2 * info.layers * info.kv_heads * info.head_dim
    width = info.kv_bytes_per_token / elements if elements else 0.0
    expected = rows * report.length * info.kv_bytes_per_token
    layers, heads = (str(info.layers), str(info.kv_heads))
    if not terse:
        layers, heads = tr("{0} layers").format(layers), tr("{0} heads").format(heads)
    factors = ("2", str(rows), str(report.length), layers, heads, str(info.head_dim), f"{width:g}\u00a0B")
    # Lines break before an operator, never inside a quantity.
    product = ("×" if terse else " ×\u00a0").join(factor.replace(" ", "\u00a0") for factor in factors)
    result = f"{product} =\u00a0{expected:,}\u00a0B"
    difference = report.used_bytes - expected
    if not difference:
        return f"{result}\u00a0✓" if terse else f"{result} " + tr("=\u00a0measured\u00a0✓")
    measured = tr("measured {0} B, {1} B more") if difference > 0 else tr("measured {0} B, {1} B less")
    return f"{result}; " + measured.format(f"{report.used_bytes:,}", f"{abs(difference):,}")


def outlook(info: ModelInfo, report: CacheReport, step_ms: float, terse: bool = False) -> str:
    """Bytes a token, and when the model's positions are used up at the speed of the last steps."""
    left = max(0, info.max_positions - report.length)
    duration = numbers.duration(left * step_ms)
    if not left:
        when = tr("full")
    elif terse:
        when = tr("full in {0}").format(duration)
    else:
        when = tr("full at {0} in {1} tokens, {2}").format(f"{info.max_positions:,}", f"{left:,}", duration)
    return tr("{0} B a token").format(f"{info.kv_bytes_per_token:,}") + f" · {when}"
