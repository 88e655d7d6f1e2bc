"""Which row of the batch a sequence's records are in, slot by slot.

Rows leave a batch, beams change places, candidates are tried side by side: nothing recorded is moved for that.
A sequence keeps a path instead, a chain of immutable links, so that two beams share the path of their common past.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """From slot `start` on, the records are in `batch_row`; before that, where `before` says."""

    start: int
    batch_row: int
    before: Path | None = None

    def moved(self, start: int, batch_row: int) -> Path:
        """The path of a sequence whose records are in another row from slot `start` on."""
        if batch_row == self.batch_row and start >= self.start:
            return self
        return Path(start, batch_row, self.before if start <= self.start else self)

    def rows(self, start: int, stop: int) -> list[int]:
        """The batch row of each slot in [start, stop)."""
        rows: list[int] = []
        link: Path | None = self
        end = stop
        while link is not None and end > start:
            begin = max(start, link.start)
            if begin < end:
                rows += [link.batch_row] * (end - begin)
                end = begin
            link = link.before
        rows.reverse()
        return rows

    def parts_from(self, other: Path, stop: int) -> int:
        """The first slot before `stop` where the two read from different rows; `stop` if there is none."""
        parting, end = stop, stop
        a: Path | None = self
        b: Path | None = other
        while a is not b and a is not None and b is not None:
            begin = max(a.start, b.start)
            if a.batch_row != b.batch_row and begin < end:
                parting = begin
            end = min(end, begin)
            a, b = (a.before if a.start == begin else a), (b.before if b.start == begin else b)
        return parting
