"""The decode loop: read this first.

A run is a sequence of calls to `prefill_chunk` until the prompt is fed, then to `decode_step` until every row
has ended. Each call is one unit of work; between two calls commands are taken, never inside one. The model is
an unmodified transformers module, the cache is ours (`kv.py`), the pipeline is a list of stages
(`pipeline/`), the choice is the mode's (`modes/`), and nothing random happens that is not written here.

B lanes (sequences in the batch), n positions decided in one step, T slots, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from core.contract.cache import CacheReport
from core.contract.detail import GuidanceDetail
from core.contract.errors import InternalError, NonFiniteLogitsError, OutOfMemoryError, TokenglassError
from core.contract.events import FinishReason, HypothesisEnded, PrefillProgress
from core.contract.params import GenerationParams
from core.contract.snapshot import StepId, StepSnapshot, StepTiming
from core.contract.wording import in_words
from core.decode.kv import cache_length, cache_report, crop_cache
from core.decode.modes.mode import Choice
from core.decode.observe import Observation, Processed, observe, process
from core.decode.pipeline import Rows, culprit
from core.decode.rows import PastLane, Row
from core.decode.stopping import asked_to_stop
from core.models.loaded import LoadedModel

if TYPE_CHECKING:
    from core.decode.session import Session

StepEvents = tuple[StepSnapshot | HypothesisEnded, ...]


def prefill_chunk(run: Session) -> PrefillProgress:
    """Feed the next positions of the prompt; the last chunk leaves the logits for the first token."""
    begun = perf_counter()
    negative, stop = run.guiding, cache_length(run.cache)
    if negative is not None and negative.fed < negative.prompt_slots:
        negative.feed_chunk(run)
    else:
        stop, logits = _feed_chunk(run, stop, run.opening_slots)
        run.mode.prefilled(run)
        if stop == run.opening_slots:
            run.pending_logits = logits
    run.clock.prefill_s += perf_counter() - begun
    elapsed_ms = 1e3 * (perf_counter() - run.clock.started)
    fed, total = (0, 0) if negative is None else (negative.fed, negative.prompt_slots)
    return PrefillProgress(run.run_id, stop + fed, run.opening_slots + total, elapsed_ms, run.branch_id)


def refill_chunk(run: Session) -> PrefillProgress:
    """Feed the next positions of those whose keys and values were given up."""
    begun = perf_counter()
    stop, _ = _feed_chunk(run, cache_length(run.cache), run.refill_to)
    total, elapsed_ms = run.refill_to, 1e3 * (perf_counter() - begun)
    if stop == total:
        run.refill_to = 0
        run.forward.delete(run.cache)
    return PrefillProgress(run.run_id, stop, total, elapsed_ms, run.branch_id)


def _feed_chunk(run: Session, done: int, end: int) -> tuple[int, torch.Tensor]:
    """Feed a chunk of the slots [done, end); returns where it ends, and the logits (B, V) there."""
    end = run.cache.portion(done, end, run.prompt_slots)
    stop, trace = done + run.cache.chunk(run.spec.prefill_chunk, end - done), run.trace
    if trace is not None and done < trace.stop:  # recorded already, only keys and values are missing
        stop, trace = min(stop, trace.stop), None
    stop = run.acts.upto(done, stop)
    with run.forward.acting(run.acts.at(done)):  # what is fed again is fed as it was
        return stop, run.forward(run.fed_input(done, stop), run.cache, trace)


def decode_step(run: Session) -> StepEvents:
    """Choose the next token of every lane; in modes that draft, the next few."""
    # 1. Forward: the mode feeds what must be fed to know the next scores; guidance follows in its own stream.
    begun, guidance = perf_counter(), run.guiding
    with nullcontext() if guidance is None else guidance.abreast(run):
        fed = run.mode.feed_put(run) if run.put else run.mode.feed(run)  # (n, B, V)
    _check_finite(fed, run)
    forward_s = perf_counter() - begun + run.clock.take_prefill_s()
    record_s = run.take_record_s()

    events: list[StepSnapshot | HypothesisEnded] = []
    put = False
    for place, raw in enumerate(fed):
        # 2. Pipeline: raw logits become the final scores, stage by stage.
        at_pipeline, before_s = perf_counter(), run.forward.spent_s
        scores = torch.log_softmax(raw, dim=-1) if run.mode.on_logprobs else raw
        processed = _process(run, scores)

        # 3. Choice: the mode takes one token a lane.
        put = bool(run.put)
        choice = Choice(run.put[:1], [None]) if put else run.mode.choose(run, processed, place)
        processed = choice.processed or processed
        tried_s = run.forward.spent_s - before_s  # some modes try their candidates on the model
        forward_s += tried_s
        pipeline_s = perf_counter() - at_pipeline - tried_s

        # 4. Observation: what each lane chose and what it chose from.
        at_probes = perf_counter()
        piece = run.loaded.text.piece
        parents = range(len(choice.token_ids)) if choice.parents is None else choice.parents
        rows, token_ids = [*parents, *(e.parent for e in choice.ended)], [*choice.token_ids]
        token_ids += [e.row.token_ids[-1] for e in choice.ended]
        seen = observe(processed, rows, token_ids, piece)
        guided = None if guidance is None else guidance.details(rows, token_ids, run.spec.top_logprobs, piece)
        second = run.mode.own_cache if guidance is None else guidance.cache
        reports = cache_report(run.cache), None if second is None else cache_report(second)
        probes_s = perf_counter() - at_probes + record_s
        timing = StepTiming(
            forward_ms=1e3 * max(0.0, forward_s - record_s),
            pipeline_ms=1e3 * pipeline_s,
            probes_ms=1e3 * probes_s,
            step_ms=1e3 * (forward_s + pipeline_s + perf_counter() - at_probes),
        )
        forward_s = record_s = 0.0  # the pass is told with its first token; the others came with it

        # 5. Append: the tokens become part of their sequences, and may be their end.
        if choice.parents is not None:
            run.regroup(choice.parents, choice.lanes or [run.lanes[parent].fork() for parent in choice.parents])
        events += _append(run, choice, processed.final, seen, timing, reports, guided, put)
        if choice.over or all(lane.finish_reason is not None for lane in run.lanes):
            break

    # 6. Settle: lanes that ended leave the batch, what was fed in vain is forgotten.
    if put and cache_length(run.cache) >= run.ids.shape[1]:  # an end was put there, and more after it
        if run.cache.can_crop(run.ids.shape[1] - 1):  # else it is longer than what was said, and nothing continues it
            crop_cache(run.cache, run.ids.shape[1] - 1)
        if run.trace is not None:
            run.trace.crop(run.ids.shape[1] - 1)
    run.mode.settle(run)
    return tuple(events)


def _append(
    run: Session,
    choice: Choice,
    final: torch.Tensor,
    seen: list[Observation],
    timing: StepTiming,
    reports: tuple[CacheReport, CacheReport | None],
    guided: list[GuidanceDetail | None] | None,
    put: bool,
) -> list[StepSnapshot | HypothesisEnded]:
    """Add each lane's token to its sequence; what happened, lane by lane, then the hypotheses that ended."""
    index = run.new_tokens
    texts = [run.mode.push(run, lane, token) for lane, token in zip(run.lanes, choice.token_ids, strict=True)]
    run.ids = torch.cat([run.ids, run.ids.new_tensor(choice.token_ids)[:, None]], dim=1)  # (B, T + 1)
    run.clock.token()
    if run.extras.criteria and not run.mode.judges_ends:
        _ask_criteria(run, choice, final, texts)
    said = [*run.lanes, *(ended.row for ended in choice.ended)]
    texts += [ended.text for ended in choice.ended]
    draws = [*choice.draws, *(ended.draw for ended in choice.ended)]
    details = [*(choice.details or [None] * len(run.lanes)), *(ended.detail for ended in choice.ended)]
    if run.mode.moves_lanes:
        run.past.append([PastLane.of(lane, reports[0].length) for lane in said])
    trace_bytes, domain, steps = run.trace_bytes, run.loaded.text, list[StepSnapshot]()
    image = domain.image
    for k, (lane, numbers) in enumerate(zip(said, seen, strict=True)):
        token_id = lane.token_ids[-1]
        steps.append(
            StepSnapshot(
                id=StepId(
                    model_id=run.loaded.info.model_id,
                    run_id=run.run_id,
                    branch_id=run.branch_id,
                    row=lane.index,
                    beam=lane.beam,
                    index=len(lane.token_ids) - 1,
                    position=lane.position - 1,
                    epoch=run.epoch,
                ),
                token_id=token_id,
                piece=domain.piece(token_id),
                text=texts[k],
                token_bytes=domain.token_bytes(token_id),
                logprob=numbers.logprob,
                final_logprob=numbers.final_logprob,
                entropy_bits=numbers.entropy_bits,
                final_entropy_bits=numbers.final_entropy_bits,
                rank=numbers.rank,
                top=numbers.top,
                u=draws[k],
                timing=timing,
                cache=reports[0],
                trace_bytes=trace_bytes,
                allowed_tokens=_allowed(run, lane),
                finish_reason=None if lane.finish_reason is None else str(lane.finish_reason),
                detail=details[k],
                guidance=None if guided is None else guided[k],
                second_cache=reports[1],
                pixel=None if image is None else image.pixel(lane.position - 1),
                rgb=None if image is None else image.rgb(token_id),
                put=put,
            )
        )
    if put:
        del run.put[0]
    steps.sort(key=lambda step: (step.id.row, step.id.beam))
    return [
        *steps,
        *(HypothesisEnded(run.run_id, index, h, run.branch_id) for h in choice.hypotheses),
    ]


def _ask_criteria(run: Session, choice: Choice, final: torch.Tensor, texts: list[str]) -> None:
    """End the lanes that the caller's own criteria end, given the scores (B, V) their tokens were chosen from."""
    for k, lane in enumerate(run.lanes):
        ids, parent = (
            run.ids[k : k + 1, max(lane.padding, run.unseen) :],
            k if choice.parents is None else choice.parents[k],
        )
        asked = asked_to_stop(run.extras.criteria, ids, final[parent : parent + 1])
        if asked and lane.finish_reason is None:
            texts[k] += lane.end(FinishReason.STOP)


def _allowed(run: Session, lane: Row) -> int | None:
    """How many tokens the grammar allowed where the newest one was chosen."""
    if run.grammar is None:
        return None
    return run.grammar.allowed_tokens(lane.token_ids[:-1], run.params.eos_token_id)


def pad_id(loaded: LoadedModel, params: GenerationParams) -> int:
    """The token fed where a row has nothing to say: EOS as in `generate()`, else 0. It is masked or ignored."""
    known = (token_id for token_id in params.eos_token_id if token_id < loaded.info.vocab_size)
    return next(known, loaded.info.bos_token_id or 0)


def _check_finite(logits: torch.Tensor, run: Session) -> None:
    if run.params.remove_invalid_values:
        return  # that stage repairs them
    # The maximum is NaN if any logit is, +inf if any is, and -inf only if all are.
    if not all(math.isfinite(most) for most in logits.amax(dim=-1).flatten().tolist()):
        raise NonFiniteLogitsError(
            f"The model returned logits that are not finite at token {run.new_tokens}; its weights are damaged or "
            f"overflow in {run.loaded.info.dtype}, so try another precision or reload it."
        )


def _process(run: Session, scores: torch.Tensor) -> Processed:
    """The pipeline. Raises `NonFiniteLogitsError`, naming the stages that left no token or made infinite scores."""
    rows = run.pipeline_rows()
    try:
        processed = process(scores, rows, run.stages, run.spec.top_logprobs, run.mode.on_logprobs)
    except ValueError:
        _blame(run, rows, scores, range(len(scores)))  # some of transformers' classes fail on what the one before left
        raise
    if processed.final is not processed.raw:
        most = dict(enumerate(processed.final.amax(dim=-1).tolist()))
        dead = [place for place, value in most.items() if value == -math.inf]
        lost = run.mode.lost(run, dead) if dead else []
        lost += [place for place, value in most.items() if not (math.isfinite(value) or place in dead)]
        if lost:
            _blame(run, rows, scores, lost)
    return processed


def _blame(run: Session, rows: Rows, scores: torch.Tensor, places: Sequence[int]) -> None:
    found = culprit(run.stages, rows, scores, places)
    if found is not None:
        stages, most = found
        names = in_words(list(dict.fromkeys(stage.name for stage in stages)))
        what = "left no token to choose" if most == -math.inf else "made scores that are not finite"
        who = (
            f"The stage {names} of the pipeline" if len(stages) == 1 else f"The stages {names} of the pipeline together"
        )
        it = "it" if len(stages) == 1 else "one of them"
        keeps = "".join(f" ({stage.keeps})" for stage in stages if stage.keeps)
        raise NonFiniteLogitsError(f"{who} {what} at token {run.new_tokens}{keeps}; relax {it}.")


def as_typed_error(problem: BaseException, run: Session) -> TokenglassError:
    """What the user is told about a failure inside the loop. Exit requests pass through."""
    if isinstance(problem, TokenglassError):
        return problem
    if isinstance(problem, KeyboardInterrupt | SystemExit):
        raise problem
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return OutOfMemoryError(
            f"{run.loaded.info.device} has no memory left at token {run.new_tokens}; shorten the prompt or take a "
            "smaller model.",
            detail=repr(problem),
        )
    return InternalError(
        f"The model failed at token {run.new_tokens} with {type(problem).__name__}; what was generated is kept.",
        detail=repr(problem),
    )
