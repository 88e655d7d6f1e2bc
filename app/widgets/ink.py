"""A model's colours as words, plain and under every level of the map, so that a picture is one look-up. numpy only.

Every further numpy call may have to wait for the interpreter lock while the model runs; two calls a frame do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.theme.colormaps import sequential
from app.widgets.pixel_words import COVER, Words, packed_rgb

Rgb = tuple[int, int, int]


class Ink:
    """palette: (C, 3). tones: of the chequer that stands where nothing is painted yet, so that white is not taken
    for it; they have the numbers C and C + 1."""

    def __init__(self, palette: NDArray[np.uint8], tones: tuple[Rgb, Rgb]) -> None:
        self._rgb = np.vstack([palette, np.array(tones, np.uint8)])  # (C + 2, 3)
        self.colours = len(palette)
        self._words = packed_rgb(self._rgb)
        self._covered: Words | None = None  # (C + 2, 257), the last column without a cover

    def blank(self, height: int, width: int) -> NDArray[np.int64]:
        """(H · W,) numbers of an empty canvas."""
        chequer = np.add.outer(np.arange(height), np.arange(width)) % 2
        return np.asarray(self.colours + chequer.reshape(-1), np.int64)

    def picture(self, numbers: NDArray[np.int64], levels: NDArray[np.int16] | None = None) -> Words:
        """Words of colours, under levels of the map; a level of -1 covers nothing. Any shape."""
        if levels is None:
            return np.asarray(self._words[numbers], np.uint32)
        if self._covered is None:
            self._covered = self._blends()
        return np.asarray(self._covered[numbers, levels], np.uint32)

    def _blends(self) -> Words:
        mixed = self._rgb[:, None] * (1.0 - COVER) + sequential()[None] * COVER  # (C + 2, 256, 3)
        plain = self._words[:, None]
        table = np.hstack([packed_rgb(mixed.astype(np.uint8)), plain])
        table[self.colours :] = plain[self.colours :]
        return np.asarray(table, np.uint32)
