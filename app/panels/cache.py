"""The KV cache: bytes by layer, their growth, and the formula beside what was measured."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QStackedWidget, QTabBar, QVBoxLayout, QWidget

from app.panels import tables
from app.panels.accessible import Moment, describe_selection
from app.panels.cache_content import ContentPage
from app.panels.cache_what_if import WhatIfPage
from app.panels.cache_words import formula, other_form, outlook, storage
from app.panels.panel import Dispatch, Panel
from app.state import select
from app.state.acting_intents import DeletePosition, SetMuted
from app.state.intents import Announce, SelectStep
from app.state.run import RunView
from app.state.state import AppState
from app.state.units import paints
from app.widgets import numbers
from app.widgets.focus_ring import FocusRing
from app.widgets.layer_bars import LayerBars, unit_of
from app.widgets.legend import SwatchLegend
from app.widgets.muted_field import MutedField
from app.widgets.readout import Readout, share_room
from app.widgets.series_plot import Lane, Series, SeriesPlot
from app.widgets.text_lines import TextLines
from app.widgets.twin import Twin, TwinStack
from core.contract import deleted_positions

FLAT_PX = 220  # below this height there is only room for the bytes
MUTED_PX = 180  # from this height on muted positions have a line, where there are some
TALL_PX = 340  # from this height on the growth line stands below the bars
RECENT_STEPS = 64
WORDY_PX = 380  # from this width on the formula names its factors


class CachePanel(Panel):
    """Used and allocated bytes of K and V."""

    name = "cache"
    calm = True
    title = "KV cache"
    heavy = True

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("KV cache")
        self.bars = LayerBars()
        self.bars.setAccessibleName(self.tr("Cache bytes by layer"))
        self.bars.tooltip = self._tooltip
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
        self._make_pages(plots)
        self._run: RunView | None = None
        self._index: int | None = None
        self._shown: tuple[object, ...] = ()
        self._top_bytes = 0
        self._theme = ""
        self._pinned = False
        self._muted: frozenset[int] = frozenset()
        self._deleted: frozenset[int] = frozenset()
        self._described: Moment = None
        self._show_nothing()

    def _make_pages(self, plots: QWidget) -> None:
        self.content = ContentPage()
        self.what_if: WhatIfPage | None = None
        self._state: AppState | None = None
        self.content.position_clicked.connect(self._position_clicked)
        self.content.wanted.connect(self._look_again)
        self.content.muted_changed.connect(self._mute)
        self.content.deleted.connect(self._delete)
        measured = QWidget()
        column = QVBoxLayout(measured)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(plots, 1)
        column.addWidget(self.text)
        self.muted = MutedField(self._mute, self)
        self.pages = QStackedWidget()
        for page in (measured, self.content):
            self.pages.addWidget(page)
        self.tabs = QTabBar(self)
        self.tabs.setProperty("underline", True)
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setAccessibleName(self.tr("View of the cache"))
        for title in (self.tr("Bytes"), self.tr("Content"), self.tr("What if")):
            self.tabs.addTab(title)
        self.tabs.currentChanged.connect(self._turn_page)
        layers = Twin(self.tr("Layers"), (self.bars,))
        growth = Twin(self.tr("Growth"), (self.growth,), self._select)
        norms = Twin(self.tr("Norms"), (self.content.norms,))
        likeness = Twin(self.tr("Similarity"), (self.content.likeness,))
        self.twins = TwinStack(self.title, self.pages, (layers, growth, norms, likeness), self)
        self.twins.turned.connect(self._show_table)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        box.addWidget(self.tabs)
        box.addWidget(self.twins, 1)
        box.addWidget(self.muted)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.kind, self.legend)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._show_tabs()
        tall = self.height() >= TALL_PX
        self._plots.setDirection(QBoxLayout.Direction.TopToBottom if tall else QBoxLayout.Direction.LeftToRight)
        self._share_room()
        self._show_muted()
        if self._run is not None and self._index is not None:
            self._show_texts(self._run, self._index)

    def render(self, state: AppState) -> None:  # type: ignore[override]
        if state.theme != self._theme:
            self._set_theme(state)
        self._state = state
        if self.what_if is not None:
            self.what_if.render_state(state)
        self._render_content(state)
        run, index = state.run, select.step_index(state)
        self._run, self._index, self._pinned = run, index, state.selected is not None
        self._described = describe_selection(self, (self.bars, self.growth), state, self._described)
        asked, row = state.acting.interventions, select.listed_row(run)
        hidden = select.muted_positions(asked, row), deleted_positions(asked, row)
        if hidden != (self._muted, self._deleted):
            self._muted, self._deleted = hidden
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

    def _turn_page(self, index: int) -> None:
        """The page of tables is made when it is first wanted."""
        if index == 2 and self.what_if is None:
            self.what_if = WhatIfPage()
            self.what_if.refused.connect(lambda text: self.dispatch(Announce("error", text)))
            self.pages.addWidget(self.what_if)
            if self._state is not None:
                self.what_if.set_palette(select.palette(self._state))
                self.what_if.render_state(self._state)
        self.pages.setCurrentIndex(index)
        self._show_tabs()
        self._look_again()

    @Slot()
    def _look_again(self) -> None:
        """Something else is wanted of the same state."""
        if self._state is not None:
            self._render_content(self._state)

    def _show_tabs(self) -> None:
        """A flat card is for the bytes alone."""
        self.tabs.setVisible(self.height() >= FLAT_PX or self.tabs.currentIndex() != 0)

    def _render_content(self, state: AppState) -> None:
        if self.tabs.currentIndex() == 1 and self.isVisible():
            question = self.content.question(state)
            if question is not None:
                self.dispatch(question)
        self.content.render_state(state)

    def hidden(self) -> None:
        """Withdraw the question about the content."""
        self.dispatch(self.content.withdraw())

    def _position_clicked(self, position: int) -> None:
        """Its token is selected, of the prompt or generated."""
        if self._run is not None and position - self._run.prompt_tokens < self._run.count:
            self._select(position - self._run.prompt_tokens)

    def _show_muted(self) -> None:
        """Where there is room for one more line, or something to be told."""
        self.muted.show_positions(self._muted)
        self.content.show_hidden(self._muted, self._deleted)
        self.muted.setVisible(self.height() >= (MUTED_PX if self._muted else TALL_PX))

    def _mute(self, positions: tuple[int, ...]) -> None:
        self.dispatch(SetMuted(select.listed_row(self._run), positions))

    def _delete(self, position: int) -> None:
        self.dispatch(DeletePosition(select.listed_row(self._run), position))

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
        for widget in (self.text, self.kind, self.readout, self.twins, self.content):
            widget.set_palette(palette)
        if self.what_if is not None:
            self.what_if.set_palette(palette)
        self.legend.set_colours(palette.key, palette.value)

    def _show_nothing(self) -> None:
        self._shown = ()
        run = self.tr("Press Ctrl+Enter to run; they grow with every step.")
        self.bars.set_empty(
            self.tr("The bytes of each layer’s K and V appear here"),
            run if self._state is None else select.next_step(self._state, run),
        )
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
        elif which == 2:
            self.twins.show_table(self.content.norms_table())
        elif which == 3:
            self.twins.show_table(self.content.likeness_table())
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
        rate = outlook(run.model, report, float(np.median(recent)), terse, run.plan.cache.spec)
        roomy = self.height() >= TALL_PX
        more = (other_form(run, report), storage(run, run.step(index))) if roomy else ()
        self.text.set_paragraphs(*(line for line in (formula(run, report, terse), *more, rate) if line))
        self.kind.set_wordings(" · ".join((run.plan.cache.kind, run.model.dtype)), run.plan.cache.kind, "")
        used_text, allocated_text = numbers.byte_count(report.used_bytes), numbers.byte_count(report.allocated_bytes)
        both = self.tr("{0} used · {1} allocated").format(used_text, allocated_text)
        self.readout.set_wordings(both, f"{used_text} / {allocated_text}", used_text)

    def describe(self) -> str:
        """Bytes at the shown step, in words."""
        if self._run is None or self._index is None:
            return self.tr("No cache yet.")
        report = self._run.step(self._index).cache
        used, allocated = numbers.byte_count(report.used_bytes), numbers.byte_count(report.allocated_bytes)
        said = self.tr("Step {0}: {1} positions in {2} layers, {3} used, {4} allocated; {5} a token.")
        if paints(self._run.model):
            said = self.tr("Step {0}: {1} positions in {2} layers, {3} used, {4} allocated; {5} a pixel.")
        return said.format(
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
        more: tuple[str, ...] = ()
        if r.layouts:
            layout = r.layouts[layer]
            more = (f"{layout.shape} {layout.dtype} · {layout.device}",)
            if layout.dropped:
                more += (self.tr("{0} positions dropped").format(f"{layout.dropped:,}"),)
        return "\n".join((self.tr("Layer {0}").format(layer), *rows, *more))
