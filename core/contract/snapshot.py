"""What one decode step reports: plain, read-only numpy and Python values, a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract.cache import CacheReport
from core.contract.detail import GuidanceDetail, StepDetail, detail_as_json

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepId:
    """Where a step belongs. `index` 0 is the first generated token; `position` counts from the row's first token."""

    model_id: int
    run_id: int
    branch_id: int
    row: int
    beam: int
    index: int
    position: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """The top-K tokens of one step, by raw probability, the chosen one always among them (so K or K + 1 entries).

    Natural logarithms; `final_logprob` is -inf for a token that a stage killed, and `killed_by` then is the
    index of that stage in `stages` (-1: alive).
    """

    token_ids: IntArray  # (K,)
    pieces: tuple[str, ...]
    logprob: FloatArray  # (K,)
    final_logprob: FloatArray  # (K,)
    killed_by: NDArray[np.int8]  # (K,)
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Milliseconds of real work: model forward, pipeline and choice, probes (recording and candidates)."""

    forward_ms: float
    pipeline_ms: float
    probes_ms: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """One generated token and everything that is known at the moment it was chosen.

    piece: the token as shown (spaces kept; bytes of an unfinished character as `\\xNN`).
    text: the text that became complete with this token, empty inside an unfinished UTF-8 character.
    logprob, final_logprob: natural logarithms before and after the pipeline.
    rank: of the chosen token before the pipeline, 0 = likeliest.
    u: the draw in [0, 1); None where nothing was drawn from the counter source.
    cache: of the sequences themselves. second_cache: of a second stream beside them (the negative prompt of
        classifier-free guidance, or the draft model), not contained in `cache`.
    trace_bytes: what the traces hold in addition to the caches.
    allowed_tokens: how many the grammar allowed, EOS tokens included; None without one.
    finish_reason: set on the last token of its row (`stop`, `length`, `length_limit`, …).
    detail: what the mode adds: beams, candidates tried, drafts. guidance: what guidance adds to any mode.
    pixel, rgb: row, column and colour, where tokens are pixels.
    put: the token was not chosen but put there, as the beginning of a branch.
    """

    id: StepId
    token_id: int
    piece: str
    text: str
    token_bytes: bytes
    logprob: float
    final_logprob: float
    entropy_bits: float
    final_entropy_bits: float
    rank: int
    top: Candidates
    u: float | None
    timing: StepTiming
    cache: CacheReport
    trace_bytes: int
    finish_reason: str | None = None
    allowed_tokens: int | None = None
    detail: StepDetail | None = None
    guidance: GuidanceDetail | None = None
    second_cache: CacheReport | None = None
    pixel: tuple[int, int] | None = None
    rgb: tuple[int, int, int] | None = None
    put: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object `tokenglass generate --json` prints for this token, with what the mode adds."""
        top = self.top
        more: dict[str, Any] = {}
        if self.detail is not None:
            more["detail"] = detail_as_json(self.detail)
        if self.guidance is not None:
            more["guidance"] = detail_as_json(self.guidance)
        if self.second_cache is not None:
            more["second_kv_used_bytes"] = self.second_cache.layer_used_bytes
            more["second_kv_allocated_bytes"] = self.second_cache.layer_allocated_bytes
        if self.pixel is not None:
            more |= {"pixel": list(self.pixel), "rgb": None if self.rgb is None else list(self.rgb)}
        if self.put:
            more["put"] = True
        finals = [None if np.isneginf(f) else float(f) for f in top.final_logprob]
        return {
            "row": self.id.row,
            "beam": self.id.beam,
            "index": self.id.index,
            "token_id": self.token_id,
            "token": self.piece,
            "bytes": list(self.token_bytes),
            "logprob": self.logprob,
            "final_logprob": self.final_logprob,
            "entropy_bits": self.entropy_bits,
            "final_entropy_bits": self.final_entropy_bits,
            "rank": self.rank,
            "top_logprobs": [
                {"token_id": int(i), "token": piece, "logprob": float(raw), "final_logprob": final}
                for i, piece, raw, final in zip(top.token_ids, top.pieces, top.logprob, finals, strict=True)
            ],
            "u": self.u,
            "kv_used_bytes": self.cache.layer_used_bytes,
            "kv_allocated_bytes": self.cache.layer_allocated_bytes,
            "step_ms": self.timing.step_ms,
            **({} if self.allowed_tokens is None else {"allowed_tokens": self.allowed_tokens}),
            **more,
        }
