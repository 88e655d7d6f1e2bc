"""The KV cache: bytes by layer, their growth, and the formula beside what was measured."""

from __future__ import annotations

import numpy as np
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QVBoxLayout, QWidget

from app.panels.accessible import Moment, describe_selection
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.widgets import numbers
from app.widgets.layer_bars import LayerBars, unit_of
from app.widgets.legend import SwatchLegend
from app.widgets.readout import Readout, share_room
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.text_lines import TextLines
from core.contract import CacheReport, ModelInfo

TALL_PX = 340  # from this height on the growth line stands below the bars
RECENT_STEPS = 64
GROWTH = "used, allocated"
WORDY_PX = 380  # from this width on the formula names its factors


class CachePanel(Panel):
    """Used and allocated bytes of K and V."""

    name = "cache"
    title = "KV cache"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.bars = LayerBars(self)
        self.bars.setAccessibleName("Cache bytes by layer")
        self.bars.tooltip = self._tooltip
        self.bars.set_empty(
            "The bytes of each layer’s K and V appear here", "Press Ctrl+Enter to run; they grow with every token."
        )
        self.growth = SeriesPlot((Lane(1, "MB", (0, 1), caption=GROWTH),), self)
        self.growth.setAccessibleName("Growth of the cache over the steps")
        self.growth.setMinimumWidth(110)
        self.text = TextLines(self)
        self.legend = SwatchLegend(("K", "V"), self)
        self.kind = Readout(numbers=False, parent=self)
        self.readout = Readout(numbers=True, parent=self)
        self._plots = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._plots.setSpacing(8)
        self._plots.addWidget(self.bars, 2)
        self._plots.addWidget(self.growth, 1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addLayout(self._plots, 1)
        box.addWidget(self.text)
        self._run: RunView | None = None
        self._index: int | None = None
        self._shown: tuple[object, ...] = ()
        self._top_bytes = 0
        self._theme = ""
        self._described: Moment = (None, None)
        self._show_nothing()

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.kind, self.legend)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def resizeEvent(self, event: QResizeEvent) -> None:
        tall = self.height() >= TALL_PX
        self._plots.setDirection(QBoxLayout.Direction.TopToBottom if tall else QBoxLayout.Direction.LeftToRight)
        share_room(self.width(), self.title, (self.legend,), (self.readout, 0), (self.kind, 0))
        if self._run is not None and self._index is not None:
            self._show_texts(self._run, self._index)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._set_theme(state)
        run, index = state.run, select.step_index(state)
        self._run, self._index = run, index
        if run is None or index is None:
            self._show_nothing()
            return
        shown = (run.run_id, run.count, index, state.selected is None)
        if shown == self._shown:
            return
        restart = self._shown[:1] != (run.run_id,)
        self._shown = shown
        self._show_step(run, index, restart, state.selected is not None)
        self._described = describe_selection(self, state, self._described)

    def _set_theme(self, state: AppState) -> None:
        self._theme = state.theme
        palette = select.palette(state)
        self.bars.set_palette(palette)
        self.growth.set_palette(palette, (palette.text, palette.secondary))
        for widget in (self.text, self.kind, self.readout):
            widget.set_palette(palette)
        self.legend.set_colours(palette.key, palette.value)

    def _show_nothing(self) -> None:
        self._shown = ()
        self.bars.show_report(None, 0)
        self.growth.hide()
        self.text.hide()
        self.kind.set_wordings("")
        self.readout.set_wordings("")

    def _show_step(self, run: RunView, index: int, restart: bool, pinned: bool) -> None:
        report = run.step(index).cache
        newest = run.step(run.count - 1).cache
        most = int(max(newest.key_allocated_bytes.max(initial=1), newest.value_allocated_bytes.max(initial=1)))
        self._top_bytes = most if restart else max(self._top_bytes, most)
        self.bars.show_report(report, self._top_bytes)
        used, allocated = run.column("used_bytes"), run.column("allocated_bytes")
        factor, unit = unit_of(float(allocated[-1]))
        self.growth.set_lanes((Lane(1, unit, (0, 1), caption=GROWTH),))
        self.growth.show_steps(
            (Series(used, 1 / factor), Series(allocated, 1 / factor)), (), index if pinned else None, restart
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
        kind = next((line.value for line in run.started.plan if line.name == "cache"), "")
        self.kind.set_wordings(" · ".join(part for part in (kind, run.model.dtype) if part), run.model.dtype, "")
        used_text, allocated_text = numbers.byte_count(report.used_bytes), numbers.byte_count(report.allocated_bytes)
        self.readout.set_wordings(
            f"{used_text} used · {allocated_text} allocated", f"{used_text} / {allocated_text}", used_text
        )

    def describe(self) -> str:
        """Bytes at the shown step, in words."""
        if self._run is None or self._index is None:
            return "No cache yet."
        report = self._run.step(self._index).cache
        return (
            f"Step {self._index}: {report.length} positions, {numbers.byte_count(report.used_bytes)} used, "
            f"{numbers.byte_count(report.allocated_bytes)} allocated. {formula(self._run, report)}."
        )

    def _tooltip(self, layer: int) -> str:
        if self._run is None or self._index is None:
            return ""
        r = self._run.step(self._index).cache
        k, v = int(r.key_used_bytes[layer]), int(r.value_used_bytes[layer])
        k_held, v_held = int(r.key_allocated_bytes[layer]), int(r.value_allocated_bytes[layer])
        return f"Layer {layer}\nK {k:,} B used of {k_held:,} B\nV {v:,} B used of {v_held:,} B"


def formula(run: RunView, report: CacheReport, terse: bool = False) -> str:
    """K and V × rows × positions × layers × heads × head dimension × bytes of a number, beside the measured bytes."""
    info = run.model
    rows = len(run.started.rows) * run.started.params.num_return_sequences
    elements = 2 * info.layers * info.kv_heads * info.head_dim
    width = info.kv_bytes_per_token / elements if elements else 0.0
    expected = rows * report.length * info.kv_bytes_per_token
    product = (
        f"2 × {rows} × {report.length} × {info.layers} layers × {info.kv_heads} heads × {info.head_dim} × {width:g} B"
    )
    if terse:
        product = product.replace(" layers", "").replace(" heads", "").replace(" × ", "×")
    difference = report.used_bytes - expected
    if not difference:
        return f"{product} = {expected:,} B ✓" if terse else f"{product} = {expected:,} B = measured\u00a0✓"
    more = "more" if difference > 0 else "less"
    return f"{product} = {expected:,} B; measured {report.used_bytes:,} B, {abs(difference):,} B {more}"


def outlook(info: ModelInfo, report: CacheReport, step_ms: float, terse: bool = False) -> str:
    """Bytes a token, and when the model's positions are used up at the speed of the last steps."""
    left = max(0, info.max_positions - report.length)
    when = f"full at {info.max_positions:,} in {left:,} tokens, {numbers.duration(left * step_ms)}" if left else "full"
    if terse and left:
        when = f"full in {numbers.duration(left * step_ms)}"
    return f"{info.kv_bytes_per_token:,} B a token · {when}"
