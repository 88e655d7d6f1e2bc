"""What the user wants of the picture that an image model begins with."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract import Picture


@dataclass(frozen=True, slots=True)
class StartEmpty:
    """Begin with nothing."""


@dataclass(frozen=True, slots=True)
class StartPicture:
    """Begin with a picture; half of its rows are given until somebody says otherwise.

    notes: what was done to it on the way (a frame chosen, transparency filled), a sentence each.
    keep: pixels that are given. offered: by the window itself, because there was nothing yet; no step of undo.
    """

    picture: Picture
    title: str
    notes: tuple[str, ...] = ()
    keep: int | None = None
    offered: bool = False


@dataclass(frozen=True, slots=True)
class KeepPixels:
    """So many pixels are given, row by row from the top left; the model paints the others."""

    count: int


@dataclass(frozen=True, slots=True)
class DrawPixels:
    """The picture drawn with the palette, all of it: a token id a pixel. One stroke is undone as one.

    A part that was given before stays given, and what is drawn below it is given, too.
    """

    token_ids: tuple[int, ...]
    stroke: int


ImageIntent = StartEmpty | StartPicture | KeepPixels | DrawPixels
