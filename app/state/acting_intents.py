"""What the user wants to do to runs besides parameters: interventions, breakpoints, watched tokens."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract import Breakpoint, Intervention
from core.contract.interventions import Part as Part


@dataclass(frozen=True, slots=True)
class AddIntervention:
    """Intervene from the next token on, and in later runs."""

    intervention: Intervention


@dataclass(frozen=True, slots=True)
class ChangeIntervention:
    """Another intervention in the place of one, such as another factor."""

    act_id: int
    intervention: Intervention


@dataclass(frozen=True, slots=True)
class SwitchIntervention:
    """On or off; it stays in the list."""

    act_id: int
    on: bool


@dataclass(frozen=True, slots=True)
class RemoveIntervention:
    """Out of the list; None removes all of them."""

    act_id: int | None


@dataclass(frozen=True, slots=True)
class MuteHead:
    """Mute a head, or let it speak again."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class UnmuteHeads:
    """Every muted head speaks again."""


@dataclass(frozen=True, slots=True)
class SkipLayer:
    """Skip a layer's attention or MLP, or no more."""

    layer: int
    part: Part


@dataclass(frozen=True, slots=True)
class MutePosition:
    """Hide a position of a row from later queries, or show it again."""

    row: int
    position: int


@dataclass(frozen=True, slots=True)
class DeletePosition:
    """Drop a position of a row of the run in progress from the cache. It cannot be taken back."""

    row: int
    position: int


@dataclass(frozen=True, slots=True)
class SetMuted:
    """Hide exactly these positions of a row."""

    row: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShowPreview:
    """Show at the candidates what the interventions would change at the shown step."""

    on: bool


@dataclass(frozen=True, slots=True)
class AddBreakpoint:
    """Stop at this from the next token on, and in later runs."""

    breakpoint: Breakpoint
    on: bool = True


@dataclass(frozen=True, slots=True)
class SwitchBreakpoint:
    """On or off; it stays in the list."""

    break_id: int
    on: bool


@dataclass(frozen=True, slots=True)
class RemoveBreakpoint:
    """Out of the list; None removes all of them."""

    break_id: int | None


@dataclass(frozen=True, slots=True)
class PinToken:
    """Watch the probability of a token: an id and its text, or a text whose first token it is."""

    token: int | str
    piece: str


@dataclass(frozen=True, slots=True)
class UnpinToken:
    """Watch it no more."""

    token: int | str


ActingIntent = (
    AddIntervention
    | ChangeIntervention
    | SwitchIntervention
    | RemoveIntervention
    | MuteHead
    | UnmuteHeads
    | SkipLayer
    | MutePosition
    | DeletePosition
    | SetMuted
    | ShowPreview
    | AddBreakpoint
    | SwitchBreakpoint
    | RemoveBreakpoint
    | PinToken
    | UnpinToken
)
