"""What a decoding mode is: how positions are fed, how the next token is chosen, what becomes of the lanes.

The loop (`engine.decode_step`) calls these in turn. The defaults are those of one token a step and lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from core.contract.detail import Hypothesis, StepDetail
from core.contract.events import FinishReason
from core.contract.params import GenerationParams
from core.decode.kv import RunCache, cache_length
from core.decode.pipeline import Stage
from core.decode.rows import Row
from core.trace.recording import Strand

MOST_PUT = 16  # tokens fed at once where they are not chosen; the logits of all of them are looked at

if TYPE_CHECKING:
    from core.decode.observe import Processed
    from core.decode.session import Session


@dataclass(frozen=True)
class Ended:
    """A sequence that a step completed and that is no lane: its last token is in it already.

    parent: the lane it continues. text: what the last token completed. draw, detail: of that token, as in `Choice`.
    """

    row: Row
    parent: int
    text: str
    draw: float | None = None
    detail: StepDetail | None = None


@dataclass(frozen=True)
class Past:
    """A step of the past: the scores that followed `position` of a sequence."""

    strand: Strand
    position: int


@dataclass(frozen=True)
class Choice:
    """One token a lane.

    parents: the lane that each new lane continues; None: its own, every lane goes on. lanes: the sequences of the new
    lanes, their past already in them; None: forks of the parents.
    draws: the number in [0, 1) that chose a token, where one did.
    ended: sequences that are complete and not among the lanes. hypotheses: everything that this step completed.
    over: no later position that was fed may be decided (a drafted token was refused).
    processed: the scores as they were chosen from, where the mode changed them.
    """

    token_ids: Sequence[int]
    draws: Sequence[float | None]
    parents: Sequence[int] | None = None
    lanes: list[Row] | None = None
    details: Sequence[StepDetail | None] | None = None
    ended: Sequence[Ended] = ()
    hypotheses: Sequence[Hypothesis] = ()
    over: bool = False
    processed: Processed | None = None


class Mode:
    """A way to decode. A session has one; it may keep state of its own.

    name: of the `GenerationMode`. fixed: parameters that cannot change while it runs.
    on_logprobs: the pipeline works on log-probabilities instead of logits, as beam search does in transformers.
    one_row: it takes one prompt only.
    moves_lanes: lanes change places or are tried side by side, so the trace keeps keys and past lanes.
    has_beams: its lanes are hypotheses that are chosen together.
    feeds_ahead: a chosen token is fed in the step that chose it, before lanes that ended leave.
    judges_ends: it asks the caller's stopping criteria itself, before it chooses.
    copies: it draws for each lane on its own, so `num_return_sequences` means as many lanes a prompt.
    """

    name = ""
    fixed: frozenset[str] = frozenset({"num_return_sequences"})
    on_logprobs = False
    moves_lanes = False
    has_beams = False
    feeds_ahead = False
    judges_ends = False
    one_row = False
    copies = False

    def begin(self, run: Session) -> None:
        """Before the first pass."""

    def continue_from(self, other: Mode, slots: int) -> None:
        """A branch begins: what the mode of the run it parts from knows of its first `slots` slots holds here, too."""

    def diversity(self, run: Session, params: GenerationParams, past: Past | None = None) -> Stage | None:
        """The stage that keeps groups of beams apart, where the mode has some; `past`: for that step."""
        return None

    def attached(self) -> AbstractContextManager[None]:
        """Hooks on other models than the run's own, for the time of the loop."""
        return nullcontext()

    def prefilled(self, run: Session) -> None:
        """After each chunk of the prompt; `run.forward.take_residuals` has what modes look into."""

    def opening(self, run: Session, params: GenerationParams, past: Past | None = None) -> tuple[Stage, ...]:
        """Stages of the mode's own in front of the pipeline, for the step in progress or one of the past.

        Raises `ParameterError`, and for a past step `ViewUnavailableError`.
        """
        return ()

    def feed(self, run: Session) -> torch.Tensor:
        """Logits (n, B, V) float32 of the n positions that this step decides; the newest tokens are fed for them."""
        return run.feed_newest()[None]

    def feed_put(self, run: Session) -> torch.Tensor:
        """The same where the next tokens are not chosen, but were put there: several of them in one pass."""
        count = 1 if run.pending_logits is not None or run.guiding is not None else min(MOST_PUT, len(run.put))
        count = run.cache.chunk(count, count)
        if count == 1:
            return run.feed_newest()[None]
        ids = torch.cat([run.ids[:, -1:], run.ids.new_tensor([run.put[: count - 1]])], dim=1)  # (1, n)
        return run.forward.positions(ids, run.cache, run.trace, count).transpose(0, 1)

    def choose(self, run: Session, processed: Processed, place: int) -> Choice:
        """One token a lane from the scores (B, V) after the pipeline; `place` counts the positions of this step."""
        raise NotImplementedError

    @property
    def own_cache(self) -> RunCache | None:
        """The cache of another model that the mode runs; None where there is none."""
        return None

    def cache_rows(self, run: Session) -> int:
        """Rows that the cache has at most."""
        return len(run.lanes)

    def tried(self, run: Session, params: GenerationParams) -> int:
        """Rows of the cache that a lane takes at once, under these parameters."""
        return 1

    def lost(self, run: Session, dead: list[int]) -> list[int]:
        """Of the lanes that have no token left, those without which the run cannot go on."""
        return dead

    def push(self, run: Session, lane: Row, token_id: int) -> str:
        """Add a token to a lane, which may be its end; returns the text that became complete."""
        text = lane.push(token_id)
        reason = lane.stop.check(lane.token_ids, text, run.params)
        return text if reason is None else text + lane.end(reason)

    def settle(self, run: Session) -> None:
        """After the tokens were appended: lanes that ended leave the batch."""
        alive = [index for index, lane in enumerate(run.lanes) if lane.finish_reason is None]
        if alive and len(alive) < len(run.lanes):
            for lane in run.lanes:
                if lane.finish_reason is not None and lane.fed is None:
                    lane.fed = cache_length(run.cache)
            run.regroup(alive, [run.lanes[index] for index in alive])

    def is_over(self, run: Session) -> bool:
        """Whether nothing is left to do."""
        return all(lane.finish_reason is not None for lane in run.lanes)

    def conclude(self, run: Session, reason: FinishReason) -> list[Row]:
        """The rows of the result, best first a prompt; lanes that still run end for `reason`."""
        for lane in run.lanes:
            if lane.finish_reason is None:
                lane.end(reason)
        return run.rows
