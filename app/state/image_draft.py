"""The picture that an image model begins with: what it is, how the model sees it, how much of it is given. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.state import image_intents as i
from core.contract import ImageFacts, ModelInfo, Picture, Prompt, PromptRow

if TYPE_CHECKING:
    from app.state.state import AppState, Draft


@dataclass(frozen=True, slots=True)
class ImageDraft:
    """The beginning of the next picture.

    picture: as it was opened; None for none at all. title, notes: where it is from, and what was done to it.
    keep: pixels that are given, of a canvas (height, width), that of the last model that painted.
    drawn: made here, with the palette.
    token_ids: the whole picture in the model's size and colours, one id a pixel; None until core has said so.
    since: the draft's generation from which on this picture is the one that is tokenised.
    touched: the user has chosen, so that the window offers nothing by itself any more.
    """

    picture: Picture | None = None
    title: str = ""
    notes: tuple[str, ...] = ()
    keep: int = 0
    canvas: tuple[int, int] | None = None
    drawn: bool = False
    token_ids: tuple[int, ...] | None = None
    since: int = 0
    touched: bool = False

    @property
    def given(self) -> int:
        """Pixels that are given, 0 where there is no picture."""
        return 0 if self.picture is None else self.keep


def facts(state: AppState) -> ImageFacts | None:
    """What the loaded model paints; None for models of text."""
    return state.model.image if state.model is not None else None


def run_facts(state: AppState) -> ImageFacts | None:
    """What the model of the run shown paints; None for models of text, and without a run."""
    return state.run.model.image if state.run is not None else None


def on_intent(draft: Draft, image: ImageFacts | None, intent: i.ImageIntent) -> Draft:
    """The draft after an intent; the Image tab is in front then, unless a picture has to wait for an image model."""
    before, tab = draft.image, draft.tab if image is None else "image"
    match intent:
        case i.StartEmpty():
            after = ImageDraft(touched=True)
        case i.StartPicture(picture, title, notes, keep, offered):
            given = half(image) if keep is None else keep
            touched = before.touched or not offered
            after = ImageDraft(picture, title, notes, limited(given, image), touched=touched)
        case i.KeepPixels(count):
            after = replace(before, keep=limited(count, image), touched=True)
        case i.DrawPixels(token_ids):
            after = _drawn(before, image, token_ids)
    if image is not None:
        after = replace(after, canvas=(image.height, image.width))
    if after == before and draft.tab == tab:
        return draft
    if not isinstance(intent, i.KeepPixels):
        after = replace(after, since=draft.generation + 1)
    return replace(draft, image=after, tab=tab, generation=draft.generation + 1)


def _drawn(before: ImageDraft, image: ImageFacts | None, token_ids: tuple[int, ...]) -> ImageDraft:
    if image is None or len(token_ids) != image.pixels or token_ids == before.token_ids:
        return before
    picture = Picture.of(image.palette[np.array(token_ids)].reshape(image.height, image.width, 3))
    old = np.array(before.token_ids or ground(image))
    changed = np.flatnonzero(old != np.array(token_ids))
    last = int(changed[-1]) if len(changed) else -1
    keep = max(before.given, min(-(-(last + 1) // image.width) * image.width, image.pixels - 1))
    return ImageDraft(picture, keep=keep, drawn=True, token_ids=token_ids, touched=True)


def ground(image: ImageFacts) -> tuple[int, ...]:
    """A canvas in the colour nearest to white, a token id a pixel."""
    white = int(np.abs(255 - image.palette.astype(np.int64)).sum(axis=1).argmin())
    return (white,) * image.pixels


def half(image: ImageFacts | None) -> int:
    """Half of the rows, in pixels."""
    return 0 if image is None else image.height // 2 * image.width


def limited(count: int, image: ImageFacts | None) -> int:
    """As many as can be given: one pixel at least is left to paint."""
    return max(0, count if image is None else min(count, image.pixels - 1))


def tokenized(draft: Draft, generation: int, row: PromptRow | None) -> ImageDraft:
    """With the picture as core has quantised it."""
    image = draft.image
    if draft.tab != "image" or image.picture is None or row is None or generation < image.since:
        return image
    return replace(image, token_ids=row.token_ids[1:])


def for_model(draft: Draft, after: ModelInfo) -> ImageDraft:
    """The same picture for another model: it is quantised anew, and as large a part of it is given, in whole rows."""
    image, new = draft.image, after.image
    if new is None:
        return image
    keep, canvas = image.keep, (new.height, new.width)
    if image.canvas is not None and image.canvas != canvas:
        height, width = image.canvas
        keep = round(image.keep / (height * width) * new.height) * new.width
    elif image.canvas is None and not keep:
        keep = half(new)  # it waited for a model that paints
    return replace(image, keep=limited(keep, new), canvas=canvas, token_ids=None, since=draft.generation + 1)


def run_prompt(image: ImageDraft) -> Prompt:
    """What a run begins with."""
    if image.picture is None or not image.keep:
        return Prompt(text="")
    return Prompt(image=image.picture, keep_pixels=image.keep)


def whole_prompt(image: ImageDraft) -> Prompt:
    """What is tokenised while it is being chosen: all of the picture, so that it can be seen as the model sees it."""
    return Prompt(text="") if image.picture is None else Prompt(image=image.picture)


def ids_array(image: ImageDraft, of: ImageFacts) -> NDArray[np.int64] | None:
    """The quantised picture (H · W,); None where it is not known, or of another size."""
    if image.token_ids is None or len(image.token_ids) != of.pixels:
        return None
    return np.array(image.token_ids, np.int64)
