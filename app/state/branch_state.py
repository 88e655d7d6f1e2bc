"""The tree of branches as the window keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from app.state.acting_state import Act
from app.state.run import RunView
from core.contract import BranchMemory, GenerationParams, Intervention, StartBranch

Key = tuple[int, int]  # run, branch
Kind = Literal["run", "rewind", "force", "edit", "try", "fork"]


@dataclass(frozen=True, slots=True)
class BranchNode:
    """A branch of a run.

    parent: the branch it parts from, None for the run itself. position: tokens they have in common, prompt included.
    run: what it said, as far as it was known when it was left. asked: the parameters it had been told by then.
    acts: the list of interventions then; acts_epoch: of a change of it that was not in force yet; acts_back: what is in
    force again when it goes on, because the change was made for the branch that parted.
    """

    parent: int | None
    position: int
    kind: Kind
    run: RunView
    asked: GenerationParams | None = None
    acts: tuple[Act, ...] | None = None
    acts_epoch: int | None = None
    acts_back: tuple[Intervention, ...] | None = None


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """The branch that was asked for last, until `BranchStarted` confirms it or `CommandRefused` ends it.

    acts_back: see `BranchNode`, of the one it parts from.
    """

    command: StartBranch
    kind: Kind
    acts_back: tuple[Intervention, ...] | None = None


@dataclass(frozen=True, slots=True)
class BranchState:
    """All branches of the newest runs; the one in use is `AppState.run`.

    deleted: those not shown any more, which can be brought back. reuse: positions re-used and computed again when the
    branch in use was begun or taken up.
    """

    nodes: Mapping[Key, BranchNode] = field(default_factory=lambda: MappingProxyType({}))
    deleted: frozenset[Key] = frozenset()
    names: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    memory: Mapping[Key, BranchMemory] = field(default_factory=lambda: MappingProxyType({}))
    requested: BranchRequest | None = None
    last_id: int = 0
    reuse: tuple[int, int] | None = None
