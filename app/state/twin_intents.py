"""What the user wants of two branches side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.state.branch_state import TwinChange

TwinBegin = Literal["run", "prompt", "token"]


@dataclass(frozen=True, slots=True)
class RunTwin:
    """A twin of the branch shown, with something set otherwise.

    begin: both from the prompt in a new run; the twin alone from the end of this run's prompt; or from the token shown.
    """

    change: TwinChange
    begin: TwinBegin = "prompt"


@dataclass(frozen=True, slots=True)
class EndTwinRun:
    """The branch shown goes on alone."""


@dataclass(frozen=True, slots=True)
class CompareBranches:
    """Show two branches of the run side by side."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class CloseComparison:
    """Show the branch in use alone; both stay as they are."""


TwinIntent = RunTwin | EndTwinRun | CompareBranches | CloseComparison
