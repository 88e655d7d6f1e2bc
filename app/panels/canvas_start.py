"""The beginning on the canvas: the line between what is given and what is painted."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QVBoxLayout, QWidget

from app.panels.panel import Dispatch
from app.state import image_draft
from app.state.image_intents import KeepPixels
from app.state.state import AppState
from app.theme.colormaps import rgb
from app.theme.palette import Palette
from app.widgets.focus_ring import FocusRing
from app.widgets.pixel_canvas import PixelCanvas
from app.widgets.pixel_words import faded, packed_rgb, painted


class CanvasStart(QWidget):
    """Shows the draft's picture; what is not given is pale."""

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dispatch = dispatch
        self.canvas = PixelCanvas()
        self.canvas.set_use("give")
        self.canvas.setAccessibleName(self.tr("Picture to begin with"))
        self.canvas.dragged.connect(lambda count: dispatch(KeepPixels(count)))
        FocusRing(self.canvas)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.canvas, 1)
        self._shown: tuple[object, ...] = ()
        self._palette: Palette | None = None

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self._palette, self._shown = palette, ()
        self.canvas.set_palette(palette)

    def show_state(self, state: AppState) -> None:
        """Follow the draft."""
        draft, image = state.draft.image, image_draft.facts(state)
        shown = (draft, image)
        if shown == self._shown or self._palette is None:
            return
        self._shown = shown
        if image is None:
            self.canvas.show_pixels(None)
            self.canvas.set_message(
                self.tr("The picture to begin with appears here"),
                self.tr("Load an image model, such as tiny-imagegpt, in the toolbar."),
            )
            return
        ids = image_draft.ids_array(draft, image)
        if ids is None:
            ids = np.full(image.pixels, -1, np.int64)
        colours = painted(ids, image.palette, rgb(self._palette.raised))
        colours[draft.given :] = faded(colours[draft.given :], rgb(self._palette.surface))
        self.canvas.show_pixels(packed_rgb(colours).reshape(image.height, image.width))
        self.canvas.set_marks(draft.given if draft.picture is not None else None, None, False)
