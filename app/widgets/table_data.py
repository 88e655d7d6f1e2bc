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


class Order:
    """The rows of a growing table, sorted by a column; equal cells stay in their order.

    Texts are made once, and rows that came since are merged into the order that is there.
    """

    def __init__(self, column: int, descending: bool) -> None:
        self._column, self._descending = column, descending
        self._key: object = None
        self._texts: list[str] = []
        self._rows: list[int] = []

    def of(self, table: Table) -> NDArray[np.intp]:
        """Row numbers, (rows,)."""
        column = table.columns[self._column]
        if column.numeric:
            values = np.asarray(column.values[: table.rows], np.float64) * column.scale
            return np.argsort(-values if self._descending else values, kind="stable")
        if table.key != self._key or table.rows < len(self._texts):
            self._key, self._texts, self._rows = table.key, [], []
        new = range(len(self._texts), table.rows)
        self._texts += [column.cell(row).casefold() for row in new]
        self._rows += new
        self._rows.sort(key=self._texts.__getitem__, reverse=self._descending)  # all but the new ones are sorted
        return np.array(self._rows, np.intp)
