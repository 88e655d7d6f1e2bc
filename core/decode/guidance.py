"""Classifier-free guidance: a second stream follows the negative prompt, and the scores move away from what it says.

The arithmetic is `UnbatchedClassifierFreeGuidanceLogitsProcessor` of transformers 5.23 (Sanchez et al., 2023). The
stream is the same model with a cache and a record of its own, fed the negative prompt and then the tokens chosen. The
record holds only what the final norm is fed, so that a past step can be guided again under another scale.

B lanes, N slots of the negative prompt (the same for all lanes, so none is padded), V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from core.contract.detail import GuidanceDetail
from core.contract.errors import NextRunError, PromptError, ViewUnavailableError
from core.contract.params import GenerationParams
from core.decode import prepare
from core.decode.kv import cache_length, crop_cache, fork_cache, take_rows
from core.decode.modes.mode import Past
from core.decode.pipeline import Rows, Stage
from core.decode.rows import Row
from core.trace.path import Path
from core.trace.record import Trace

if TYPE_CHECKING:
    from core.decode.session import Session


@dataclass(frozen=True)
class _Guided:
    """One step: natural logarithms (B, V) after the prompt, after the negative prompt, and the scores made of them."""

    conditional: torch.Tensor
    unconditional: torch.Tensor
    scores: torch.Tensor


def guide(scores: torch.Tensor, negative: torch.Tensor, scale: float) -> _Guided:
    """Logits after the prompt and after the negative prompt, both (B, V). A token that was ruled out stays so."""
    conditional, unconditional = torch.log_softmax(scores, dim=-1), torch.log_softmax(negative, dim=-1)
    guided = scale * (conditional - unconditional) + unconditional
    return _Guided(conditional, unconditional, guided.masked_fill(conditional.isneginf(), -torch.inf))


class Guidance:
    """The second stream of a run. Begun when guidance_scale is first not 1; what it missed until then is fed at once.

    Raises `PromptError` for a negative prompt that cannot be fed, `ParameterError` where the run has gone too far.
    """

    def __init__(self, run: Session) -> None:
        prompt, info = run.spec.steers_from, run.loaded.info
        self._negative: torch.Tensor | None = None  # (N,); None: the last token of each row's own prompt
        if prompt is not None:
            try:
                [row] = prepare.prompt_rows(run.loaded, (prompt,), 1)
            except PromptError as problem:
                raise PromptError(f"The negative prompt cannot be used. {problem.message}") from problem
            self._negative = torch.tensor(row.token_ids, device=run.loaded.device)
        self.prompt_slots = 1 if self._negative is None else len(self._negative)  # N
        if self.prompt_slots + run.new_tokens > info.max_positions:
            raise NextRunError(
                f"guidance_scale cannot act from here on: the negative prompt and what was said need more than the "
                f"{info.max_positions:,} positions of {info.title}; it acts at the next run."
            )
        self.limit = self._slots_at_most(run)
        self.cache = run.new_cache(self.limit)
        self.trace = Trace(run.spec.trace_budget_bytes, only_final=True) if run.spec.trace else None
        # Slots of the run itself that were fed without this stream, or, of a branch, shared with others.
        self._begun = max(cache_length(run.cache), run.opening_slots - 1)
        self._given_up = 0  # slots that were fed before the cache was given up
        self._logits: torch.Tensor | None = None  # (B, V) after the newest slot
        self._guided: _Guided | None = None

    @property
    def fed(self) -> int:
        """Slots so far."""
        return cache_length(self.cache)

    def _slots_at_most(self, run: Session) -> int:
        return min(self.prompt_slots + run.params.max_new_tokens, run.loaded.info.max_positions)

    def reach(self, run: Session) -> None:
        """The run may have become longer."""
        self.limit = max(self.limit, self._slots_at_most(run))
        self.cache.reach(self.limit)

    def room(self, lane: Row, positions: int) -> int:
        """Of so many positions of the model those that the lane itself may use, so that they suffice here, too."""
        return positions - max(0, self.prompt_slots - len(lane.prompt.token_ids))

    def feed_chunk(self, run: Session) -> None:
        """Feed the next slots of what the stream has missed, at most `prefill_chunk` of them."""
        fed = self.fed
        ids = self._ids(run)
        end = self.cache.portion(fed, ids.shape[1], self.prompt_slots)
        stop, trace = fed + self.cache.chunk(run.spec.prefill_chunk, end - fed), self.trace
        # Each slot under what is in force for that of the run, also where it is fed later, or again.
        own = run.prompt_slots - self.prompt_slots + fed
        acts, stop = run.acts.at(max(0, own)), fed + run.acts.upto(max(0, own), own + stop - fed) - own
        if trace is not None and fed < trace.stop:  # recorded already, only keys and values are missing
            stop, trace = min(stop, trace.stop), None
        with run.forward.rows_placed([0] * len(run.lanes), [-1] * len(run.lanes)), run.forward.acting(acts):
            self._logits = run.forward(ids[:, fed:stop], self.cache, trace)

    @contextmanager
    def abreast(self, run: Session) -> Iterator[None]:
        """Feed what was said since; if the block fails, the stream is what it was before."""
        fed, recorded = self.fed, 0 if self.trace is None else self.trace.stop
        logits = self._logits
        try:
            while self.fed < self.prompt_slots + run.ids.shape[1] - run.prompt_slots:
                self.feed_chunk(run)
            yield
        except BaseException:
            crop_cache(self.cache, fed)
            if self.trace is not None:
                self.trace.crop(recorded)
            self._logits = logits
            raise

    def _ids(self, run: Session) -> torch.Tensor:
        """Negative prompt and what was said, (B, N + new)."""
        if self._negative is None:
            return run.ids[:, run.prompt_slots - 1 :]
        return torch.cat([self._negative.expand(len(run.lanes), -1), run.ids[:, run.prompt_slots :]], dim=1)

    def continue_from(self, other: Guidance, run: Session) -> None:
        """Take over what the stream of another run has of this one; `run` is alone, and so was that one."""
        same = self._negative is other._negative or (
            self._negative is not None and other._negative is not None and torch.equal(self._negative, other._negative)
        )
        fed = min(other.fed, self.prompt_slots + run.kept_tokens - 1)
        if not same or other.cache.reusable(max(0, fed)) <= 0:
            return
        self.cache = fork_cache(other.cache, fed, self.limit)
        self._begun = min(self._begun, other._begun)
        if self.trace is not None and other.trace is not None:
            self.trace = other.trace.fork(fed)

    def forget(self) -> None:
        """Give the cache back; what is missed then is fed at once, as it was, when the stream is next needed."""
        self._given_up = max(self._given_up, self.fed)
        self.cache.forget()
        self._logits = self._guided = None

    def forget_records(self) -> None:
        """Give the records back, which are taken again with what is fed again."""
        if self.trace is not None:
            self.trace.crop(0)

    def regroup(self, sources: Sequence[int]) -> None:
        """As `Session.regroup`."""
        take_rows(self.cache, sources)
        if self._logits is not None:
            self._logits = self._logits[torch.tensor(list(sources), device=self._logits.device)]

    def stage(self, run: Session, params: GenerationParams, past: Past | None = None) -> Stage:
        """The stage for the step in progress, or for one of the past by its records (`ViewUnavailableError`)."""
        negative = None if past is None else self._past_logits(run, past)[None]  # (1, V)

        def live(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            assert self._logits is not None  # `abreast`
            self._guided = guide(scores, self._logits, params.guidance_scale)
            return self._guided.scores

        def replayed(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
            assert negative is not None
            return guide(scores, negative, params.guidance_scale).scores

        scale = {"guidance_scale": params.guidance_scale}
        return Stage("guidance_scale", scale, live if past is None else replayed)

    def _past_logits(self, run: Session, past: Past) -> torch.Tensor:
        """Logits (V,) that the second stream had at a past step. Raises `ViewUnavailableError`."""
        row = run.started.rows[past.strand.row]
        slot = self.prompt_slots + past.position - len(row.token_ids)
        if slot < self.prompt_slots - 1:
            raise ViewUnavailableError(
                f"Guidance begins after the prompt, with position {len(row.token_ids) - 1}; there is nothing to guide "
                "by before it."
            )
        if self.trace is not None and self.trace.stop <= slot < self._given_up:
            raise ViewUnavailableError(
                "The records of the negative prompt's stream were given up to stay within the memory for branches; "
                "they are taken again when the run goes on."
            )
        if self.trace is None or slot >= self.trace.stop:
            raise ViewUnavailableError(
                "The negative prompt's stream did not come to this position, because guidance_scale was 1 then."
            )
        # This stream is in the rows of the batch that the sequence itself is in when a token is fed here, which is a
        # step later in modes that feed a token as they choose it; what the stream missed was fed in one go.
        own = max(self._begun, run.prompt_slots - self.prompt_slots + slot + run.mode.feeds_ahead)
        [place] = past.strand.path.rows(own, own + 1)
        residual = self.trace.residuals(-1, slot, slot + 1, Path(0, place))[0]  # (E,)
        return run.forward.anatomy.read_out(residual)

    def details(
        self, parents: Sequence[int], token_ids: Sequence[int], top: int, piece: Callable[[int], str]
    ) -> list[GuidanceDetail | None]:
        """For each lane the `top` tokens after guidance, the chosen one always among them; None if none are wanted."""
        guided = self._guided
        if guided is None or top == 0:
            return [None] * len(token_ids)
        finals = torch.log_softmax(guided.scores, dim=-1)  # (B, V)
        likeliest = finals.topk(min(top, finals.shape[-1]), dim=-1).indices
        found: list[GuidanceDetail | None] = []
        for lane, token_id in zip(parents, token_ids, strict=True):
            ids = likeliest[lane]
            if not bool((ids == token_id).any()):
                ids = torch.cat([ids, ids.new_tensor([token_id])])
            columns = torch.stack([guided.conditional[lane, ids], guided.unconditional[lane, ids], finals[lane, ids]])
            host_ids, host = ids.cpu().numpy(), columns.cpu().numpy()
            host_ids.flags.writeable = host.flags.writeable = False
            found.append(GuidanceDetail(host_ids, tuple(map(piece, host_ids.tolist())), *host))
        return found
