"""The painting: pixels as they are chosen, overlays, completions side by side, the colours of the shown pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from app.panels import canvas_overlays as over
from app.panels import output_attention
from app.panels.completions import Completion, Completions
from app.panels.panel import Dispatch
from app.state import image_draft, select
from app.state.branch_intents import ForceToken
from app.state.intents import AskView, SelectStep, WithdrawView
from app.state.run import RunView
from app.state.state import AppState
from app.theme.colormaps import rgb
from app.theme.palette import Palette
from app.widgets import candidate_rows, numbers
from app.widgets.focus_ring import FocusRing
from app.widgets.ink import Ink
from app.widgets.picture_grid import PictureGrid
from app.widgets.pixel_canvas import PixelCanvas
from app.widgets.pixel_words import painted
from app.widgets.swatches import Swatch, Swatches
from core.contract import ImageFacts, KeyNormsQuery, Picture, PictureAnswer, PictureQuery, StepSnapshot

UNPAINTED = -1
GRID_SHARE = 4  # of the width in ninths
CALM_FRAMES = 2  # swatches follow every so many frames while pixels stream


class CanvasResult(QWidget):
    """What the run shown has painted."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self.canvas = PixelCanvas()
        self.canvas.setAccessibleName(self.tr("Painting"))
        self.canvas.tooltip = self._tooltip
        self.canvas.clicked.connect(self._clicked)
        self.canvas.hovered.connect(self._hovered)
        self.grid = PictureGrid()
        self.grid.setAccessibleName(self.tr("Completions"))
        self.grid.chosen.connect(self.show_completion)
        self.swatches = Swatches()
        self.swatches.setAccessibleName(self.tr("Colours of the shown pixel"))
        self.swatches.tooltip = _swatch_words
        self.swatches.setToolTip(self.tr("Click another colour: a branch grows from there"))
        self.swatches.chosen.connect(self._repaint)
        for view in (self.canvas, self.grid, self.swatches):
            FocusRing(view)
        above = QHBoxLayout()
        above.setSpacing(8)
        above.addWidget(self.canvas, 9 - GRID_SHARE)
        above.addWidget(self.grid, GRID_SHARE)
        self.grid.hide()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addLayout(above, 1)
        box.addWidget(self.swatches)
        self._state: AppState | None = None
        self._palette: Palette | None = None
        self._key: object = None
        self._count = 0
        self._all = Completions()
        self.completions: list[Completion] = []
        self._gridded: list[tuple[object, int]] = []  # what the grid shows
        self._hover: int | None = None
        self._told: StepSnapshot | None = None  # whose colours the swatches show
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)  # (H · W,), of the sequence shown
        self._inked: NDArray[np.int64] = np.zeros(0, np.int64)  # the same, a chequer where nothing is painted
        self._ink: Ink | None = None
        self._painted: tuple[object, ...] = ()
        self._asked: set[str] = set()
        self._frames = 0
        self.overlay: over.Overlay = "none"
        self.bits: PictureAnswer | None = None
        self.picture: Picture | None = None  # the painting, once it is complete
        self.start_weight: float | None = None
        self.keys: over.Keys | None = None

    # state

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette, self._painted, self._key = palette, (), None
        for view in (self.canvas, self.grid, self.swatches):
            view.set_palette(palette)

    def set_overlay(self, overlay: over.Overlay) -> None:
        """Lay something else over the picture."""
        self.overlay, self.start_weight, self.keys = overlay, None, None
        self._withdraw()
        if self._state is not None:
            self.show_state(self._state)

    def show_state(self, state: AppState) -> None:
        """Follow the run: what is new since the last time."""
        self._state = state
        run, image = state.run, image_draft.run_facts(state)
        if run is None or image is None:
            self._show_nothing(state)
            return
        self._follow(run, image)
        self._ask(run, image, state)
        levels, version = self._levels(run, image, state)
        self._paint(run, image, levels, version)
        self._show_grid(run, image, state)
        index = select.step_index(state)
        given = run.prompt_tokens - 1
        self.canvas.reach = range(given, min(given + run.count, image.pixels))
        self.canvas.set_marks(given, None if index is None else given + index, state.selected is not None)
        self._frames += 1
        if not select.is_streaming(state) or self._frames % CALM_FRAMES == 0:
            self._show_swatches()

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """(H · W,) ids of the sequence shown, -1 where nothing is painted yet."""
        return self._ids

    def withdraw(self) -> None:
        """Nobody looks any more."""
        self._withdraw()

    def _withdraw(self) -> None:
        for slot in sorted(self._asked):
            self._dispatch(WithdrawView(slot))
        self._asked.clear()

    def _show_nothing(self, state: AppState) -> None:
        self._key, self._count, self._painted = None, 0, ()
        self._ids = np.zeros(0, np.int64)
        self.canvas.show_pixels(None)
        self.canvas.set_marks(None, None, False)
        hint = self.tr("Press Ctrl+Enter: the model goes on from what is given.")
        if image_draft.facts(state) is None:
            hint = self.tr("Load an image model, such as tiny-imagegpt, then press Ctrl+Enter.")
        hint = select.next_step(state, hint)
        self.canvas.set_message(self.tr("The picture appears here, pixel by pixel"), hint)
        self.grid.hide()
        self.completions, self._told = [], None
        self.swatches.show_rows((), "")

    def _follow(self, run: RunView, image: ImageFacts) -> None:
        if run.key != self._key:
            self._key, self._count, self.bits, self.start_weight, self.picture = run.key, 0, None, None, None
            self._begin(run, image)
        if run.count > self._count:
            first = run.prompt_tokens - 1
            new = run.column("token_id")[self._count :]
            place = slice(first + self._count, min(first + run.count, image.pixels))
            self._ids[place] = self._inked[place] = new[: place.stop - place.start]
            self._count = run.count
            self.picture = over.picture_of(self._ids, image) if place.stop == image.pixels else None

    def _begin(self, run: RunView, image: ImageFacts) -> None:
        """Another sequence: what was given of it."""
        assert self._palette is not None
        self._gridded = []
        self._ink = Ink(image.palette, (rgb(self._palette.raised), rgb(self._palette.line)))
        self._inked = self._ink.blank(image.height, image.width)
        self._ids = np.full(image.pixels, UNPAINTED, np.int64)
        prompt = run.prompt.token_ids[1:]
        self._ids[: len(prompt)] = self._inked[: len(prompt)] = prompt

    # overlays

    def _ask(self, run: RunView, image: ImageFacts, state: AppState) -> None:
        query: output_attention.Query | PictureQuery | KeyNormsQuery | None = None
        slot = over.OVERLAY_SLOT
        if self.overlay == "bits":
            slot, query = over.BITS_SLOT, over.bits_query(state, self.picture)
        elif self.overlay in over.ATTENTION or self.overlay == "keys":
            keys = self.overlay == "keys"
            query = over.keys_query(run, state) if keys else over.attention_query(run, state, self.overlay)
            asked = state.asked.get(slot)
            follows = state.selected is None and asked is not None
            if asked is not None and (asked.query == query or (follows and select.is_waiting(state, slot))):
                query = None
        if query is not None:
            self._asked.add(slot)
            self._dispatch(AskView(slot, query))

    def _levels(self, run: RunView, image: ImageFacts, state: AppState) -> tuple[NDArray[np.int16] | None, object]:
        """The overlay as levels, and what tells it from the one before."""
        if self.overlay in over.QUANTITIES:
            return over.of_steps(run, self.overlay, image.pixels), run.count
        if self.overlay == "bits":
            self.bits = over.bits_of(state, self.picture)
            return (over.of_bits(self.bits.surprisal_bits), id(self.bits)) if self.bits else (None, None)
        got = select.answer(state, over.OVERLAY_SLOT)
        if got is None or self.overlay == "none":
            return None, None
        if self.overlay == "keys":
            self.keys = over.of_keys(got.answer, over.key_heads(run, state), image.pixels)
            return (None if self.keys is None else self.keys.levels), (got.generation, state.focus)
        found = over.of_attention(got.answer, image.pixels)
        if found is None:
            return None, None
        levels, self.start_weight = found
        return levels, got.generation

    def _paint(self, run: RunView, image: ImageFacts, levels: NDArray[np.int16] | None, version: object) -> None:
        key = (run.key, run.count, self.overlay, version)
        if key == self._painted or self._ink is None:
            return
        self._painted = key
        self.canvas.show_pixels(self._ink.picture(self._inked, levels).reshape(image.height, image.width))

    # completions

    def _show_grid(self, run: RunView, image: ImageFacts, state: AppState) -> None:
        self.completions = self._all.of(state, run)
        several = bool(self.completions)
        if several == self.grid.isHidden():
            self.grid.setVisible(several)
        gridded = [(one.key, one.count) for one in self.completions]
        if several and gridded != self._gridded and self._ink is not None:
            blank = self._ink.blank(image.height, image.width)
            shown = self._ink.picture(np.stack([one.painted(blank) for one in self.completions]))
            shape = len(shown), image.height, image.width
            self.grid.show_pictures(list(shown.reshape(shape)), [one.name for one in self.completions])
        self._gridded = gridded
        self.grid.set_marks(next((n for n, one in enumerate(self.completions) if one.shown), None))

    def show_completion(self, number: int) -> None:
        """Every panel shows this one of the grid."""
        for intent in self.completions[number].go if number < len(self.completions) else ():
            self._dispatch(intent)

    def painting(self, ids: NDArray[np.int64], unpainted: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """A sequence as plain pixels (H, W, 3); None without one."""
        image = image_draft.run_facts(self._state) if self._state else None
        if image is None or len(ids) != image.pixels:
            return None
        return painted(ids, image.palette, unpainted).reshape(image.height, image.width, 3)

    def paintings(self, unpainted: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
        """All completions as plain pixels."""
        blank = np.full(len(self._ids), UNPAINTED, np.int64)
        every = (self.painting(one.painted(blank), unpainted) for one in self.completions)
        return [pixels for pixels in every if pixels is not None]

    # the shown pixel

    def _shown_step(self) -> StepSnapshot | None:
        """The step of the pixel under the pointer, else of the one that every panel shows."""
        state = self._state
        if state is None or state.run is None:
            return None
        run = state.run
        if self._hover is not None:
            index = self._hover - (run.prompt_tokens - 1)
            return run.step(index) if 0 <= index < run.count else None
        return select.step(state)

    def _show_swatches(self) -> None:
        if self._shown_step() is not None and self._shown_step() is self._told:
            return
        self._told = self._shown_step()
        step, image = self._told, image_draft.run_facts(self._state) if self._state else None
        if step is None or image is None:
            hovered = self._hover is not None and self._hover < len(self._ids) and self._ids[self._hover] >= 0
            self.swatches.show_rows((), self.tr("This pixel was given.") if hovered else "")
            return
        rows = [
            Swatch(row.token_id, image.rgb(row.token_id) or (0, 0, 0), row.raw, row.final, row.chosen)
            for row in candidate_rows.rows(step)
        ]
        self.swatches.show_rows(rows)

    def _hovered(self, pixel: int) -> None:
        self._hover = None if pixel < 0 else pixel
        self._show_swatches()

    def _clicked(self, pixel: int) -> None:
        run = self._state.run if self._state else None
        if run is None:
            return
        index = pixel - (run.prompt_tokens - 1)
        if 0 <= index < run.count:
            self._dispatch(SelectStep(None if index == run.count - 1 else index))

    def _repaint(self, token_id: int) -> None:
        """Another colour for the shown pixel: a branch grows from there."""
        index = select.step_index(self._state) if self._state else None
        step = select.step(self._state) if self._state else None
        if index is not None and step is not None and token_id != step.token_id:
            self._dispatch(ForceToken(token_id, index))

    def _tooltip(self, pixel: int) -> str:
        run, image = (self._state.run, image_draft.run_facts(self._state)) if self._state else (None, None)
        if run is None or image is None or not len(self._ids):
            return ""
        place = self.tr("row {0}, column {1}").format(*divmod(pixel, image.width))
        colour = image.rgb(int(self._ids[pixel]))
        if colour is None:
            return self.tr("{0}: not painted yet").format(place)
        said = f"{place}: #{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
        index = pixel - (run.prompt_tokens - 1)
        if not 0 <= index < run.count:
            return self.tr("{0}, given").format(said)
        step = run.step(index)
        return self.tr("{0}\nprobability {1}, entropy {2} bits, rank {3}").format(
            said, numbers.probability(math.exp(step.logprob)).strip(), f"{step.entropy_bits:.2f}", step.rank
        )


def _swatch_words(swatch: Swatch) -> str:
    red, green, blue = swatch.rgb
    final = f"{swatch.final:.6f}" if swatch.final > 0 else "–"
    return f"#{red:02x}{green:02x}{blue:02x}\nid {swatch.token_id}\nraw {swatch.raw:.6f}\nfinal {final}"
