"""A session: one run on one model, from its prompt to its last token, and the views of it afterwards.

The session holds the state; the loop itself is in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from core.contract.errors import ParameterError, TokenglassError
from core.contract.events import FinishReason, ParamsApplied, PrefillProgress, PromptRow, RunFinished, RunStarted
from core.contract.params import PARAMETERS, GenerationParams
from core.contract.snapshot import StepSnapshot
from core.contract.specs import RunSpec
from core.contract.views import ViewAnswer, ViewQuery
from core.decode import engine, prepare
from core.decode.forward import Forward, ForwardCancelled
from core.decode.kv import cache_length, fork_cache, layer_keys, new_cache
from core.decode.modes import Mode, make_mode
from core.decode.pipeline import Stage, build_pipeline, run_pipeline
from core.decode.stopping import RowStop
from core.domains.stream import TextStream
from core.models.loaded import LoadedModel
from core.trace.record import Trace
from core.trace.recording import Recording
from core.trace.views import derive

_FIXED_DURING_A_RUN = ("num_return_sequences",)


@dataclass
class Row:
    """One row's own state."""

    prompt: PromptRow
    stop: RowStop
    stream: TextStream
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None


@dataclass
class Clock:
    """When things happened, in seconds of `perf_counter`."""

    started: float = field(default_factory=perf_counter)
    prefill_s: float = 0.0
    first_token: float | None = None
    last_token: float | None = None
    paused_s: float = 0.0  # between the first and the last token
    pause_s: float = 0.0  # since the last token

    def token(self) -> None:
        """A step has its tokens."""
        self.last_token = perf_counter()
        if self.first_token is None:
            self.first_token = self.last_token
        else:
            self.paused_s += self.pause_s
        self.pause_s = 0.0


class Session:
    """One run. `cancelled` is read inside the model, before every layer, from any thread's flag.

    before: the run before on this model; with `spec.reuse_prefix` its cache and records are continued where the tokens
    are the same. Raises `PromptError` or `ParameterError` when the run cannot begin.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        spec: RunSpec,
        *,
        run_id: int = 0,
        branch_id: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
        before: Session | None = None,
    ) -> None:
        self.loaded, self.spec = loaded, spec
        self.run_id, self.branch_id, self.epoch = run_id, branch_id, 0
        self.params = prepare.resolve_params(loaded.info, spec)
        prompts = prepare.prompt_rows(loaded, spec.prompts, self.params.num_return_sequences)
        slots = prepare.pad_left(prompts, engine.pad_id(loaded, self.params), loaded.device)
        self.rows = [
            Row(
                p,
                RowStop(len(p.token_ids), p.rendered[-64:], loaded.info.max_positions),
                loaded.text.stream(p.token_ids),
            )
            for p in prompts
        ]
        self.prompt_slots = slots.ids.shape[1]
        self.ids = slots.ids  # (B, slots so far)
        self.padding: list[int] = slots.padding.tolist()
        self.forward = Forward(loaded, slots.padding, cancelled)
        limit = min(self.prompt_slots + self.params.max_new_tokens, loaded.info.max_positions + max(self.padding))
        self.cache = new_cache(len(self.forward.anatomy.layers), limit)
        self.trace = Trace(spec.trace_budget_bytes) if spec.trace else None
        reused = 0 if before is None else self._continue(before, limit)
        self.prefill_logits: torch.Tensor | None = None  # (B, V) once the prompt is fed
        self.clock = Clock()
        self.error: TokenglassError | None = None
        self.stages: tuple[Stage, ...]
        self.mode: Mode
        self._configure(self.params)
        self.started = RunStarted(
            model_id=loaded.info.model_id,
            run_id=run_id,
            branch_id=branch_id,
            rows=tuple(prompts),
            params=self.params,
            seed=spec.seed,
            max_length=limit,
            plan=prepare.make_plan(loaded.info, spec, self.params, prompts),
            reused_positions=reused,
        )

    def _continue(self, before: Session, limit: int) -> int:
        """Take over what `before` has fed of this very prompt; returns the positions. The last one is always fed."""
        single = len(self.rows) == len(before.rows) == 1
        recorded = before.trace is not None or self.trace is None
        if not (self.spec.reuse_prefix and single and recorded and before.loaded.module is self.loaded.module):
            return 0
        most = min(cache_length(before.cache), self.prompt_slots - 1, before.ids.shape[1])
        same = (self.ids[0, :most] == before.ids[0, :most]).int().cumprod(0)
        reused = int(same.sum())
        if reused:
            self.cache = fork_cache(before.cache, reused, limit)
            self.trace = None if self.trace is None or before.trace is None else before.trace.fork(reused)
        return reused

    def _configure(self, params: GenerationParams) -> None:
        """Pipeline and mode for these parameters; nothing has changed if one of them cannot be built."""
        stages = build_pipeline(params, self.prompt_slots, self.padding, self.loaded.device)
        if getattr(getattr(self, "mode", None), "name", None) != params.mode:
            self.mode = make_mode(params.mode, self.spec, self.loaded.device)
        self.params, self.stages = params, stages

    # -- running

    def attached(self) -> AbstractContextManager[None]:
        """The model's hooks, for the time of the loop; none is left behind."""
        return self.forward.attached()

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return all(row.finish_reason is not None for row in self.rows)

    @property
    def in_prefill(self) -> bool:
        """Whether positions of the prompt are still to be fed."""
        return self.prefill_logits is None and cache_length(self.cache) < self.prompt_slots

    @torch.inference_mode()
    def advance(self) -> tuple[PrefillProgress | StepSnapshot, ...]:
        """One unit of work: a prefill chunk, or one decode step of all rows. Call inside `attached()`.

        A pass that is broken off ends the run as cancelled; a failing one ends it with the error. Both
        leave cache, trace and everything generated as they were before the pass.
        """
        try:
            if self.in_prefill:
                return (engine.prefill_chunk(self),)
            return engine.decode_step(self)
        except ForwardCancelled:
            self.cancel()
            return ()
        except BaseException as problem:
            self.error = engine.as_typed_error(problem, self)
            self.cancel()
            raise self.error from problem

    def note_pause(self, seconds: float) -> None:
        """Time the user spent pausing, which does not count against the speed."""
        self.clock.pause_s += seconds

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End all rows that are still running."""
        for row in self.rows:
            if row.finish_reason is None:
                row.finish_reason = reason
                row.text += row.stream.flush()

    def set_params(self, changes: Mapping[str, object], epoch: int) -> ParamsApplied:
        """New values from the next token on. Raises `ParameterError`; then nothing has changed."""
        for name in changes:
            if name in _FIXED_DURING_A_RUN:
                raise ParameterError(f"{name} cannot change while a run is in progress; it acts at the next run.")
        before, after = self.params, self.params.replace(changes)
        self._configure(after)
        self.epoch = epoch
        changed = tuple(n for n in PARAMETERS if getattr(before, n) != getattr(self.params, n))
        return ParamsApplied(self.run_id, epoch, self.new_tokens, self.params, changed)

    # -- results

    @property
    def new_tokens(self) -> int:
        """Tokens generated by the longest row."""
        return max(len(row.token_ids) for row in self.rows)

    def result(self) -> RunFinished:
        """The run as it stands."""
        clock, new = self.clock, self.new_tokens
        decode_s = (
            None if clock.first_token is None or clock.last_token is None else clock.last_token - clock.first_token
        )
        reasons = tuple(str(row.finish_reason or FinishReason.CANCELLED) for row in self.rows)
        return RunFinished(
            run_id=self.run_id,
            finish_reason=reasons[0],
            finish_reasons=reasons,
            texts=tuple(row.text for row in self.rows),
            sequences=tuple((*row.prompt.token_ids, *row.token_ids) for row in self.rows),
            prompt_tokens=tuple(len(row.prompt.token_ids) for row in self.rows),
            new_tokens=new,
            ttft_ms=None if clock.first_token is None else 1e3 * (clock.first_token - clock.started),
            tokens_per_s=(new - 1) / (decode_s - clock.paused_s) if decode_s and new > 1 else None,
            error=None if self.error is None else self.error.report(),
        )

    # -- views

    def answer(self, query: ViewQuery) -> ViewAnswer:
        """Derive a view. Raises `ViewUnavailableError` with the reason."""
        slices = self.answer_in_slices(query)
        while True:
            try:
                next(slices)
            except StopIteration as done:
                answer: ViewAnswer = done.value
                return answer

    def answer_in_slices(self, query: ViewQuery) -> Generator[None, None, ViewAnswer]:
        """The same in pieces of a few milliseconds, so that it can be spread between steps or dropped."""
        slices = derive(self.recording(), query)
        while True:
            with torch.inference_mode():
                try:
                    next(slices)
                except StopIteration as done:
                    answer: ViewAnswer = done.value
                    return answer
            yield

    def recording(self) -> Recording:
        """What views are derived from."""
        return Recording(
            trace=self.trace,
            keys=lambda layer: layer_keys(self.cache, layer),
            padding=tuple(self.padding),
            lengths=tuple(len(row.prompt.token_ids) + len(row.token_ids) for row in self.rows),
            anatomy=self.forward.anatomy,
            info=self.loaded.info,
            piece=self.loaded.text.piece,
            tokens=lambda row: (*self.rows[row].prompt.token_ids, *self.rows[row].token_ids),
            recompute=self._recompute,
            final_scores=self._final_scores,
        )

    def _recompute(self, start: int, stop: int) -> Trace:
        """Feed the slots [start, stop) again, on a fork of the cache, for their records."""
        cache = fork_cache(self.cache, start)
        trace = Trace(self.spec.trace_budget_bytes + (1 << 40), start=start)
        with self.attached():
            for begin in range(start, stop, self.spec.prefill_chunk):
                self.forward(self.ids[:, begin : min(begin + self.spec.prefill_chunk, stop)], cache, trace)
        return trace

    def _final_scores(self, row: int, slot: int, logits: torch.Tensor) -> torch.Tensor:
        """The pipeline under the current parameters on the logits (V,) that followed `slot`."""
        stages = build_pipeline(self.params, self.prompt_slots, self.padding[row : row + 1], self.loaded.device)
        return run_pipeline(stages, self.ids[row : row + 1, : slot + 1], logits[None])[0]

    def close(self) -> None:
        """Give cache and records back."""
        self.cache = new_cache(len(self.forward.anatomy.layers))
        self.trace = None
