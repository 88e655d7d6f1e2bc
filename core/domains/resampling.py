"""Pictures made smaller or larger as `PIL.Image.resize` does it, to the bit: what the reference processors use.

Pillow's own way (`Resample.c`, `Image.resize`): the filter is as wide as the pixels that become one, weights are
fixed-point numbers, columns come before rows, and what is between is rounded to whole levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Pillow's numbers of filters, as preprocessor configs hold them.
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)
_BITS = 22  # behind the point of a weight
_AT_ONCE = 256  # rows, so that large pictures take no memory to speak of
_TALL = 100  # from this ratio of the sides on, rows come before columns
Rgb = NDArray[np.uint8]  # (H, W, 3)


def resized(pixels: Rgb, size: tuple[int, int], resample: int) -> Rgb:
    """The picture in another size (height, width), not cropped. Raises `KeyError` for an unknown filter."""
    if pixels.shape[:2] == size:
        return pixels
    if resample == NEAREST:
        rows, columns = (
            np.cumsum([0.5 * before / after] + [before / after] * (after - 1)).astype(np.int64)
            for before, after in zip(pixels.shape, size, strict=False)
        )
        return np.ascontiguousarray(pixels[rows[:, None], columns])
    if pixels.shape[0] > _TALL * pixels.shape[1] and size[0] < pixels.shape[0]:
        return _columns(_rows(pixels, size[0], resample), size[1], resample)
    return _rows(_columns(pixels, size[1], resample), size[0], resample)


def _rows(pixels: Rgb, height: int, resample: int) -> Rgb:
    """Other rows (height, W, 3) from the rows (H, W, 3)."""
    return np.ascontiguousarray(_columns(pixels.swapaxes(0, 1), height, resample).swapaxes(0, 1))


def _columns(pixels: Rgb, width: int, resample: int) -> Rgb:
    """Other columns (H, width, 3) from the columns (H, W, 3), some rows at a time."""
    if pixels.shape[1] == width:
        return pixels
    tops = range(0, len(pixels), _AT_ONCE)
    return np.concatenate([_some_columns(pixels[top : top + _AT_ONCE], width, resample) for top in tops])


def _some_columns(pixels: Rgb, width: int, resample: int) -> Rgb:
    filtered, support = _FILTERS[resample]
    before = pixels.shape[1]
    scale = before / width
    reach = max(scale, 1.0)
    found = np.empty((pixels.shape[0], width, 3), np.uint8)
    lines = np.ascontiguousarray(pixels.swapaxes(1, 2), np.float64)  # (H, 3, W)
    for column in range(width):
        centre = (column + 0.5) * scale
        first, stop = max(0, int(centre - support * reach + 0.5)), min(before, int(centre + support * reach + 0.5))
        weights = [filtered((x - centre + 0.5) * (1.0 / reach)) for x in range(first, stop)]
        total = sum(weights) or 1.0
        fixed = [float(int(math.copysign(0.5, w) + w / total * (1 << _BITS))) for w in weights]
        summed = lines[:, :, first:stop] @ np.array(fixed)  # (H, 3), exact
        found[:, column] = np.clip(np.floor((summed + (1 << (_BITS - 1))) / (1 << _BITS)), 0, 255)
    return found


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    x = abs(x)
    if x >= 2.0:
        return 0.0
    a = -0.5
    return ((a + 2.0) * x - (a + 3.0)) * x * x + 1 if x < 1.0 else (((x - 5) * x + 8) * x - 4) * a


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _hamming(x: float) -> float:
    return _sinc(x) * (0.54 + 0.46 * math.cos(math.pi * x)) if abs(x) < 1.0 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(math.pi * x) / (math.pi * x)


_FILTERS: dict[int, tuple[Callable[[float], float], float]] = {  # and how far they reach
    LANCZOS: (_lanczos, 3.0),
    BILINEAR: (_triangle, 1.0),
    BICUBIC: (_cubic, 2.0),
    BOX: (_box, 0.5),
    HAMMING: (_hamming, 1.0),
}
