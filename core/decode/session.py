"""A session: one run on one model, from its prompt to its last token, and the views of it afterwards.

The session holds the state; the loop itself is in `engine.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from core.contract.breakpoints import Breakpoint
from core.contract.errors import NextRunError, ParameterError, TokenglassError, ViewUnavailableError
from core.contract.events import (
    BreakpointHit,
    BreakpointProblem,
    FinishReason,
    HypothesisEnded,
    InterventionsApplied,
    ParamsApplied,
    PrefillProgress,
    PromptRow,
    RunFinished,
    RunStarted,
)
from core.contract.interventions import Intervention, with_deletions
from core.contract.params import PARAMETERS, GenerationParams
from core.contract.snapshot import StepSnapshot
from core.contract.specs import RunSpec
from core.contract.together import check_together
from core.contract.views import ViewAnswer, ViewQuery
from core.decode import again, branch, engine, given, prepare
from core.decode.acts import Acts
from core.decode.breakpoints import Breaks
from core.decode.embeds import check_unseen, first_rows, to_embeds
from core.decode.extras import NONE, Extras
from core.decode.forward import Forward, ForwardCancelled
from core.decode.guidance import Guidance
from core.decode.interventions import History, make_acts
from core.decode.kv import RunCache, cache_length, check_kind, check_mode, make_cache, take_rows
from core.decode.lengths import reach, room_for, settled, slots_at_most
from core.decode.modes import PLAIN, Mode, Past, make_mode
from core.decode.pipeline import PipelineContext, Rows, Stage, build_pipeline
from core.decode.plan import make_plan
from core.decode.recorded import recording_of
from core.decode.room import Feeding, check_lanes, check_room
from core.decode.rows import Clock, PastLane, Row
from core.decode.sequences import result_of
from core.decode.stopping import RowStop, Timer
from core.models.loaded import LoadedModel
from core.trace.path import Path
from core.trace.record import Trace
from core.trace.recording import Recording, Strand
from core.trace.replay import ReadOut
from core.trace.views import derive

RunEvent = PrefillProgress | StepSnapshot | HypothesisEnded | BreakpointHit | BreakpointProblem


class Session:
    """One run. `cancelled` is read inside the model, before every layer, from any thread's flag.

    before: the run before on this model; with `spec.reuse_prefix` its cache and records are continued where the tokens
    are the same. assistant: the model that `spec.assistant` names, loaded. parting: what a branch begins with.
    Raises `PromptError` or `ParameterError` when the run cannot begin.
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
        assistant: LoadedModel | None = None,
        extras: Extras = NONE,
        parting: branch.Parting | None = None,
    ) -> None:
        self.loaded, self.spec, self.extras = loaded, spec, extras
        self.run_id, self.branch_id, self.epoch = run_id, branch_id, 0
        self.asked = prepare.resolve_params(loaded, spec)  # as they were chosen; `params` are those in force
        check_kind(loaded.module, loaded.info, spec.cache)
        self.changed: frozenset[str] = frozenset()  # chosen by the user since the run began
        self.assistant = assistant
        self.mode: Mode = make_mode(self.asked, spec, loaded, assistant, cancelled)
        copies = self.asked.num_return_sequences if self.mode.copies else 1
        early_exit = self.asked.assistant_early_exit is not None and assistant is None
        check_mode(spec.cache, self.mode.name, early_exit, loaded.info.sliding_window is not None)
        self.embeds = to_embeds(loaded, extras, copies)
        # First slots, of which nobody knows the tokens.
        self.unseen = 0 if self.embeds is None or spec.prompts else self.embeds.slots
        own = None if parting is None else [parting.prompt]
        self.prompt_count = max(1, len(spec.prompts)) if self.embeds is None else len(self.embeds.padding)
        if own is None:
            check_lanes(self.prompt_count * (copies if self.mode.copies else self.asked.num_beams))
        prompts = own or first_rows(loaded, spec, self.embeds, copies, cancelled)
        self.prompts, self.cancelled = tuple(prompts), cancelled
        least = 0 if self.embeds is None else min(self.embeds.padding)
        least = least if parting is None else parting.row.padding  # its slots are those of the records
        slots = prepare.pad_left(prompts, engine.pad_id(loaded, self.asked), loaded.device, least)
        self.prompt_slots = slots.ids.shape[1]
        self.lengths = settled(self, self.asked)
        self.params = self.lengths.params
        self.grammar = prepare.constraint(loaded, spec)
        self.timer = Timer()
        self.rows = [self._new_row(index, p, int(slots.padding[index])) for index, p in enumerate(prompts)]
        if self.mode.one_row and len(self.rows) > 1:
            raise ParameterError(
                f"{self.mode.name} takes one prompt at a time, not {len(self.rows)}; leave the drafts out or run them "
                "one by one."
            )
        self.lanes = list(self.rows)  # what the batch consists of
        self.past: list[list[PastLane]] = []  # the lanes after each step, where lanes move
        self.ids = slots.ids  # (B, slots so far)
        self.first_row = 0  # of a branch: the row of the run whose draws it continues
        self.put: list[int] = []  # tokens that come next without being chosen
        self.rerolls_since = [(0, spec.reroll)]  # from which token on which draws are taken
        if parting is not None:
            branch.continue_row(self, parting)
        self.kept_tokens = self.new_tokens
        self.opening_slots = self.ids.shape[1]  # fed before the first choice
        self.refill_to = 0  # slots whose keys and values were given up
        self.past_slots = 0  # of a branch: those it has of its parent, even where they have to be fed again
        self.forward = Forward(loaded, self.padding, cancelled)
        self.acts = History()
        self.acts.put(0, make_acts(self, spec.interventions))
        self.forward.acts = self.acts.now
        self.limit = slots_at_most(self, self.params)
        lanes = len(self.rows) * (1 if self.mode.copies else self.params.num_beams)
        feeding = Feeding(self.limit, self.prompt_slots, spec.prefill_chunk, max(self.padding))
        check_room(loaded, lanes, feeding, spec.cache, self.mode.tried(self, self.params))
        self.cache = self.new_cache(self.limit)
        self.several: bool = (
            len(self.rows) > 1 or self.mode.moves_lanes or (parting is not None and parting.parent.several)
        )
        self.trace = Trace(spec.trace_budget_bytes, keeps_keys=self.several) if spec.trace else None
        self.reused = 0 if before is None else given.reuse(self, before)
        if parting is not None:
            self.reused = branch.take_over(self, parting)
        if extras.past is not None:
            self.reused = given.adopt(self, extras.past)
        self.pending_logits: torch.Tensor | None = None  # (B, V) that the next step begins with, fed already
        self.over = False
        self.clock = Clock()
        self.error: TokenglassError | None = None
        self.read_out = ReadOut()
        self.guidance: Guidance | None = None  # once it has acted
        self.stages: tuple[Stage, ...]
        self._configure(self.params)
        self.breaks: Breaks = Breaks(self, spec.breakpoints, None if parting is None else parting.parent.breaks)
        if parting is not None:
            branch.continue_others(self, parting)
        past = () if parting is None else parting.parent.params_since
        self.params_since: list[tuple[int, GenerationParams]]  # from which token on which were in force
        self.params_since = [*(s for s in past if s[0] < self.kept_tokens), (self.kept_tokens, self.params)]
        self.mode.begin(self)
        self.started = RunStarted(
            model_id=loaded.info.model_id,
            run_id=run_id,
            branch_id=branch_id,
            rows=tuple(prompts),
            params=self.params,
            seed=spec.seed,
            max_length=self.limit,
            plan=make_plan(self),
            reused_positions=self.reused,
            interventions=self.acts.now.asked,
        )

    def _new_row(self, index: int, prompt: PromptRow, padding: int) -> Row:
        finished = None if self.grammar is None else self.grammar.finished
        most = self.loaded.info.max_positions
        stop = RowStop(len(prompt.token_ids), prompt.rendered[-64:], most, self.timer, finished, self.extras.replaced)
        known = [i for i in prompt.token_ids if i >= 0]
        return Row(index, prompt, padding, stop, self.loaded.text.stream(known), Path(0, index))

    def _configure(self, params: GenerationParams) -> None:
        """Pipeline, mode and guidance for these parameters; nothing has changed if one of them cannot be built."""
        mode, guidance, name = self.mode, self.guidance, params.infer_mode(self.assistant is not None)
        if mode.name != name:
            if not {self.mode.name, name} <= set(PLAIN):
                raise NextRunError(
                    f"The mode cannot change from {self.mode.name} to {name} while a run is in progress; "
                    "it acts at the next run."
                )
            mode = make_mode(params, self.spec, self.loaded)
        check_unseen(self, params)
        if guidance is None and params.guidance_scale != 1:
            guidance = Guidance(self)
        stages = self._build(params, self._opening(mode, guidance, params))
        self.params, self.stages, self.mode, self.guidance = params, stages, mode, guidance
        if guidance is not None:
            most = self.loaded.info.max_positions
            for lane in self.lanes:
                lane.stop.max_positions = guidance.room(lane, most) if params.guidance_scale != 1 else most

    def _opening(
        self, mode: Mode, guidance: Guidance | None, params: GenerationParams, past: Past | None = None
    ) -> tuple[Stage, ...]:
        """The stages in front of the pipeline, for the step in progress or one of the past."""
        own = mode.opening(self, params, past)
        if guidance is None or params.guidance_scale == 1:
            return own
        return (*own, guidance.stage(self, params, past))

    @property
    def guiding(self) -> Guidance | None:
        """The negative prompt's stream, where it acts on the next token."""
        return None if self.params.guidance_scale == 1 else self.guidance

    def past_stages(self, params: GenerationParams, past: Past) -> tuple[Stage, ...]:
        """The pipeline for a step of the past. Raises `ViewUnavailableError` or `ParameterError`."""
        if params.guidance_scale != 1 and self.guidance is None:
            raise ViewUnavailableError("This run was not guided; run again with guidance_scale other than 1.")
        mode, name = self.mode, params.infer_mode(self.assistant is not None)
        if mode.name != name:  # what if; of the modes that a step can be asked about, only DoLa has a stage of its own
            mode = make_mode(params, self.spec, self.loaded) if name == "dola_generation" else Mode()
        return self._build(params, self._opening(mode, self.guidance, params, past), past)

    def _build(
        self, params: GenerationParams, opening: tuple[Stage, ...], past: Past | None = None
    ) -> tuple[Stage, ...]:
        """Stages see only known tokens: after embeddings they begin with none, as in `generate()`."""
        known = dataclasses.replace(params, min_length=max(0, params.min_length - self.unseen))
        return build_pipeline(known if self.unseen else params, self._context(params, opening, past))

    def _context(self, params: GenerationParams, opening: tuple[Stage, ...], past: Past | None) -> PipelineContext:
        known = self.prompt_slots - self.unseen
        grammar = None if self.grammar is None else self.grammar.stage(params.eos_token_id, known)
        return PipelineContext(
            prompt_slots=known,
            vocab_size=self.loaded.info.output_size,
            device=self.loaded.device,
            custom=self.extras.logits_processor,
            prefix_allowed_tokens_fn=self.extras.prefix_allowed_tokens_fn,
            diversity=self.mode.diversity(self, params, past),
            opening=opening,
            grammar=grammar,
        )

    def pipeline_rows(self) -> Rows:
        """The batch as stages see it."""
        numbers = (self.first_row + lane.index for lane in self.lanes)
        # Of what begins with embeddings nothing but the tokens after them, so no padding.
        padding = (0,) * len(self.lanes) if self.unseen else tuple(self.padding)
        return Rows(self.ids[:, self.unseen :], padding, tuple(numbers))

    def new_cache(self, limit: int) -> RunCache:
        """An empty cache of the run's kind, for so many slots."""
        return make_cache(self.loaded.module, len(self.forward.anatomy.layers), self.spec.cache, limit)

    # -- lanes

    @property
    def padding(self) -> list[int]:
        """Slots of padding in front of each lane."""
        return [lane.padding for lane in self.lanes]

    def length_of(self, lane: Row) -> int:
        """Tokens that this sequence may have at most, prompt included."""
        asked = len(lane.prompt.token_ids) + self.params.max_new_tokens
        return min(asked, lane.stop.max_positions + 1)

    def regroup(self, sources: Sequence[int], lanes: list[Row]) -> None:
        """The batch becomes `lanes`; lane k continues the present lane `sources[k]`, whose past it has."""
        if list(sources) != list(range(len(self.lanes))):
            fed = cache_length(self.cache)
            since = 0
            if len(sources) == len(self.lanes):
                since = min(lanes[k].path.parts_from(lane.path, fed) for k, lane in enumerate(self.lanes))
            take_rows(self.cache, sources, since)
            for k, lane in enumerate(lanes):
                lane.path = lane.path.moved(fed, k)
            rows = torch.tensor(list(sources), device=self.ids.device)
            self.ids = self.ids[rows]
            if self.pending_logits is not None:
                self.pending_logits = self.pending_logits[rows]
            if self.guidance is not None:
                self.guidance.regroup(sources)
        places = [(lane.padding, lane.index) for lane in self.lanes]
        self.lanes = lanes
        if places != [(lane.padding, lane.index) for lane in lanes]:
            self.forward.place_rows(self.padding, [lane.index for lane in lanes])

    def fed_input(self, start: int, stop: int) -> torch.Tensor:
        """What is fed for these slots of the prompt: ids (B, n), or embeddings (B, n, E)."""
        if self.embeds is None:
            return self.ids[:, start:stop]
        return self.embeds.fed([lane.index for lane in self.lanes], start, stop)

    def feed_newest(self) -> torch.Tensor:
        """The logits (B, V) that follow each lane's newest token, which is fed unless it was."""
        if self.pending_logits is not None:
            logits, self.pending_logits = self.pending_logits, None
            return logits
        return self.forward(self.ids[:, -1:], self.cache, self.trace)

    # -- running

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The model's hooks, for the time of the loop; none is left behind."""
        with self.forward.attached(), self.mode.attached():
            yield

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return self.over

    @property
    def in_prefill(self) -> bool:
        """Whether positions of the prompt are still to be fed."""
        fed = cache_length(self.cache)
        return fed < self.refill_to or (self.pending_logits is None and fed < self.opening_slots)

    @torch.inference_mode()
    def advance(self) -> tuple[RunEvent, ...]:
        """One unit of work: a prefill chunk, or one decode step of all rows. Call inside `attached()`.

        What breakpoints say follows the step; whoever drives the run stops at a `BreakpointHit`.

        A pass that is broken off ends the run as cancelled; a failing one ends it with the error. Both
        leave cache, trace and everything generated as they were before the pass.
        """
        self.timer.start()
        try:
            if cache_length(self.cache) < self.refill_to:
                return (engine.refill_chunk(self),)
            if self.in_prefill:
                return (engine.prefill_chunk(self),)
            events: tuple[RunEvent, ...] = engine.decode_step(self)
            hits = self.breaks.after([event for event in events if isinstance(event, StepSnapshot)])
            events = (*events, *self.breaks.take_problems(), *hits)
            if self.mode.is_over(self):
                self.cancel()
            return events
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
        self.timer.pause(seconds)

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End all lanes that are still running."""
        if not self.over:
            self.over = True
            # A search that broke down may have nothing to show; then the rows stay those of the prompts.
            self.rows = self.mode.conclude(self, reason) or self.rows

    def set_params(self, changes: Mapping[str, object], epoch: int) -> ParamsApplied:
        """New values from the next token on. Raises `ParameterError` or `OutOfMemoryError`, with nothing changed."""
        before, asked = self.params, self.asked.replace(changes)
        for name in self.mode.fixed.intersection(changes):
            if getattr(asked, name) != getattr(self.asked, name):
                raise NextRunError(f"{name} cannot change while a run is in progress; it acts at the next run.")
        check_together(asked, self.spec.assistant is not None)
        lengths = settled(self, asked, changes)
        limit = room_for(self, lengths.params)
        self._configure(lengths.params)
        reach(self, limit)
        self.asked, self.lengths, self.changed = asked, lengths, self.changed | set(changes)
        self.epoch = epoch
        self.params_since.append((self.new_tokens, self.params))
        changed = tuple(n for n in PARAMETERS if getattr(before, n) != getattr(self.params, n))
        return ParamsApplied(self.run_id, epoch, self.new_tokens, self.params, changed, make_plan(self), self.branch_id)

    def set_interventions(self, asked: tuple[Intervention, ...], epoch: int) -> InterventionsApplied:
        """Exactly these from the next position on, and what was deleted before, which stays so.

        Raises as `make_acts` does; then nothing has changed.
        """
        asked = with_deletions(asked, self.acts.now.asked)
        acts = make_acts(self, asked)
        if self.cache.feeds_all and cache_length(self.cache) and asked != self.acts.now.asked:
            raise ParameterError(
                "Without a cache every position is computed anew, so interventions cannot begin half way; they act at "
                "the next run."
            )
        # What was given up, or is another branch's, is fed again as it was.
        fed = max(cache_length(self.cache), self.refill_to, self.past_slots)
        self.acts.put(fed, acts)
        self.forward.acts, self.epoch = self.acts.now, epoch
        if not self.mode.moves_lanes:  # those have other rows in the cache between two steps; their next pass does it
            self.forward.delete(self.cache)
        decided = self.pending_logits is not None  # the next token follows a position that was fed already
        index = self.new_tokens + decided
        return InterventionsApplied(self.run_id, epoch, index, asked, make_plan(self), self.branch_id)

    def set_breakpoints(self, breakpoints: Sequence[Breakpoint]) -> list[BreakpointProblem]:
        """Exactly these from the next token on; returns what is wrong with some."""
        self.breaks = Breaks(self, breakpoints, self.breaks)
        return self.breaks.take_problems()

    def take_record_s(self) -> float:
        """Seconds spent recording since the last call."""
        return sum(trace.take_record_s() for trace in self.traces)

    # -- results

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The records: of the sequences, and of the negative prompt's stream."""
        traces = (self.trace, None if self.guidance is None else self.guidance.trace)
        return tuple(trace for trace in traces if trace is not None)

    @property
    def caches_beside(self) -> tuple[RunCache, ...]:
        """Of the negative prompt's stream and of a draft model."""
        caches = (None if self.guidance is None else self.guidance.cache, self.mode.own_cache)
        return tuple(cache for cache in caches if cache is not None)

    @property
    def trace_bytes(self) -> int:
        """What the records hold in addition to the caches."""
        return sum(trace.nbytes for trace in self.traces)

    @property
    def new_tokens(self) -> int:
        """Tokens generated by the longest sequence."""
        return max(len(row.token_ids) for row in (*self.rows, *self.lanes))

    def result(self) -> RunFinished:
        """The run as it stands."""
        return result_of(self)

    # -- views

    def answer(self, query: ViewQuery, other: Session | None = None) -> ViewAnswer:
        """Derive a view. Raises `ViewUnavailableError` with the reason."""
        slices = self.answer_in_slices(query, other)
        while True:
            try:
                next(slices)
            except StopIteration as done:
                answer: ViewAnswer = done.value
                return answer

    def answer_in_slices(
        self, query: ViewQuery, other: Session | None = None
    ) -> Generator[float | None, None, ViewAnswer]:
        """The same in pieces of a few milliseconds, so that it can be spread between steps or dropped.

        other: the second branch of a comparison.
        """
        slices = derive(self.recording(), query, None if other is None else other.recording())
        while True:
            with torch.inference_mode():
                try:
                    fraction = next(slices)
                except StopIteration as done:
                    answer: ViewAnswer = done.value
                    return answer
            yield fraction

    def recording(self) -> Recording:
        """What views are derived from."""
        return recording_of(self)

    def feed_again(
        self, strand: Strand, start: int, stop: int, acts: Acts | None = None
    ) -> tuple[RunCache, Trace, Strand]:
        """Positions fed once more, for their records; see `again.feed_again`."""
        return again.feed_again(self, strand, start, stop, acts)

    def close(self) -> None:
        """Give cache and records back."""
        self.cache = self.cache.empty_like(self.loaded.module, 0)
        self.refill_to = 0
        self.trace = self.guidance = None
        self.read_out = ReadOut()
