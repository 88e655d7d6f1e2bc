"""A growing causal map of attention weights, max-pooled to a fixed number of cells, and its pixels. numpy only."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["linear", "sqrt", "log", "signed"]  # signed: differences in [-1, 1], roots of their sizes
SCALES: tuple[Scale, ...] = ("sqrt", "linear", "log")
LOG_FLOOR = 1e-4  # the dark end of the logarithmic scale
CELLS = 512  # cells on a side that are kept; longer sequences are pooled by powers of two

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint32]


def levels(weights: Floats, scale: Scale) -> NDArray[np.int16]:
    """Weights in [0, 1] as indices of a map, 0 to 255; NaN (no weight at all) becomes 256."""
    w = np.clip(weights, -1.0 if scale == "signed" else 0.0, 1.0)
    if scale == "signed":
        w = np.asarray(0.5 + 0.5 * np.sign(w) * np.sqrt(np.abs(w)), np.float32)
    elif scale == "sqrt":
        w = np.sqrt(w)
    elif scale == "log":
        w = 1.0 - np.log10(np.maximum(w, LOG_FLOOR)) / np.log10(LOG_FLOOR)
    return np.where(np.isnan(w), 256.0, w * 255.0 + 0.5).astype(np.int16)


def packed(lut: NDArray[np.uint8], background: tuple[int, int, int]) -> Pixels:
    """A map as 0xffRRGGBB words with the colour of "no weight" behind it, (257,) uint32, for QImage RGB32."""
    rgb = np.vstack([lut, np.array([background], np.uint8)]).astype(np.uint32)
    return np.asarray(0xFF000000 | rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2], dtype=np.uint32)


def max_pool(values: Floats, factor: int, axis: int) -> Floats:
    """Maximum over blocks of `factor` cells; NaN counts as nothing, a block of NaN only stays NaN."""
    if factor == 1:
        return values
    edges = np.arange(0, values.shape[axis], factor)
    return np.asarray(np.fmax.reduceat(values, edges, axis=axis), dtype=np.float32)


def largest_pool(values: Floats, factor: int, axis: int) -> Floats:
    """Of blocks of `factor` cells the value that is largest in size, with its sign; NaN as in `max_pool`."""
    if factor == 1:
        return values
    most, least = max_pool(values, factor, axis), -max_pool(-values, factor, axis)
    return np.asarray(np.where(most >= -least, most, least), np.float32)


def pool_factor(count: int, cells: int = CELLS) -> int:
    """Positions on a side of a cell, a power of two, so that `count` of them need at most `cells`."""
    return max(1, 1 << max(0, (-(-count // cells) - 1).bit_length()))


class HeatMatrix:
    """Weights of queries (rows) over keys (columns), appended as queries come; a cell covers `factor`² of them."""

    def __init__(self, cells: int = CELLS) -> None:
        self._cells = cells
        self.clear()

    def clear(self) -> None:
        """No rows."""
        self.rows = 0  # queries that were appended
        self.factor = 1
        self._values = np.full((64, 64), np.nan, np.float32)

    @property
    def side(self) -> int:
        """Cells on a side in use."""
        return -(-self.rows // self.factor)

    @property
    def values(self) -> Floats:
        """(side, side) weights, NaN where the key comes after the query."""
        return self._values[: self.side, : self.side]

    def append(self, first: int, weights: Floats) -> int:
        """Add the rows of the queries from `first` on, (R, C) with C ≥ the last query + 1.

        Returns the first cell row that changed. Rows that are there already are skipped.
        Raises ValueError for rows that leave a gap.
        """
        if first > self.rows:
            raise ValueError(f"row {first} after {self.rows} rows")
        weights = weights[self.rows - first :]
        stop = self.rows + len(weights)
        changed = self.rows // self.factor
        if not len(weights):
            return changed
        if self._grow(stop):
            changed = 0
        columns = np.arange(stop)
        queries = np.arange(self.rows, stop)
        causal = np.where(columns <= queries[:, None], weights[:, :stop], np.float32(np.nan))
        pooled = max_pool(np.asarray(causal, np.float32), self.factor, axis=1)
        top = self.rows // self.factor
        ahead = self.rows - top * self.factor  # queries that share the first cell row with earlier ones
        edges = np.maximum(np.arange(0, len(weights) + ahead, self.factor) - ahead, 0)
        blocks = np.fmax.reduceat(pooled, edges[edges < len(weights)], axis=0)
        target = self._values[top : top + len(blocks), : blocks.shape[1]]
        np.fmax(target, blocks, out=target)
        self.rows = stop
        return changed

    def skip(self, stop: int) -> None:
        """Leave the queries before `stop` without weights, where there are none yet."""
        if stop > self.rows:
            self._grow(stop)
            self.rows = stop

    def set_cells(self, cells: Floats, rows: int, factor: int) -> None:
        """Take a map that came pooled: (R, C) cells of `factor`² positions, for `rows` queries from the first on.

        Raises ValueError when the cells are not those of `rows`.
        """
        side = -(-rows // factor)
        if cells.shape != (side, side):
            raise ValueError(f"{cells.shape} cells for {rows} rows at {factor}")
        self.rows, self.factor = rows, factor
        self._values = np.full((max(64, 1 << (side - 1).bit_length()),) * 2, np.nan, np.float32)
        causal = np.tril(np.ones((side, side), bool))
        self._values[:side, :side] = np.where(causal, cells, np.float32(np.nan))

    def append_cells(self, cells: Floats, stop: int, factor: int) -> int:
        """Add rows that came pooled, (R, C) cells of `factor`² positions, for the queries up to `stop`.

        Returns the first cell row that changed. Raises ValueError when the cells are not those of whole new cell rows.
        """
        if not self.rows:
            self.set_cells(cells, stop, factor)
            return 0
        top, side = self.rows // factor, -(-stop // factor)
        if self.rows % factor or factor < self.factor or cells.shape != (side - top, side):
            raise ValueError(f"{cells.shape} cells up to row {stop} at {factor}, after {self.rows} at {self.factor}")
        changed = top if factor == self.factor else 0
        while self.factor < factor:
            self._coarsen()
        self._widen(side)
        causal = np.arange(side) <= np.arange(top, side)[:, None]
        self._values[top:side, :side] = np.where(causal, cells, np.float32(np.nan))
        self.rows = stop
        return changed

    def _grow(self, rows: int) -> bool:
        """Make room; True if the cells were pooled further."""
        pooled = False
        while rows > self._cells * self.factor:
            self._coarsen()
            pooled = True
        self._widen(-(-rows // self.factor))
        return pooled

    def _coarsen(self) -> None:
        """Join four cells into one."""
        side = self.side
        coarser = max_pool(max_pool(self._values[:side, :side], 2, axis=0), 2, axis=1)
        self._values = np.full_like(self._values, np.nan)
        self._values[: len(coarser), : len(coarser)] = coarser
        self.factor *= 2

    def _widen(self, side: int) -> None:
        """Make room for so many cells on a side."""
        while side > len(self._values):
            wider = np.full((2 * len(self._values),) * 2, np.nan, np.float32)
            wider[: len(self._values), : len(self._values)] = self._values
            self._values = wider

    def at(self, query: int, key: int) -> float:
        """The weight of the cell of a query and a key; NaN where there is none."""
        return float(self._values[query // self.factor, key // self.factor])


class HeatPixels:
    """The pixels of a matrix, pooled once more where cells would be smaller than a pixel; recoloured row by row."""

    def __init__(self) -> None:
        self.buffer = np.zeros((64, 64), np.uint32)
        self.pool = 1

    def update(self, values: Floats, first: int, lut: Pixels, scale: Scale, most: int) -> int:
        """Colour the rows from `first` on; the picture is the upper left n × n of `buffer`, n ≤ `most` is returned."""
        side = len(values)
        pool = max(1, -(-side // max(1, most)))
        if pool != self.pool:
            self.pool, first = pool, 0
        count = -(-side // pool)
        if count > len(self.buffer):
            self.buffer = np.zeros((2 * count, 2 * count), np.uint32)
            first = 0
        top = first // pool
        joined = largest_pool if scale == "signed" else max_pool
        part = joined(joined(values[top * pool :], pool, axis=0), pool, axis=1)
        # Columns that came with the new rows lie after every earlier query: background.
        self.buffer[:top, :count] = np.where(
            np.arange(count) > np.arange(top)[:, None], lut[256], self.buffer[:top, :count]
        )
        self.buffer[top:count, :count] = lut[levels(part, scale)]
        return count
