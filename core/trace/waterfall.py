"""What each stage of the pipeline did, or would have done under other parameters, at any past step.

The logits come from the recorded residual by the model's own read-out; nothing is fed again. The stages are those
that run in the loop, called one by one.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from core.contract.views import StageReport, WaterfallAnswer, WaterfallQuery
from core.contract.wording import in_words
from core.trace.recording import Recording
from core.trace.replay import Replay, ReplayStage

_LN2 = math.log(2.0)


def derive_waterfall(recording: Recording, query: WaterfallQuery) -> Generator[None, None, WaterfallAnswer]:
    """Stage by stage. Raises `ViewUnavailableError`, or `ParameterError` for changes that are none."""
    replay = _replay(recording, query)
    yield
    scores, reports, reason = replay.start, [], replay.reason
    before = _Shares.of(scores)
    raw = before
    for number, stage in enumerate(replay.stages):
        scores = stage.fn(scores)
        after = _Shares.of(scores)
        reports.append(_report(recording, query, stage, before, after))
        before = after
        repaired = any(later.name == "remove_invalid_values" for later in replay.stages[number + 1 :])
        if not after.usable and not repaired:
            killers = [one.name for one in reports if one.killed]
            if after.survivors or len(killers) < 2:
                what = "makes scores that are not finite" if after.survivors else "leaves no token"
                reason = f"The stage {stage.name} {what}."
            else:
                reason = f"The stages {in_words(killers)} together leave no token."
            break
        yield
    complete = not reason
    token_id, u, why = replay.choose(scores[0]) if complete else (None, None, reason)
    ids = torch.topk(raw.logprobs, min(query.top, raw.logprobs.shape[0])).indices
    if complete:  # the likeliest at the end too, wherever they were before
        ids = torch.unique(torch.cat([ids, torch.topk(before.logprobs, ids.shape[0]).indices]))
        ids = ids[torch.argsort(raw.logprobs[ids], descending=True, stable=True)]
    return WaterfallAnswer(
        query=query,
        params=replay.params,
        mode=replay.mode,
        stages=tuple(reports),
        entropy_bits=raw.entropy_bits,
        final_entropy_bits=before.entropy_bits,
        survivors=before.survivors,
        token_ids=_numpy(ids),
        pieces=tuple(recording.piece(i) for i in ids.tolist()),
        logprob=_numpy(raw.logprobs[ids]),
        final_logprob=_numpy(before.logprobs[ids]),
        token_id=token_id,
        piece="" if token_id is None else recording.piece(token_id),
        u=u,
        replayable=not replay.reason,
        reason=why,
    )


def _replay(recording: Recording, query: WaterfallQuery) -> Replay:
    """The only access to the trace."""
    recording.require("distribution")
    strand = recording.strand(query)
    start, stop = recording.span(strand, (query.position, query.position + 1))

    def read_out() -> torch.Tensor:
        # (1, 1, E), as the model has it: a product of another shape may round differently.
        residual = recording.residuals(recording.info.layers, strand, start, stop)[None]
        return recording.anatomy.read_out(residual)[0, -1]

    key = (strand.row, strand.padding, strand.token_ids[: start + 1])
    logits = recording.read_out.get(key, read_out)  # (V,)
    return recording.replay(strand, start, logits, query.changes)


@dataclass(frozen=True)
class _Shares:
    """Scores as probabilities."""

    logprobs: torch.Tensor  # (V,)
    alive: torch.Tensor  # (V,) bool
    survivors: int
    entropy_bits: float
    usable: bool

    @staticmethod
    def of(scores: torch.Tensor) -> _Shares:
        alive = ~scores[0].isneginf()
        usable = math.isfinite(float(scores.max()))
        logprobs = torch.log_softmax(scores[0], dim=-1) if usable else torch.full_like(scores[0], -math.inf)
        # Tokens ruled out have -inf; bounded, they add 0 · -1e4 = 0.
        entropy = float(torch.dot(logprobs.exp(), logprobs.clamp(min=-1e4))) / -_LN2
        return _Shares(logprobs, alive, int(torch.count_nonzero(alive)), max(0.0, entropy), usable)


def _report(
    recording: Recording, query: WaterfallQuery, stage: ReplayStage, before: _Shares, after: _Shares
) -> StageReport:
    killed = before.alive & ~after.alive
    count = int(torch.count_nonzero(killed))
    ids = torch.topk(before.logprobs.masked_fill(~killed, -math.inf), min(query.top, count)).indices
    return StageReport(
        name=stage.name,
        params=dict(stage.params),
        killed=count,
        survivors=after.survivors,
        mass_kept=min(1.0, float(before.logprobs[after.alive].exp().sum())) if count else 1.0,
        entropy_before_bits=before.entropy_bits,
        entropy_after_bits=after.entropy_bits,
        killed_ids=_numpy(ids),
        killed_pieces=tuple(recording.piece(i) for i in ids.tolist()),
        killed_probability=_numpy(before.logprobs[ids].exp()),
    )


def _numpy(values: torch.Tensor) -> np.ndarray:
    array = values.cpu().numpy()
    array.flags.writeable = False
    return array
