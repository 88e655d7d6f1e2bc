"""Branches: a run is a tree, in which any moment can become a new beginning. Branch 0 is the run itself.

A branch is the sequence of its parent up to a position, and what was said instead from there on. What both have in
common is held once: the records as segments, the cache copy on write. A branch is always a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.contract.breakpoints import Breakpoint
from core.contract.interventions import Intervention

if TYPE_CHECKING:
    from core.contract.events import ModelInfo, RunStarted


@dataclass(frozen=True, slots=True)
class StartBranch:
    """Begin a new branch and go on with it; the branch before stays as it is, paused where it was running.

    branch_id: of the new branch, greater than 0 and not in use. parent: the branch it parts from; row: of the batch.
    position: tokens of the parent's sequence, prompt included, that it keeps. Inside the prompt, what is kept and put
        there becomes the prompt of the branch; after it, it counts as generated.
    token_ids, text: what is said there first, either as ids or as text. Neither: the mode chooses (a rewind).
    reroll: other draws from there on; None for those of the parent, so that a rewind says the same again.
    params: values other than the parent's, in force from there on.
    interventions, breakpoints: in force from there on; None for those of the parent. Positions to mute name the row it
        parts from. What the parent has deleted from its cache before that stays deleted; what it deleted later is
        there.
    max_steps: pause after so many steps beyond what was put there; 0 pauses before the first choice.
    """

    run_id: int
    branch_id: int
    position: int
    parent: int = 0
    row: int = 0
    token_ids: tuple[int, ...] = ()
    text: str | None = None
    reroll: int | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    max_steps: int | None = None
    interventions: tuple[Intervention, ...] | None = None
    breakpoints: tuple[Breakpoint, ...] | None = None


@dataclass(frozen=True, slots=True)
class SwitchBranch:
    """Go back to a branch, of this run or of one before it. One that had not ended is paused then.

    Whatever of its cache was given up is fed again, and the branch in use until now stays as it is, paused.
    """

    run_id: int
    branch_id: int


@dataclass(frozen=True, slots=True)
class DropBranch:
    """Give a branch's memory back, which is not the one in use. Its tokens are kept: it can still be switched to."""

    run_id: int
    branch_id: int


@dataclass(frozen=True, slots=True)
class BranchStarted:
    """The new branch is in use, unless it is a twin. Its own steps follow, those of what was put there first.

    parent, row, position: where it parts, as in `StartBranch`. kept_tokens: of the parent's generated ones; its own
    steps have indices from there on. put: token ids said first.
    started: the branch as a run: its prompt, parameters and plan. padding: slots in front of its row.
    reused_positions: those whose keys and values were taken over; recomputed_positions: of what it keeps, those that
    have to be fed again.
    beside: of a twin, the branch that stays in use and with which it goes on. model: that it runs on, where that is
    another one than the parent's.
    """

    run_id: int
    branch_id: int
    parent: int
    row: int
    position: int
    kept_tokens: int
    put: tuple[int, ...]
    started: RunStarted
    padding: int
    reused_positions: int
    recomputed_positions: int
    beside: int | None = None
    model: ModelInfo | None = None


@dataclass(frozen=True, slots=True)
class BranchSwitched:
    """This branch is in use again; of its positions so many were still held, and so many have to be fed again.

    given_up: it has nothing but its tokens and is not fed again by itself; views of it offer to recompute.
    """

    run_id: int
    branch_id: int
    reused_positions: int
    recomputed_positions: int
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class BranchMemory:
    """What a branch holds. A storage that several share counts for the oldest of them, so that the sum is true.

    cached: whether its keys and values are there; else they are fed again when it is switched to.
    """

    branch_id: int
    positions: int
    cache_bytes: int
    record_bytes: int
    cached: bool


@dataclass(frozen=True, slots=True)
class BranchesHeld:
    """The memory of all branches of a run, whenever it changed for another reason than a step. Latest-wins lane."""

    run_id: int
    branches: tuple[BranchMemory, ...]
