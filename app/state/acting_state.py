"""Interventions, breakpoints and watched tokens as the window keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract import Breakpoint, BreakpointHit, Intervention


@dataclass(frozen=True, slots=True)
class Act:
    """An intervention in the list. One that is off stays there without effect."""

    act_id: int
    intervention: Intervention
    on: bool = True


@dataclass(frozen=True, slots=True)
class Break:
    """A breakpoint in the list. hits, problem: in the run shown; problem: why it could not be looked at."""

    break_id: int
    breakpoint: Breakpoint
    on: bool = True
    hits: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Pin:
    """A token whose probability is watched: an id and its text, or a text whose first token it is."""

    token: int | str
    piece: str


@dataclass(frozen=True, slots=True)
class Acting:
    """What the user does to runs besides parameters.

    hits: of the breakpoint at which the run is stopped, empty while it goes on. preview: the candidates show what the
    interventions would change at the shown step. epoch: of the newest change that no step has run under yet, else None.
    """

    acts: tuple[Act, ...] = ()
    breaks: tuple[Break, ...] = ()
    pins: tuple[Pin, ...] = ()
    hits: tuple[BreakpointHit, ...] = ()
    preview: bool = False
    epoch: int | None = None
    last_id: int = 0

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Those that are on."""
        return tuple(act.intervention for act in self.acts if act.on)

    @property
    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """Those that are on."""
        return tuple(one.breakpoint for one in self.breaks if one.on)
