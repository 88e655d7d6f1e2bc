"""The Image tab of the prompt: what to begin with, how it looks to the model, how much of it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app import asking, pictures
from app.state import image_draft
from app.state.image_draft import ImageDraft
from app.state.image_intents import KeepPixels, StartEmpty, StartPicture
from app.state.intents import Intent
from app.theme.palette import Palette
from app.widgets.elided_label import ElidedLabel
from app.widgets.focus_ring import FocusRing
from app.widgets.picture_grid import PictureGrid
from app.widgets.pixel_words import packed_rgb
from app.widgets.slider import QuietSlider
from core.contract import ImageFacts, Picture

SAMPLES = 4  # by as many, of which a pixel of a preview is the mean
PREVIEW_PX = 96  # side of the original, and of the quantised picture beside it


class ImageEditor(QWidget):
    """Emits what to begin with. `open_file` reads a picture file off the GUI thread."""

    def __init__(
        self, dispatch: Callable[[Intent], None], open_file: Callable[[Path], None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._dispatch, self._open_file = dispatch, open_file
        self._image: ImageFacts | None = None
        self._draft = ImageDraft()
        self._shown: object = None
        self.empty = QPushButton(self.tr("Nothing"))
        self.empty.setToolTip(self.tr("Begin with an empty canvas: the model paints all of it"))
        self.empty.clicked.connect(lambda: dispatch(StartEmpty()))
        self.open = QPushButton(self.tr("Open…"))
        self.open.setToolTip(self.tr("Begin with a picture file; it may be dropped onto the window, too"))
        self.open.clicked.connect(self._choose_file)
        self.samples = PictureGrid()
        self.samples.caption_px = 0
        self.samples.setFixedHeight(36)
        self.samples.setAccessibleName(self.tr("Samples"))
        self.samples.setAccessibleDescription(self.tr("Small pictures that the model was not trained on"))
        self.samples.tooltip = self._sample_name
        self.samples.chosen.connect(self._sample_chosen)
        self.preview = PictureGrid()
        self.preview.setMinimumHeight(64)
        self.preview.setMaximumHeight(PREVIEW_PX + 22)
        self.preview.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.preview.setAccessibleName(self.tr("The picture as it is, and as the model sees it"))
        FocusRing(self.samples)
        self.rows = QuietSlider()
        self.rows.setAccessibleName(self.tr("Rows given"))
        self.rows.setAccessibleDescription(self.tr("The model paints the rows below"))
        self.rows.valueChanged.connect(self._rows_moved)
        self.given = QLabel()
        self.given.setProperty("secondary", True)
        self.title = ElidedLabel()
        self.title.setProperty("secondary", True)
        self._lay_out()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.empty)
        buttons.addWidget(self.open)
        buttons.addStretch(1)
        rows = QGridLayout()
        rows.setHorizontalSpacing(8)
        label = QLabel(self.tr("rows given"))
        rows.addWidget(label, 0, 0)
        rows.addWidget(self.rows, 0, 1)
        rows.addWidget(self.given, 0, 2)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addLayout(buttons)
        box.addWidget(self.samples)
        box.addWidget(self.preview, 1)
        box.addWidget(self.title)
        box.addLayout(rows)
        box.addStretch(0)

    def set_palette(self, palette: Palette) -> None:
        """Colours of another theme."""
        self.samples.set_palette(palette)
        self.preview.set_palette(palette)

    def show_draft(self, draft: ImageDraft, image: ImageFacts | None) -> None:
        """Show the beginning, for a model that paints such pictures."""
        first = image is not None and self._image is None
        self._draft, self._image = draft, image
        if image is None:
            return
        if first:
            self._show_samples()
        if not draft.touched and draft.picture is None and pictures.samples():
            self._start(0, offered=True)
            return
        self._show_pictures(draft, image)
        self._show_given(draft, image)

    def _show_samples(self) -> None:
        found = pictures.samples()
        self.samples.show_pictures([packed_rgb(one.picture.array()) for one in found if one.picture], ())

    def _show_pictures(self, draft: ImageDraft, image: ImageFacts) -> None:
        key = (id(draft.picture), draft.token_ids, id(image))
        if key == self._shown:
            return
        self._shown = key
        names = [one.title for one in pictures.samples()]
        self.samples.set_marks(names.index(draft.title) if draft.title in names and not draft.drawn else None)
        if draft.picture is None:
            self.preview.show_pictures((), ())
            self.preview.set_message(self.tr("An empty canvas"), self.tr("The model paints every pixel."))
            self.title.setText("")
            return
        ids, longest = image_draft.ids_array(draft, image), max(image.height, image.width)
        side = longest * max(1, PREVIEW_PX // longest)
        shown, captions = [], []
        if not draft.drawn:
            shown.append(packed_rgb(_square(draft.picture, side)))
            captions.append(self.tr("picture"))
        if ids is not None:
            shown.append(packed_rgb(_square(Picture.of(_painted(ids, image)), side)))
            captions.append(self.tr("model’s view"))
        self.preview.show_pictures(shown, captions)
        size = f"{draft.picture.width:,} × {draft.picture.height:,}"
        title = self.tr("Drawing") if draft.drawn else f"{draft.title}, {size}"
        self.title.setText(" ".join((f"{title}.", *draft.notes)))

    def _show_given(self, draft: ImageDraft, image: ImageFacts) -> None:
        self.rows.blockSignals(True)
        self.rows.setRange(0, image.height)
        self.rows.setPageStep(max(1, image.height // 4))
        self.rows.setValue(draft.given // image.width)
        self.rows.setEnabled(draft.picture is not None)
        self.rows.blockSignals(False)
        rows, more = divmod(draft.given, image.width)
        text = f"{rows} / {image.height}"
        self.given.setText(text if not more else f"{rows} + {more} px")
        self.given.setToolTip(self.tr("{0} of {1} pixels").format(f"{draft.given:,}", f"{image.pixels:,}"))

    def _sample_name(self, number: int) -> str:
        return pictures.samples()[number].title

    def _sample_chosen(self, number: int) -> None:
        self._start(number)

    def _start(self, number: int, offered: bool = False) -> None:
        one = pictures.samples()[number]
        if one.picture is not None:
            self._dispatch(StartPicture(one.picture, one.title, offered=offered))

    @Slot(int)
    def _rows_moved(self, rows: int) -> None:
        if self._image is not None:
            self._dispatch(KeepPixels(rows * self._image.width))

    @Slot()
    def _choose_file(self) -> None:
        patterns = " ".join(f"*{suffix}" for suffix in sorted(pictures.suffixes()))
        kinds = self.tr("Pictures ({0})").format(patterns)
        asking.open_file(self, self.tr("Open a picture"), lambda name: self._open_file(Path(name)), kinds)


def _painted(ids: NDArray[np.int64], image: ImageFacts) -> NDArray[np.uint8]:
    return image.palette[ids].reshape(image.height, image.width, 3)


def _square(picture: Picture, side: int) -> NDArray[np.uint8]:
    """A picture with `side` px on its longer side, on a square of white (side, side, 3).

    Of large pictures only SAMPLES rows and columns a pixel are looked at, which takes up to 1.3 ms; all of 50 MP took
    half a second.
    """
    pixels = picture.array()
    every = max(1, max(picture.width, picture.height) // (side * SAMPLES))
    pixels = np.ascontiguousarray(pixels[every // 2 :: every, every // 2 :: every] if every > 1 else pixels)
    if not pixels.size:  # a line thinner than the step
        pixels = np.ascontiguousarray(picture.array()[:: min(every, picture.height), :: min(every, picture.width)])
    height, width, _ = pixels.shape
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    smooth = max(width, height) > side
    mode = Qt.TransformationMode.SmoothTransformation if smooth else Qt.TransformationMode.FastTransformation
    scaled = image.scaled(side, side, Qt.AspectRatioMode.KeepAspectRatio, mode)
    found = pictures.pixels_of(scaled)[:, :, :3]
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - found.shape[0]) // 2, (side - found.shape[1]) // 2
    square[top : top + found.shape[0], left : left + found.shape[1]] = found
    return square
