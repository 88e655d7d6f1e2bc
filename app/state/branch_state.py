"""The tree of branches as the window keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from app.state.acting_state import Act
from app.state.run import RunView
from core.contract import BranchMemory, CacheSpec, GenerationParams, Intervention, ModelSpec, StartBranch, StartTwin

Key = tuple[int, int]  # run, branch
Kind = Literal["run", "rewind", "force", "edit", "try", "fork", "twin"]
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TwinChange:
    """What a twin has otherwise: parameters, model or precision, exactly these interventions, or a kind of cache."""

    params: Mapping[str, object] = field(default_factory=lambda: EMPTY)
    model: ModelSpec | None = None
    interventions: tuple[Intervention, ...] | None = None
    cache: CacheSpec | None = None


@dataclass(frozen=True, slots=True)
class BranchNode:
    """A branch of a run.

    parent: the branch it parts from, None for the run itself. position: tokens they have in common, prompt included.
    run: what it said, as far as it was known when it was left. asked: the parameters it had been told by then.
    acts: the list of interventions then; acts_epoch: of a change of it that was not in force yet; acts_back: what is in
    force again when it goes on, because the change was made for the branch that parted.
    change: of a twin. own: the values of the parameters in which it differs from the one it goes on with; own_acts: its
    list of interventions, where it differs in them.
    """

    parent: int | None
    position: int
    kind: Kind
    run: RunView
    asked: GenerationParams | None = None
    change: TwinChange | None = None
    own: Mapping[str, object] = field(default_factory=lambda: EMPTY)
    own_acts: tuple[Act, ...] | None = None
    acts: tuple[Act, ...] | None = None
    acts_epoch: int | None = None
    acts_back: tuple[Intervention, ...] | None = None


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """The branch that was asked for last, until `BranchStarted` confirms it or `CommandRefused` ends it.

    acts_back: see `BranchNode`, of the one it parts from.
    """

    command: StartBranch | StartTwin
    kind: Kind
    change: TwinChange | None = None
    acts_back: tuple[Intervention, ...] | None = None


@dataclass(frozen=True, slots=True)
class BranchState:
    """All branches of the newest runs; the one in use is `AppState.run`.

    deleted: those not shown any more, which can be brought back. reuse: positions re-used and computed again when the
    branch in use was begun or taken up. pairs: each of two that go on in lockstep → the other one. compared: the two
    that are shown side by side. gone: deleted ones that cannot come back.
    """

    nodes: Mapping[Key, BranchNode] = field(default_factory=lambda: MappingProxyType({}))
    deleted: frozenset[Key] = frozenset()
    names: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    memory: Mapping[Key, BranchMemory] = field(default_factory=lambda: MappingProxyType({}))
    requested: BranchRequest | None = None
    last_id: int = 0
    reuse: tuple[int, int] | None = None
    pairs: Mapping[Key, Key] = field(default_factory=lambda: MappingProxyType({}))
    compared: tuple[Key, Key] | None = None
    gone: frozenset[Key] = frozenset()
