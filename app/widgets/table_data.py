"""A table over columns that exist already: nothing is copied, and text is made for the cells somebody looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column. `text` writes a value, which for numbers is the element times `scale`.

    numeric: right aligned and sorted by value (NaN last); otherwise sorted by what is written.
    """

    title: str
    values: Sequence[Any] | NDArray[Any]
    text: Callable[[Any], str] = str
    scale: float = 1.0
    numeric: bool = True

    def value(self, row: int) -> Any:
        """What the cell stands for, in the unit of the title."""
        found = self.values[row]
        return found * self.scale if self.numeric and self.scale != 1.0 else found

    def cell(self, row: int) -> str:
        """What the cell shows."""
        return self.text(self.value(row))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The first `rows` elements of each column. A table with the same `key` is the same one, perhaps grown.

    selected: the row that stands for the shown step; None where no row does.
    """

    columns: tuple[Column, ...]
    rows: int
    key: object
    selected: int | None = None


def order(table: Table, column: int, descending: bool) -> NDArray[np.intp]:
    """Row numbers sorted by a column, (rows,); equal cells stay in their order."""
    one = table.columns[column]
    if not one.numeric:
        texts = [one.cell(row).casefold() for row in range(table.rows)]
        return np.array(sorted(range(table.rows), key=texts.__getitem__, reverse=descending), np.intp)
    values = np.asarray(one.values[: table.rows], np.float64) * one.scale
    return np.argsort(-values if descending else values, kind="stable")
