"""Where the cells and labels of a square token × token map go. Pure arithmetic, in logical pixels."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_CELL_PX = 22.0
LABEL_CELL_PX = 12.0  # cells this high have room for a token beside each row
LABEL_LEFT_PX, LABEL_TOP_PX = 64, 60
TICK_LEFT_PX, TICK_DIGIT_PX, TICK_TOP_PX = 12, 7, 18  # the left one grows with the digits of the positions
END_PX = 10  # room for the dot of the newest row
FEW_CELLS = 40  # up to here cells have whole pixels where those fill `FILL_SHARE` of the room
FILL_SHARE = 0.88


@dataclass(frozen=True, slots=True)
class HeatGeometry:
    """left, top: the corner of the first cell. cell_px: side of a cell. labelled: tokens (else positions) on the axes.

    A cell stands for `factor` positions.
    """

    left: int
    top: int
    cell_px: float
    labelled: bool
    factor: int = 1

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) of a point; may lie outside of the map."""
        return int((y - self.top) // self.cell_px), int((x - self.left) // self.cell_px)

    def px(self, position: int) -> float:
        """Offset of a position from the first cell."""
        return position / self.factor * self.cell_px


def fit(width: int, height: int, cells: int, factor: int = 1) -> HeatGeometry:
    """The largest layout. Few cells have whole pixels, so that the map grows calmly; many always fill the square."""
    cells = max(1, cells)
    room = min(width - LABEL_LEFT_PX - END_PX, height - LABEL_TOP_PX)
    cell = min(LARGEST_CELL_PX, room // cells)
    if cell >= LABEL_CELL_PX and factor == 1:
        return HeatGeometry(LABEL_LEFT_PX, LABEL_TOP_PX, cell, True)
    left = TICK_LEFT_PX + TICK_DIGIT_PX * max(2, len(str(cells * factor - 1)))
    room = max(16, min(width - left - END_PX, height - TICK_TOP_PX - 3))
    whole = room // cells
    calm = cells <= FEW_CELLS and whole * cells >= FILL_SHARE * room
    return HeatGeometry(left, TICK_TOP_PX, float(whole) if calm else room / cells, False, factor)


def extent(cells: int) -> int:
    """`cells` rounded up to one of eight sizes an octave, so that a growing map is not rescaled at every token."""
    step = max(4, 1 << max(0, (max(2, cells) - 1).bit_length() - 4))
    return -(-cells // step) * step


def tick_step(px_per_position: float, least_px: float) -> int:
    """Distance of position ticks, 1, 2 or 5 times a power of ten, at least `least_px` apart."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor * px_per_position >= least_px:
                return step * factor
        step *= 10
