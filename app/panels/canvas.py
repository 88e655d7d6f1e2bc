"""The canvas: pixels instead of words. What to begin with, and what the model paints."""

from __future__ import annotations

from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

from app.panels import canvas_overlays as over
from app.panels.canvas_result import CanvasResult
from app.panels.canvas_start import CanvasStart
from app.panels.panel import Dispatch, Panel
from app.state import image_draft, select
from app.state.state import AppState
from app.state.texts import tr
from app.theme.colormaps import sequential
from app.widgets.arrow_tabs import ArrowTabs
from app.widgets.choice import Choice
from app.widgets.legend import MapLegend
from app.widgets.readout import Readout
from app.widgets.spare_row import SpareRow

START, RESULT = range(2)
LEGEND_PX = 48


class CanvasPanel(Panel):
    """Two pages: the beginning, and the painting. A run brings the painting up, another beginning the first page."""

    name = "canvas"
    title = "Canvas"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Canvas")
        self.start, self.result = CanvasStart(dispatch), CanvasResult(dispatch)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.start)
        self.pages.addWidget(self.result)
        what = self.tr("What the picture begins with, or what is painted")
        self.tabs = ArrowTabs((self.tr("Beginning"), self.tr("Painting")), self.tr("Page of the canvas"), what)
        self.tabs.currentChanged.connect(self._show_page)
        self.overlay = Choice(self.tr("overlay"), self.tr("What lies over the picture"), self._choose_overlay, self)
        self.overlay.set_options([(key, tr(text)) for key, text in over.TITLES.items()])
        self.overlay.show_key("none")
        self.legend = MapLegend(LEGEND_PX, self)
        self.row = SpareRow(self.tabs, (self.legend, self.overlay))
        self.readout = Readout(numbers=True, parent=self)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.row)
        box.addWidget(self.pages, 1)
        self._state: AppState | None = None
        self._theme = ""
        self._run_id: int | None = None
        self._begun: object = None
        self._show_page(START)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def hidden(self) -> None:
        self.result.withdraw()

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            self.start.set_palette(palette)
            self.result.set_palette(palette)
            self.readout.set_palette(palette)
            self._show_legend()
        self._choose_page(state)
        if self.pages.currentIndex() == START:
            self.start.show_state(state)
        else:
            self.result.show_state(state)
        self.readout.set_wordings(*self._numbers(state))

    def _choose_page(self, state: AppState) -> None:
        """The page of what happened last."""
        run_id = state.run.run_id if state.run is not None else None
        begun = (state.draft.image.since, state.draft.image.keep, image_draft.facts(state) is None)
        if run_id != self._run_id:
            self._run_id = run_id
            self.tabs.setCurrentIndex(START if run_id is None else RESULT)
        elif begun != self._begun and not select.is_active(state):
            self.tabs.setCurrentIndex(START)
        self._begun = begun

    def _show_page(self, index: int) -> None:
        self.pages.setCurrentIndex(index)
        self._share_row()
        if self._state is not None:
            self.render(self._state)

    def _share_row(self) -> None:
        wanted = (self.overlay,) if self.result.overlay == "none" else (self.legend, self.overlay)
        self.row.want(*(wanted if self.pages.currentIndex() == RESULT else ()))

    def _choose_overlay(self, key: str) -> None:
        self.overlay.show_key(key)
        self.result.set_overlay(next(o for o in over.TITLES if o == key))
        self._show_legend()

    def _show_legend(self) -> None:
        overlay = self.result.overlay
        self._share_row()
        if overlay != "none" and self._state is not None:
            palette = select.palette(self._state)
            self.legend.show_map(sequential(), *over.ends(overlay), palette, tr(over.MEANINGS[overlay]))

    def _numbers(self, state: AppState) -> tuple[str, ...]:
        run, image = state.run, image_draft.run_facts(state)
        if self.pages.currentIndex() == START or run is None or image is None:
            facts = image_draft.facts(state)
            if facts is None:
                return ("",)
            return (self.tr("{0} of {1} pixels given").format(state.draft.image.given, facts.pixels),)
        done = run.prompt_tokens - 1 + run.count
        return (self.tr("{0} of {1} pixels").format(done, image.pixels),)
