"""The canvas: pixels instead of words. What to begin with, and what the model paints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QStackedWidget, QVBoxLayout, QWidget

from app import asking, exports
from app.background import Background
from app.panels import canvas_overlays as over
from app.panels import canvas_tables
from app.panels.accessible import Moment, describe_selection
from app.panels.canvas_result import CanvasResult
from app.panels.canvas_start import CanvasStart
from app.panels.completions import only
from app.panels.panel import Dispatch, Panel
from app.state import image_draft, select
from app.state.branch_intents import AnotherTry
from app.state.image_intents import StartPicture
from app.state.intents import Announce, SelectStep, SetParameter
from app.state.state import AppState
from app.state.texts import tr
from app.state.units import counted
from app.theme.colormaps import rgb, sequential
from app.widgets import numbers, step_text
from app.widgets.arrow_tabs import ArrowTabs
from app.widgets.choice import Choice
from app.widgets.elided_label import ElidedLabel
from app.widgets.late_menu import LateMenu
from app.widgets.legend import MapLegend
from app.widgets.readout import Readout, share_room
from app.widgets.spare_row import SpareRow
from app.widgets.twin import Twin, TwinStack
from core.contract import ImageFacts, Picture

START, RESULT = range(2)
PIXELS, COMPLETIONS, BITS = range(3)  # the tables
LEGEND_PX = 72
MANY = (1, 2, 4, 9, 16, 25)  # completions that can be chosen here


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
        self._build_controls()
        page = QWidget(self)
        box = QVBoxLayout(page)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.row)
        box.addWidget(self.scale)
        box.addWidget(self.pages, 1)
        twins = (
            Twin(self.tr("Pixels"), (self.result.canvas, self.result.swatches), self._select_pixel),
            Twin(self.tr("Completions"), (self.result.grid,), self.result.show_completion),
            Twin(self.tr("Bits per pixel"), (self.start.canvas,)),
        )
        self.twins = TwinStack(self.title, page, twins, self)
        self.twins.turned.connect(self._refresh)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.twins)
        self._files = Background(self)
        self._state: AppState | None = None
        self._theme = ""
        self._run_id: int | None = None
        self._begun: object = None
        self._chosen: tuple[object, object] = (None, None)
        self._overlays: list[over.Overlay] = ["none", "none"]  # of each page
        self._described: Moment = None
        self._scaled: object = None  # what the scale was drawn for
        self._wanted: object = None  # what the row was laid out for
        self._show_page(START)

    def _build_controls(self) -> None:
        what = self.tr("What the picture begins with, or what is painted")
        self.tabs = ArrowTabs((self.tr("Beginning"), self.tr("Painting")), self.tr("Page of the canvas"), what)
        self.tabs.currentChanged.connect(self._show_page)
        self.overlay = Choice(self.tr("overlay"), self.tr("What lies over the picture"), self.choose_overlay, self)
        self.legend, self.meaning = MapLegend(LEGEND_PX, self), ElidedLabel()
        self.meaning.setProperty("secondary", True)
        self.scale = QWidget()  # a line of its own, so that colours are never shown without their numbers
        line = QHBoxLayout(self.scale)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.meaning, 1)
        line.addWidget(self.legend)
        how = self.tr("How many different completions a run paints (num_return_sequences)")
        self.many = Choice(self.tr("completions"), how, self._choose_many, self)
        self.many.set_options([(str(n), str(n)) for n in MANY])
        self.go_on = QPushButton(self.tr("Begin with this"))
        self.go_on.setProperty("link", True)
        self.go_on.setToolTip(self.tr("Take this painting as the beginning, up to the selected pixel"))
        self.go_on.clicked.connect(self._go_on)
        self.again = QPushButton(self.tr("Regrow"))
        self.again.setProperty("link", True)
        self.again.setToolTip(self.tr("Paint the shown pixel and all after it anew, with other draws: a branch"))
        self.again.clicked.connect(lambda: self.dispatch(AnotherTry()))
        self.row = SpareRow(self.tabs, (self.go_on, self.again, self.many, self.overlay))
        self.readout = Readout(numbers=True, parent=self)
        self.menu = LateMenu(self.tr("Picture"), self.tr("Go on from this painting, or save it"), self._fill, self)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.twins.button, self.menu)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.readout,)

    def hidden(self) -> None:
        self.result.withdraw()
        self.start.withdraw()

    def resizeEvent(self, event: object) -> None:
        """Share the room of the title bar."""
        share_room(self.width(), self.title, (self.twins.button, self.menu), (self.readout, 0))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        self._state = state
        if state.theme != self._theme:
            self._theme = state.theme
            palette = select.palette(state)
            for widget in (self.start, self.result, self.readout, self.twins):
                widget.set_palette(palette)
        self._choose_page(state)
        (self.start if self.page == START else self.result).show_state(state)
        self._show_legend()
        self.readout.set_wordings(*self._numbers(state))
        self.menu.setEnabled(image_draft.facts(state) is not None)
        self.go_on.setEnabled(image_draft.run_facts(state) is not None)
        self.again.setEnabled(select.step(state) is not None and state.run is not None and not state.run.has_beams)
        if state.overrides is not self._chosen[0] or state.model is not self._chosen[1]:
            self._chosen = (state.overrides, state.model)
            self.many.show_key(str(select.params(state).num_return_sequences))
        if self.twins.shown is not None:
            self._show_table(state)
        views = (self.result.canvas, self.result.grid, self.result.swatches)
        self._described = describe_selection(self, views, state, self._described)

    @property
    def page(self) -> int:
        """Which page is shown."""
        return self.pages.currentIndex()

    def describe(self) -> str:
        """How far the painting is, and its shown pixel, in words."""
        state = self._state
        run, image = (state.run, image_draft.run_facts(state)) if state else (None, None)
        index = select.step_index(state) if state else None
        if run is None or image is None or index is None:
            return self.tr("Nothing is painted yet.")
        done, place = run.prompt_tokens - 1 + run.count, divmod(run.prompt_tokens - 1 + index, image.width)
        said = self.tr("{0} of {1} pixels are there, {2} of them given.")
        where = self.tr("Row {0}, column {1}.").format(*place)
        return f"{said.format(done, image.pixels, run.prompt_tokens - 1)} {where} {step_text.sentence(run, index)}"

    # pages

    def _choose_page(self, state: AppState) -> None:
        """The page of what happened last."""
        run_id = state.run.run_id if state.run is not None and state.run.model.image is not None else None
        begun = (state.draft.image.since, state.draft.image.keep, image_draft.facts(state) is None)
        if run_id != self._run_id:
            self._run_id = run_id
            self.tabs.setCurrentIndex(START if run_id is None else RESULT)
        elif begun != self._begun and not select.is_active(state):
            self.tabs.setCurrentIndex(START)
        self._begun = begun

    def _show_page(self, index: int) -> None:
        self.pages.setCurrentIndex(index)
        offered: tuple[over.Overlay, ...] = ("none", "bits") if index == START else tuple(over.TITLES)
        self.overlay.set_options([(key, tr(over.TITLES[key])) for key in offered])
        self.overlay.show_key(self._overlays[index])
        (self.result if index == START else self.start).withdraw()
        self._show_legend()
        self._refresh()

    def _refresh(self) -> None:
        if self._state is not None:
            self.render(self._state)

    def choose_overlay(self, key: str) -> None:
        """Lay something over the picture of the page shown."""
        self._overlays[self.page] = next(o for o in over.TITLES if o == key)
        self.overlay.show_key(key)
        (self.start if self.page == START else self.result).set_overlay(self._overlays[self.page])
        self._show_legend()
        self._refresh()

    def _show_legend(self) -> None:
        overlay = self._overlays[self.page]
        self.scale.setVisible(overlay != "none")
        if overlay != "none" and self._state is not None:
            keys = self.result.keys
            shown = (overlay, None if keys is None else (keys.low, keys.high), self._theme)
            if shown != self._scaled:
                self._scaled = shown
                meaning, palette = tr(over.MEANINGS[overlay]), select.palette(self._state)
                self.legend.show_map(sequential(), *over.ends(overlay, keys), palette, meaning)
                self.meaning.set_wordings(meaning, meaning.split(",")[0])
        wanted = self.page, self.overlay.text(), self.many.text()
        if wanted != self._wanted:
            self._wanted = wanted
            self.row.want(self.many, self.overlay, *([self.go_on, self.again] if self.page == RESULT else []))

    def _choose_many(self, key: str) -> None:
        self.dispatch(SetParameter("num_return_sequences", int(key)))

    # words and tables

    def _numbers(self, state: AppState) -> tuple[str, ...]:
        """How much is there, and what the overlay adds, in fewer and fewer words."""
        run, image = state.run, image_draft.run_facts(state)
        page = self.start if self.page == START else self.result
        bits = [] if page.bits is None else [self.tr("{0} bits per pixel").format(f"{page.bits.bits_per_pixel:.3f}")]
        if self.page == START or run is None or image is None:
            facts = image_draft.facts(state)
            if facts is None or state.draft.tab != "image":
                return ("",)
            count = self.tr("{0} of {1} pixels given").format(f"{state.draft.image.given:,}", f"{facts.pixels:,}")
            return " · ".join((*bits, count)), (bits or [count])[0]
        if self.result.overlay == "bits" and self.result.picture is None:
            missing = image.pixels - (run.prompt_tokens - 1 + run.count)
            bits = [self.tr("bits once it is complete")]
            if run.finish is not None:
                bits = [self.tr("no bits, {0} missing").format(counted(run.model, missing))]
        if self.result.overlay in over.ATTENTION and self.result.start_weight is not None:
            bits = [self.tr("{0} on the start").format(numbers.percent(self.result.start_weight))]
        if self.result.overlay == "keys" and self.result.keys is not None:
            bits = [self.tr("layer {0}").format(state.focus.layer)]
            if self.result.keys.gone:
                bits.insert(0, self.tr("keys of {0} pixels are gone").format(f"{self.result.keys.gone:,}"))
        count = self.tr("{0} of {1} pixels").format(f"{run.prompt_tokens - 1 + run.count:,}", f"{image.pixels:,}")
        return " · ".join((*bits, count)), count

    def _show_table(self, state: AppState) -> None:
        run, image = state.run, image_draft.run_facts(state)
        table = None
        if self.twins.shown == BITS:
            page = self.start if self.start.bits is not None else self.result
            facts = image_draft.facts(state)
            table = canvas_tables.bits_table(page.bits, facts) if page.bits is not None and facts else None
        elif run is not None and image is not None and run.count:
            selected = select.pinned_index(state)
            if self.twins.shown == PIXELS:
                table = canvas_tables.pixels_table(run, image, selected)
            else:
                table = canvas_tables.completions_table(run, self.result.completions or [only(run)])
        self.twins.show_table(table)

    def _select_pixel(self, pixel: int) -> None:
        """One that was painted; of one that was given nothing more is known."""
        run = self._state.run if self._state else None
        index = -1 if run is None else pixel - (run.prompt_tokens - 1)
        if run is not None and 0 <= index < run.count:
            self.dispatch(SelectStep(None if index == run.count - 1 else index))

    # what can be done with a painting

    def _fill(self, menu: QMenu) -> None:
        state = self._state
        run, image = (state.run, image_draft.run_facts(state)) if state else (None, None)
        several = menu.addMenu(self.tr("Completions of a run"))
        for n in MANY:
            several.addAction(str(n), partial(self._choose_many, str(n)))
        if run is None or image is None:
            return
        regrow = menu.addAction(self.again.text(), lambda: self.dispatch(AnotherTry()))
        regrow.setEnabled(self.again.isEnabled())
        menu.addAction(self.tr("Begin with this painting"), partial(self.begin_with_it, image))
        menu.addSeparator()
        menu.addAction(self.tr("Save the painting…"), partial(self._ask, "painting.png", self.save_painting))
        grid = menu.addAction(self.tr("Save all completions…"), partial(self._ask, "grid.png", self.save_grid))
        grid.setEnabled(bool(self.result.completions))
        menu.addAction(self.tr("Save an animation…"), partial(self._ask, "painting.gif", self.save_animation))

    def _go_on(self) -> None:
        run, image = (self._state.run, image_draft.run_facts(self._state)) if self._state else (None, None)
        if run is not None and image is not None:
            self.begin_with_it(image)

    def begin_with_it(self, image: ImageFacts) -> None:
        """The painting becomes the beginning, given up to the selected pixel (or as far as it goes)."""
        state = self._state
        if state is None or state.run is None:
            return
        run, ids = state.run, self.result.token_ids
        done = run.prompt_tokens - 1 + run.count
        index = select.pinned_index(state)
        keep = done if index is None else run.prompt_tokens + index
        whole = np.where(ids < 0, image_draft.ground(image)[0], ids)
        picture = Picture.of(image.palette[whole].reshape(image.height, image.width, 3))
        name = next((one.name for one in self.result.completions if one.shown), str(run.row + 1))
        self.dispatch(StartPicture(picture, self.tr("painting {0}").format(name), keep=keep))

    def _ask(self, name: str, then: Callable[[Path], None]) -> None:
        """Ask for a file, without holding up the window."""
        kinds = self.tr("Animations (*.gif *.png)") if name.endswith(".gif") else self.tr("Pictures (*.png)")
        asking.save_file(self, self.tr("Save"), lambda chosen: then(Path(chosen)), name, kinds)

    def _said(self, path: Path, problem: str) -> None:
        self.dispatch(Announce("error" if problem else "info", problem or self.tr("Saved {0}.").format(path.name)))

    def _background(self) -> tuple[int, int, int]:
        return rgb(select.palette(self._state).raised) if self._state else (255, 255, 255)

    def save_painting(self, path: Path) -> None:
        """The picture shown, every pixel a square, as a PNG file."""
        pixels = self.result.painting(self.result.token_ids, self._background())
        if pixels is not None:
            self._files.start(lambda: exports.write_picture(path, exports.enlarged(pixels)), partial(self._said, path))

    def save_grid(self, path: Path) -> None:
        """All completions side by side, as a PNG file."""
        shown = self.result.paintings(self._background())
        if shown:
            self._files.start(
                lambda: exports.write_picture(path, exports.side_by_side(shown)), partial(self._said, path)
            )

    def save_animation(self, path: Path) -> None:
        """How the picture shown came about, as an animated GIF or PNG file."""
        background, run = self._background(), self._state.run if self._state else None
        pixels = self.result.painting(self.result.token_ids, background)
        if pixels is None or run is None:
            return
        given = run.prompt_tokens - 1
        self._files.start(
            lambda: exports.write_animation(path, exports.frames(pixels, given, background)), partial(self._said, path)
        )
