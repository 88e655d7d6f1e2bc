"""The pipeline on a past step again: under the parameters that were in force, or under others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from core.contract.errors import ViewUnavailableError
from core.contract.params import GenerationParams
from core.decode.modes import Past
from core.decode.pipeline import Rows, Stage, run_pipeline
from core.decode.random import inverse_cdf, uniform
from core.trace.recording import Strand
from core.trace.replay import Replay, ReplayStage

if TYPE_CHECKING:
    from core.decode.session import Session

_NOT_ALONE = {
    "beam_search": "beams are chosen together",
    "beam_sample": "beams are drawn together",
    "group_beam_search": "beams are chosen together",
    "constrained_beam_search": "beams are chosen together",
    "contrastive_search": "candidates are compared with everything said before",
    "assisted_generation": "a drafted token decides with another number",
}


def final_scores(run: Session, strand: Strand, position: int, logits: torch.Tensor) -> torch.Tensor:
    """The pipeline under the parameters in force then on the logits (V,) that followed `position`."""
    stages = run.past_stages(params_at(run, strand, position), Past(strand, position))
    stateful = _first_stateful(stages)
    if stateful is not None:
        raise ViewUnavailableError(_cannot(stateful))
    return run_pipeline(stages, _rows(run, strand, position, logits), _start(run, logits))[0]


def replay(run: Session, strand: Strand, position: int, logits: torch.Tensor, changes: Mapping[str, object]) -> Replay:
    """The stages of the step that followed `position` with logits (V,), parameters changed. Raises `ParameterError`."""
    params = params_at(run, strand, position)
    if changes:
        params = params.replace(changes)
    mode, reason = params.infer_mode(run.assistant is not None), ""
    try:
        stages = run.past_stages(params, Past(strand, position))
    except ViewUnavailableError as problem:
        stages, reason = (), problem.message
    stateful = _first_stateful(stages)
    if stateful is not None:
        stages, reason = stages[: stages.index(stateful)], _cannot(stateful)
    rows = _rows(run, strand, position, logits)
    return Replay(
        params=params,
        mode=mode,
        start=_start(run, logits),
        stages=tuple(ReplayStage(stage.name, stage.params, partial(stage.fn, rows)) for stage in stages),
        choose=_chooser(run, strand, position, params, mode),
        reason=reason,
    )


def params_at(run: Session, strand: Strand, position: int) -> GenerationParams:
    """The parameters in force when the token after `position` was chosen; for the prompt, those of the first token."""
    step = _step(run, strand, position)
    return next(params for since, params in reversed(run.params_since) if since <= step)


def _reroll_at(run: Session, strand: Strand, position: int) -> int:
    """Which of its draws the token after `position` was chosen by: a branch keeps those of what it has in common."""
    step = _step(run, strand, position)
    return next(reroll for since, reroll in reversed(run.rerolls_since) if since <= step)


def _step(run: Session, strand: Strand, position: int) -> int:
    """The index of the token after `position`, 0 within the prompt."""
    return max(0, position + 1 - (run.prompt_slots - strand.padding))


def _rows(run: Session, strand: Strand, position: int, logits: torch.Tensor) -> Rows:
    ids = torch.tensor([[0] * strand.padding + list(strand.token_ids[: position + 1])], device=logits.device)
    padding = 0 if run.unseen else strand.padding
    return Rows(ids[:, run.unseen :], (padding,), (run.first_row + strand.row,))


def _start(run: Session, logits: torch.Tensor) -> torch.Tensor:
    return (torch.log_softmax(logits, dim=-1) if run.mode.on_logprobs else logits)[None]  # (1, V)


def _first_stateful(stages: tuple[Stage, ...]) -> Stage | None:
    return next((stage for stage in stages if not stage.replayable), None)


def _cannot(stage: Stage) -> str:
    return f"The stage {stage.name} may depend on more than the tokens, so it cannot be run again for a past step."


def _chooser(
    run: Session, strand: Strand, position: int, params: GenerationParams, mode: str
) -> Callable[[torch.Tensor], tuple[int | None, float | None, str]]:
    """Final scores (V,) → the token, the draw, and why there is none."""

    def choose(scores: torch.Tensor) -> tuple[int | None, float | None, str]:
        if not params.samples and mode in ("greedy_search", "assisted_generation", "dola_generation"):
            return int(scores.argmax()), None, ""
        if mode in _NOT_ALONE:
            return None, None, f"In {mode} {_NOT_ALONE[mode]}, so one step does not tell the token."
        if run.spec.draw_source == "torch":
            return None, None, "torch's generator does not tell its draws."
        reroll = _reroll_at(run, strand, position)
        u = uniform(run.spec.seed, run.first_row + strand.row, position + 1, reroll=reroll)
        return inverse_cdf(scores, u), u, ""

    return choose
