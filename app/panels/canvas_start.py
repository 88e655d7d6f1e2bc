"""The beginning on the canvas: the line between what is given and what is painted, and drawing with the palette."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from app.panels import canvas_overlays as over
from app.panels.panel import Dispatch
from app.state import image_draft
from app.state.image_draft import ImageDraft
from app.state.image_intents import DrawPixels, KeepPixels
from app.state.intents import AskView, ChooseModel, WithdrawView
from app.state.state import AppState
from app.theme.colormaps import rgb, sequential
from app.theme.palette import Palette
from app.widgets import drawing
from app.widgets.colour_picker import ColourPicker
from app.widgets.focus_ring import FocusRing
from app.widgets.pixel_canvas import PixelCanvas
from app.widgets.pixel_words import covered, faded, packed_rgb, painted
from app.widgets.segmented import Segmented
from core.contract import ImageFacts, PictureAnswer

PENCIL, FILL, PICK, ERASER = range(4)
EMBEDDED = "tiny-imagegpt"


class CanvasStart(QWidget):
    """Shows the draft's picture; what is not given is pale. With Draw on, a press draws instead of giving."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self.canvas = PixelCanvas()
        self.canvas.set_use("give")
        self.canvas.setAccessibleName(self.tr("Picture to begin with"))
        self.canvas.tooltip = self._tooltip
        self.canvas.dragged.connect(lambda count: dispatch(KeepPixels(count)))
        self.canvas.stroked.connect(self._stroked)
        self.load = QPushButton(self.tr("Load Tiny ImageGPT"))
        self.load.setToolTip(self.tr("A small image model that travels with the program"))
        self.load.clicked.connect(lambda: dispatch(ChooseModel(EMBEDDED)))
        self.draw = QPushButton(self.tr("Draw"))
        self.draw.setCheckable(True)
        self.draw.setToolTip(self.tr("Draw with the model's colours; Ctrl+Z takes a stroke back"))
        self.draw.toggled.connect(self._draw_toggled)
        self.tools = Segmented((self.tr("Pencil"), self.tr("Fill"), self.tr("Pick"), self.tr("Eraser")))
        self.tools.setToolTip(self.tr("What a press on the canvas does"))
        self.tools.show_choice(PENCIL)
        self.colours = ColourPicker()
        self.colours.setAccessibleName(self.tr("Colour to draw with"))
        for view in (self.canvas, self.colours):
            FocusRing(view)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.load)
        row.addWidget(self.draw)
        row.addWidget(self.tools)
        row.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.canvas, 1)
        box.addLayout(row)
        box.addWidget(self.colours)
        self._image: ImageFacts | None = None
        self._draft = ImageDraft()
        self._shown: tuple[object, ...] = ()
        self._palette: Palette | None = None
        self._stroke = 0
        self._last = (0, 0)
        self._pending: NDArray[np.int64] | None = None  # what was drawn since the last frame
        self._asked = False
        self._state: AppState | None = None
        self.overlay: over.Overlay = "none"
        self.bits: PictureAnswer | None = None
        self._draw_toggled(False)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette, self._shown = palette, ()
        self.canvas.set_palette(palette)
        self.colours.set_palette(palette)

    def set_overlay(self, overlay: over.Overlay) -> None:
        """Lay the bits over the picture, or nothing."""
        self.overlay = overlay
        self.withdraw()
        if self._state is not None:
            self.show_state(self._state)

    def withdraw(self) -> None:
        """Nobody looks any more."""
        if self._asked:
            self._asked = False
            self._dispatch(WithdrawView(over.BITS_SLOT))

    def show_state(self, state: AppState) -> None:
        """Follow the draft."""
        self._state, self._pending = state, None
        draft, image = state.draft.image, image_draft.facts(state)
        begins = state.draft.tab == "image"
        wants = self.overlay == "bits" and image is not None and begins
        query = over.bits_query(state, draft.picture) if wants else None
        if query is not None:
            self._asked = True
            self._dispatch(AskView(over.BITS_SLOT, query))
        self.bits = over.bits_of(state, draft.picture) if wants else None
        shown = (draft, image, begins, id(self.bits), state.loading)
        if shown == self._shown or self._palette is None:
            return
        self._shown, self._draft, self._image = shown, draft, image
        self.draw.setVisible(image is not None)
        self.load.setVisible(image is None)
        self.load.setEnabled(state.loading is None or state.loading.spec.name != EMBEDDED)
        if image is None:
            self.draw.setChecked(False)
            self.canvas.show_pixels(None)
            said = self.tr("The picture to begin with appears here")
            self.canvas.setAccessibleDescription(said)
            self.canvas.set_message(
                said,
                self.tr("Load an image model: the small one below, or another one in the toolbar."),
            )
            return
        self.colours.show_colours(image.palette)
        if not begins:
            self.canvas.show_pixels(None)
            said = self.tr("A run begins with the prompt’s text now")
            self.canvas.set_message(said, self.tr("Choose the prompt’s Image tab to begin with a picture."))
            self.canvas.setAccessibleDescription(said)
            return
        self._paint(draft, image, self._palette)

    def _paint(self, draft: ImageDraft, image: ImageFacts, palette: Palette) -> None:
        ids = image_draft.ids_array(draft, image)
        if ids is None:
            ids = np.full(image.pixels, -1, np.int64)
        colours = painted(ids, image.palette, rgb(palette.raised))
        if self.bits is not None:
            colours = covered(colours, over.of_bits(self.bits.surprisal_bits), sequential())
        elif not self.draw.isChecked():
            colours[draft.given :] = faded(colours[draft.given :], rgb(palette.surface))
        self.canvas.show_pixels(packed_rgb(colours).reshape(image.height, image.width))
        self.canvas.set_marks(draft.given if draft.picture is not None else None, None, False)
        said = self.tr("{0} of {1} pixels are given.").format(draft.given, image.pixels)
        self.canvas.setAccessibleDescription(said)

    def _tooltip(self, pixel: int) -> str:
        image = self._image
        ids = None if image is None else image_draft.ids_array(self._draft, image)
        if image is None or ids is None:
            return ""
        colour = image.rgb(int(ids[pixel])) or (0, 0, 0)
        place = self.tr("row {0}, column {1}").format(*divmod(pixel, image.width))
        said = f"{place}: #{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
        if self.bits is not None:
            bits = float(self.bits.surprisal_bits.reshape(-1)[pixel])
            return f"{said}\n" + self.tr("{0} bits").format(f"{bits:.2f}")
        return said

    # drawing

    def _draw_toggled(self, on: bool) -> None:
        self.tools.setVisible(on)
        self.colours.setVisible(on)
        self.canvas.set_use("draw" if on else "give")
        self._shown = ()
        if on and self._image is not None and self._draft.picture is None:
            ground = image_draft.ground(self._image)
            self.colours.choose(0)
            self._stroke += 1
            self._dispatch(DrawPixels(ground, self._stroke))
        if self._state is not None:
            self.show_state(self._state)

    def _ids(self, image: ImageFacts) -> NDArray[np.int64]:
        if self._pending is not None:
            return self._pending
        ids = image_draft.ids_array(self._current(), image)
        found = np.array(image_draft.ground(image)) if ids is None else ids
        return found.reshape(image.height, image.width)

    def _current(self) -> ImageDraft:
        return self._state.draft.image if self._state is not None else self._draft

    def _stroked(self, pixel: int, begins: bool) -> None:
        image = self._image
        if image is None:
            return
        at, ids = divmod(pixel, image.width), self._ids(image)
        tool = self.tools.group.checkedId()
        if begins:
            self._stroke += 1
            self._last = at
        if tool == PICK:
            self.colours.choose(int(ids[at]))
            self.tools.show_choice(PENCIL)
            return
        colour = image_draft.ground(image)[0] if tool == ERASER else self.colours.current
        after = drawing.filled(ids, at, colour) if tool == FILL else drawing.drawn(ids, self._last, at, colour)
        self._last, self._pending = at, after
        self._dispatch(DrawPixels(tuple(after.reshape(-1).tolist()), self._stroke))
