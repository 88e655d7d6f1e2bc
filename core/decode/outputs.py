"""What `generate()` returns under `return_dict_in_generate`, derived when it is asked for instead of kept.

n steps or positions, V vocabulary, L layers, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache

from core.contract.errors import ViewUnavailableError
from core.decode.kv import cache_length, copy_out
from core.decode.replay import replay
from core.trace.recording import Recording, Strand

if TYPE_CHECKING:
    from core.decode.session import Session


def step_logits(run: Session, row: int, steps: Sequence[int]) -> torch.Tensor:
    """The model's logits (n, V) float32 at some steps of a row: what `output_logits` returns."""
    recording, strand = _recording(run), _strand(run, row)
    first = len(run.rows[row].prompt.token_ids) - 1  # the position that the first token followed
    residual = _residuals(recording, strand, [run.loaded.info.layers], first + min(steps), first + max(steps) + 1)[0]
    with torch.inference_mode():
        logits = torch.cat([recording.anatomy.read_out(part) for part in torch.split(residual, 64)])
    return logits[[step - min(steps) for step in steps]]


def step_scores(run: Session, row: int, steps: Sequence[int]) -> torch.Tensor:
    """The same after the pipeline, -inf for tokens ruled out: what `output_scores` returns."""
    strand, first = _strand(run, row), len(run.rows[row].prompt.token_ids) - 1
    found = []
    with torch.inference_mode():
        for step, logits in zip(steps, step_logits(run, row, steps), strict=True):
            again = replay(run, strand, first + step, logits, {})
            if again.reason:
                raise ViewUnavailableError(again.reason)
            scores = again.start  # (1, V)
            for stage in again.stages:
                scores = stage.fn(scores)
            found.append(scores)
    return torch.cat(found)


def hidden_states(run: Session, row: int, layers: Sequence[int], start: int, stop: int) -> torch.Tensor:
    """(layers, n, E): 0 the embeddings, i what layer i - 1 returns, L the last one's after the final norm."""
    recording = _recording(run)
    most = recording.info.layers
    wrong = next((layer for layer in layers if not 0 <= layer <= most), None)
    if wrong is not None:
        raise ViewUnavailableError(f"There is no hidden state {wrong}; {recording.info.title} has 0 to {most}.")
    found = _residuals(recording, _strand(run, row), layers, start, stop)
    norm = recording.anatomy.final_norm
    with torch.inference_mode():
        normed = [norm(part) if n == most and norm is not None else part for n, part in zip(layers, found, strict=True)]
        return torch.stack(normed).float()


def row_cache(run: Session, row: int, start: int, stop: int) -> Cache:
    """A `DynamicCache` of one row's positions [start, stop), copied; a row that left the batch is fed again."""
    lane = run.rows[row]
    if not run.mode.moves_lanes and lane.fed is None and lane in run.lanes and run.cache.holds_all:
        if cache_length(run.cache) < lane.padding + stop:
            raise ViewUnavailableError("The run was closed and holds no cache any more; run it again.")
        return copy_out(run.cache, run.lanes.index(lane), lane.padding + start, lane.padding + stop)
    with torch.inference_mode():
        cache, _, strand = run.feed_again(lane.strand(), 0, stop)
    if cache.lost:
        raise ViewUnavailableError("Positions were deleted from the cache of this run; take a range before that.")
    if not cache.holds_all:
        raise ViewUnavailableError(
            f"The run kept {run.spec.cache.words()}, which is not all of its positions; run it with the growing cache."
        )
    return copy_out(cache, 0, strand.padding + start, strand.padding + stop)


def _recording(run: Session) -> Recording:
    recording = run.recording()
    recording.require("distribution")
    recording.recorded()
    return recording


def _strand(run: Session, row: int) -> Strand:
    return run.rows[row].strand()


def _residuals(
    recording: Recording, strand: Strand, layers: Sequence[int], start: int, stop: int
) -> list[torch.Tensor]:
    """The residual stream (n, E) entering each of the layers; positions without records are fed again."""
    start, stop = recording.span(strand, (start, stop))
    try:
        return [recording.residuals(layer, strand, start, stop) for layer in layers]
    except ViewUnavailableError as problem:
        if not problem.can_recompute:
            raise
    with torch.inference_mode():
        trace, twin = recording.recompute(strand, start, stop)
    slots = twin.padding + start, twin.padding + stop
    return [trace.residuals(layer, *slots, twin.path) for layer in layers]
