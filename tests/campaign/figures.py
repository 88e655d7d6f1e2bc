"""What the campaigns measured, told as one table at the end of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One measured number beside its bound (None: there is none)."""

    campaign: str
    what: str
    measured: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the bound holds."""
        if self.bound is None:
            return True
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def line(self) -> str:
        """A row of a markdown table."""
        bound = "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"
        return f"| {self.campaign} | {self.what} | {self.measured:.4g} {self.unit} | {bound} |"


FIGURES: list[Figure] = []


def note(campaign: str, what: str, measured: float, unit: str, bound: float | None = None, **kind: bool) -> Figure:
    """Put a number into the table."""
    figure = Figure(campaign, what, float(measured), unit, bound, **kind)
    FIGURES.append(figure)
    return figure


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(values, 99))


def table() -> list[str]:
    """The whole table as markdown."""
    return ["| campaign | figure | measured | bound |", "|---|---|---|---|", *(f.line() for f in FIGURES)]
