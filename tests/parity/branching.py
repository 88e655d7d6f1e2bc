"""A fresh run that is made to say given tokens first: what a branch must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from core.contract import Prompt, RunSpec, StepSnapshot
from core.decode.extras import Extras
from core.decode.kv import cache_length
from core.decode.session import Session
from core.models.loaded import LoadedModel


class Saying:
    """A logits processor that lets the row with this prompt say these tokens first, and nothing else."""

    def __init__(self, prompt: Sequence[int], said: Sequence[int]) -> None:
        self.prompt, self.said = list(prompt), list(said)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        number = ids.shape[1] - len(self.prompt)
        if not 0 <= number < len(self.said):
            return scores
        result = scores.clone()
        for row in range(ids.shape[0]):
            if ids[row, : len(self.prompt)].tolist() == self.prompt:
                result[row] = -torch.inf
                result[row, self.said[number]] = 0.0
        return result


def fresh(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], row: int, said: Sequence[int], params: Any, **spec: Any
) -> tuple[list[StepSnapshot], Session]:
    """All steps of `row` of a run that never branched, in which that row begins with `said`."""
    session = Session(
        loaded,
        RunSpec(tuple(Prompt(ids=tuple(ids)) for ids in prompts), params, **spec),
        extras=Extras(logits_processor=(Saying(prompts[row], said),)),
    )
    return [step for step in advance(session) if step.id.row == row], session


def advance(session: Session, steps: int | None = None) -> list[StepSnapshot]:
    """So many steps, or all."""
    found: list[StepSnapshot] = []
    passes = 0
    with session.attached():
        while not session.finished and (steps is None or passes < steps):
            events = [event for event in session.advance() if isinstance(event, StepSnapshot)]
            found += events
            passes += bool(events)
    return found


def assert_same_steps(ours: Sequence[StepSnapshot], theirs: Sequence[StepSnapshot]) -> None:
    """Tokens, texts, draws and lengths are equal, probabilities to 1e-4."""
    assert [s.token_id for s in ours] == [s.token_id for s in theirs]
    assert [s.text for s in ours] == [s.text for s in theirs]
    assert [s.finish_reason for s in ours] == [s.finish_reason for s in theirs]
    assert [(s.id.index, s.id.position) for s in ours] == [(s.id.index, s.id.position) for s in theirs]
    assert [s.u for s in ours if not s.put] == [t.u for s, t in zip(ours, theirs, strict=True) if not s.put]
    for one, other in zip(ours, theirs, strict=True):
        assert np.isclose(one.logprob, other.logprob, atol=1e-4), one.id
        assert np.isclose(one.entropy_bits, other.entropy_bits, atol=1e-3)
        assert one.rank == other.rank
        if not one.put:  # there the other run was made to say it
            assert np.isclose(one.final_logprob, other.final_logprob, atol=1e-4)
        assert np.allclose(np.sort(one.top.logprob), np.sort(other.top.logprob), atol=1e-4)


def assert_same_cache(ours: Session, theirs: Session, row: int = 0) -> None:
    """Keys and values of the only row of `ours`, which may be padded, and of `row` of the other."""
    lane = next(n for n, lane in enumerate(theirs.lanes) if lane.index == row)
    skip, other = ours.rows[0].padding, theirs.lanes[lane].padding
    assert cache_length(ours.cache) - skip == cache_length(theirs.cache) - other
    for a, b in zip(ours.cache.layers, theirs.cache.layers, strict=True):
        torch.testing.assert_close(a.keys[0, :, skip:], b.keys[lane, :, other:], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(a.values[0, :, skip:], b.values[lane, :, other:], atol=1e-4, rtol=1e-3)
