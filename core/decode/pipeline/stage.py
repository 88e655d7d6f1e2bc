"""A stage of the logits pipeline, and the rows it works on.

Nothing about the rows is known to a stage when it is built: rows join, leave and change places while a run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

# A transformers processor, or one of the caller's: ids (B, T) and scores (B, V) → scores (B, V).
Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """The sequences of a batch as they are at one step.

    ids: (B, T), left-padded. padding: slots of padding in front of each row; they are no tokens of the row.
    owners: the number of each row's prompt, which `prefix_allowed_tokens_fn` is told; empty: 0, 1, ….
    """

    ids: torch.Tensor
    padding: tuple[int, ...]
    owners: tuple[int, ...] = ()

    def groups(self) -> list[tuple[int, list[int]]]:
        """Rows of equal padding: (padding, their places in the batch)."""
        found: dict[int, list[int]] = {}
        for place, pad in enumerate(self.padding):
            found.setdefault(pad, []).append(place)
        return list(found.items())

    def owner(self, place: int) -> int:
        """The prompt of the row at this place."""
        return self.owners[place] if self.owners else place


StageFn = Callable[[Rows, torch.Tensor], torch.Tensor]  # scores (B, V) → scores (B, V), never in place


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    replayable: pure in (rows, parameters), so that it gives the same again for a past step.
    keeps: what it leaves, where neither its name nor its parameters tell.
    """

    name: str
    params: Mapping[str, object]
    fn: StageFn
    replayable: bool = True
    keeps: str = ""


def run_pipeline(stages: Sequence[Stage], rows: Rows, scores: torch.Tensor) -> torch.Tensor:
    """All stages in order; (B, V) float32 in and out."""
    for stage in stages:
        scores = stage.fn(rows, scores)
    return scores


def culprit(
    stages: Sequence[Stage], rows: Rows, scores: torch.Tensor, places: Sequence[int]
) -> tuple[list[Stage], float] | None:
    """Who made the largest score of one of these rows -inf (no token left), NaN or +inf, and that score.

    Where no token is left, that is all stages that ruled some out, unless the last one does so alone. Runs them again,
    as far as needed; None where it does not happen again.
    """
    raw, killers = scores, {place: list[Stage]() for place in places}
    alive = ~scores.isneginf()
    for stage in stages:
        scores = stage.fn(rows, scores)
        left = ~scores.isneginf()
        for place in places:
            if bool((alive[place] & ~left[place]).any()):
                killers[place].append(stage)
            most = float(scores[place].max())
            if most == -math.inf and float(stage.fn(rows, raw)[place].max()) > most:
                return killers[place], most
            if not math.isfinite(most):
                return [stage], most
        alive = left
    return None


def on_rows(processor: Processor) -> StageFn:
    """A stage that reads the ids: each row as `generate()` would see it alone, without padding."""

    def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        groups = rows.groups()
        if len(groups) == 1:
            return processor(rows.ids[:, groups[0][0] :], scores)
        result = torch.empty_like(scores)
        for pad, places in groups:
            result[places] = processor(rows.ids[places, pad:], scores[places])
        return result

    return fn


def on_batch(processor: Processor) -> StageFn:
    """A stage for which padding makes no difference."""
    return lambda rows, scores: processor(rows.ids, scores)
