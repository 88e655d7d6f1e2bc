"""Drawing on a grid of pixels: lines between two of them, filling, all on plain arrays. No Qt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]  # (H, W)


def line(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
    """The pixels (row, column) of a straight line, both ends included."""
    steps = max(abs(last[0] - first[0]), abs(last[1] - first[1]), 1)
    rows = np.linspace(first[0], last[0], steps + 1).round().astype(int).tolist()
    columns = np.linspace(first[1], last[1], steps + 1).round().astype(int).tolist()
    return list(zip(rows, columns, strict=True))


def drawn(ids: Ids, first: tuple[int, int], last: tuple[int, int], colour: int) -> Ids:
    """With a line in a colour."""
    result = ids.copy()
    for row, column in line(first, last):
        result[row, column] = colour
    return result


def filled(ids: Ids, at: tuple[int, int], colour: int) -> Ids:
    """With the area of one colour around a pixel in another one; pixels that touch at a corner only are apart."""
    result, old = ids.copy(), int(ids[at])
    if old == colour:
        return result
    height, width = ids.shape
    waiting = [at]
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < height and 0 <= column < width and result[row, column] == old:
            result[row, column] = colour
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return result
