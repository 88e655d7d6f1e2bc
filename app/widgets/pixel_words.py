"""Pixels as words for QImage, and quantities laid over them. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]  # 0xffRRGGBB

QUIET = 0.78  # how far what is not given (or not looked at) fades into the surface
COVER = 0.88  # how much of a quantity's colour covers a pixel


def packed_rgb(pixels: NDArray[np.uint8]) -> Words:
    """(..., 3) RGB as words (...)."""
    p = pixels.astype(np.uint32)
    return np.asarray(0xFF000000 | p[..., 0] << 16 | p[..., 1] << 8 | p[..., 2], np.uint32)


def painted(
    token_ids: NDArray[np.int64], palette: NDArray[np.uint8], unpainted: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Colours (N, 3) of token ids (N,); ids that are no colour are `unpainted`."""
    known = (token_ids >= 0) & (token_ids < len(palette))
    colours = np.empty((len(token_ids), 3), np.uint8)
    colours[:] = unpainted
    colours[known] = palette[token_ids[known]]
    return colours


def faded(colours: NDArray[np.uint8], surface: tuple[int, int, int], share: float = QUIET) -> NDArray[np.uint8]:
    """Colours (N, 3), most of them replaced by the surface."""
    return np.asarray(colours * (1.0 - share) + np.array(surface) * share, np.uint8)


def covered(
    colours: NDArray[np.uint8], levels: NDArray[np.int16], lut: NDArray[np.uint8], share: float = COVER
) -> NDArray[np.uint8]:
    """Colours (N, 3) under a map (256, 3); a level (N,) below 0 leaves the pixel as it is."""
    shown = levels >= 0
    result = colours.copy()
    result[shown] = (colours[shown] * (1.0 - share) + lut[np.minimum(levels[shown], 255)] * share).astype(np.uint8)
    return result
