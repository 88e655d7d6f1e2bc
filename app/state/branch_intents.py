"""What the user wants of branches: any moment of a run can become a new beginning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rewind:
    """Back to the moment before the token with this index was chosen (None: the one shown), and wait there."""

    index: int | None = None


@dataclass(frozen=True, slots=True)
class ForceToken:
    """This token instead of the one with this index (None: the one shown); a branch grows from there."""

    token_id: int
    index: int | None = None


@dataclass(frozen=True, slots=True)
class PutTokens:
    """These tokens after the first `position` ones of the sequence, prompt included; a branch grows from there.

    Inside the prompt they end it: what followed is left out, unless it is among them.
    """

    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EditFrom:
    """This text after the first `position` tokens of the sequence, prompt included; a branch grows from there."""

    position: int
    text: str


@dataclass(frozen=True, slots=True)
class AnotherTry:
    """The token with this index (None: the one shown) and all after it once more, with other draws."""

    index: int | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """A second sequence that goes on after the token with this index (None: the one shown), and waits there."""

    index: int | None = None


@dataclass(frozen=True, slots=True)
class ShowBranch:
    """Go back to a branch of the run."""

    branch_id: int


@dataclass(frozen=True, slots=True)
class MoveBranch:
    """Go to the branch so many lanes further down."""

    delta: int


@dataclass(frozen=True, slots=True)
class RenameBranch:
    """Call a branch so; an empty name gives it its own one back."""

    branch_id: int
    name: str


@dataclass(frozen=True, slots=True)
class DeleteBranch:
    """Remove a branch (None: the one in use); those that part from it stay."""

    branch_id: int | None = None


Parting = Rewind | ForceToken | PutTokens | EditFrom | AnotherTry | Fork
BranchIntent = Parting | ShowBranch | MoveBranch | RenameBranch | DeleteBranch
