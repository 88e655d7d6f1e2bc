"""A twin: the branch that goes on beside another one with the same draws, on the same model or on another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from core.contract.branches import BranchStarted, StartBranch
from core.contract.errors import ParameterError, PromptError
from core.contract.twins import StartTwin
from core.decode.branch import begin_branch
from core.models.loaded import LoadedModel
from core.models.vocabulary import same_vocabulary

if TYPE_CHECKING:
    from core.decode.session import Session


def begin_twin(
    beside: Session,
    command: StartTwin,
    cancelled: Callable[[], bool] = lambda: False,
    donors: Iterable[Session] = (),
    loaded: LoadedModel | None = None,
) -> tuple[Session, BranchStarted]:
    """The twin, not advanced yet; `loaded` is the model that `command.model` names.

    Raises `PromptError` or `ParameterError`; `beside` is never changed.
    """
    if loaded is not None and not same_vocabulary(beside.loaded, loaded):
        raise ParameterError(
            f"{loaded.info.title} cannot run beside {beside.loaded.info.title}, because their vocabularies differ; "
            "choose a model of the same family."
        )
    row = next((row for row in beside.rows if row.index == command.row), None)
    prompt = 0 if row is None else len(row.prompt.token_ids)
    position = prompt if command.position is None else command.position
    if position < prompt:
        raise PromptError(f"A twin has all of the prompt, so it begins at position {prompt:,} or later.")
    parting = StartBranch(
        run_id=command.run_id,
        branch_id=command.branch_id,
        position=position,
        parent=command.beside,
        row=command.row,
        params=command.params,
        interventions=command.interventions,
    )
    twin, started = begin_branch(beside, parting, cancelled, donors, loaded, command.cache)
    other = None if twin.loaded is beside.loaded else twin.loaded.info
    return twin, dataclasses.replace(started, beside=command.beside, model=other)
