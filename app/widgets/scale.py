"""Values of a parameter on a slider: linear or logarithmic, rounded as the parameter is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.contract import Parameter

TICKS = 1000


@dataclass(frozen=True, slots=True)
class Scale:
    """Slider positions 0..`TICKS` against values from `low` to `high`."""

    low: float
    high: float
    log: bool
    decimals: int  # 0: whole numbers

    def position(self, value: float) -> int:
        """The slider position of a value; values beyond the ends sit at the ends."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(share * TICKS)

    def value(self, position: int) -> float:
        """The value at a slider position, rounded to `decimals`."""
        share = position / TICKS
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return round(value, self.decimals) if self.decimals else float(round(value))

    @property
    def tick(self) -> int:
        """Slider positions of one press of an arrow key: at least one step of the value."""
        return 10 if self.log else max(1, math.ceil(TICKS * self.step / (self.high - self.low)))

    @property
    def step(self) -> float:
        """What an arrow key adds."""
        return 10.0**-self.decimals if self.decimals else 1.0


def scale_of(parameter: Parameter, most: float | None = None) -> Scale:
    """The slider of a numeric parameter; `most` lowers its upper end (the model's positions)."""
    low = _first(parameter.soft_minimum, parameter.minimum, 0.0)
    high = _first(parameter.soft_maximum, parameter.maximum, low + 1.0)
    if most is not None:
        high = max(low + 1.0, min(high, most))
    log = parameter.log_scale
    return Scale(max(low, 1.0) if log else low, high, log, 0 if parameter.kind == "int" else parameter.decimals)


def format_number(value: float, decimals: int) -> str:
    """At least `decimals` places, more where the value has them: `0.80`, `0.8125`, `1e-06`."""
    if decimals == 0:
        return str(int(value)) if float(value).is_integer() else repr(value)
    short = f"{value:.{decimals}f}"
    return short if float(short) == value else repr(float(value))


def _first(*values: float | None) -> float:
    return next(float(v) for v in values if v is not None)
