"""The decode loop: read this first.

A run is a sequence of calls to `prefill_chunk` until the prompt is fed, then to `decode_step` until every row
has ended. Each call is one unit of work; between two calls commands are taken, never inside one. The model is
an unmodified transformers module, the cache is ours (`kv.py`), the pipeline is a list of stages
(`pipeline.py`), the choice is the mode's (`modes/`), and nothing random happens that is not written here.

B rows, T slots, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from core.contract.errors import InternalError, NonFiniteLogitsError, OutOfMemoryError, TokenglassError
from core.contract.events import PrefillProgress
from core.contract.params import GenerationParams
from core.contract.snapshot import StepId, StepSnapshot, StepTiming
from core.decode.kv import cache_length, cache_report
from core.decode.observe import Processed, observe, process
from core.models.loaded import LoadedModel

if TYPE_CHECKING:
    from core.decode.session import Session


def prefill_chunk(run: Session) -> PrefillProgress:
    """Feed the next positions of the prompt; the last chunk leaves the logits for the first token."""
    begun = perf_counter()
    done = cache_length(run.cache)
    stop = min(done + run.spec.prefill_chunk, run.prompt_slots)
    logits = run.forward(run.ids[:, done:stop], run.cache, run.trace)  # (B, V)
    if stop == run.prompt_slots:
        run.prefill_logits = logits
    run.clock.prefill_s += perf_counter() - begun
    elapsed_ms = 1e3 * (perf_counter() - run.clock.started)
    return PrefillProgress(run.run_id, stop, run.prompt_slots, elapsed_ms)


def decode_step(run: Session) -> tuple[StepSnapshot, ...]:
    """Choose the next token of every running row."""
    # 1. Forward: feed the newest token, unless the prompt has just been fed.
    begun = perf_counter()
    if run.prefill_logits is not None:
        raw, forward_s, run.prefill_logits = run.prefill_logits, run.clock.prefill_s, None
        _check_finite(raw, run)
    else:
        raw = run.forward(run.ids[:, -1:], run.cache, run.trace)  # (B, V)
        _check_finite(raw, run)  # reads a number back, so a GPU's work is inside the measured time
        forward_s = perf_counter() - begun
    record_s = run.trace.take_record_s() if run.trace is not None else 0.0

    # 2. Pipeline: raw logits become the final scores, stage by stage.
    at_pipeline = perf_counter()
    processed = process(raw, run.ids, run.stages, run.spec.top_logprobs)
    _check_survivors(processed, run)

    # 3. Choice: the mode takes one token a row; rows that have ended are fed padding.
    positions = [len(row.prompt.token_ids) + len(row.token_ids) for row in run.rows]
    chosen, draws = run.mode.choose(processed.final, positions)  # (B,)
    chosen = _pad_ended_rows(chosen, run)
    token_ids: list[int] = chosen.tolist()
    pipeline_s = perf_counter() - at_pipeline

    # 4. Observation: what each running row chose and what it chose from.
    at_probes = perf_counter()
    piece = run.loaded.text.piece
    running = [index for index, row in enumerate(run.rows) if row.finish_reason is None]
    seen = {index: observe(processed, index, token_ids[index], piece) for index in running}
    allowed = {index: _allowed(run, index) for index in running}
    report = cache_report(run.cache)
    probes_s = perf_counter() - at_probes + record_s
    timing = StepTiming(
        forward_ms=1e3 * max(0.0, forward_s - record_s),
        pipeline_ms=1e3 * pipeline_s,
        probes_ms=1e3 * probes_s,
        step_ms=1e3 * (forward_s + pipeline_s + perf_counter() - at_probes),
    )

    # 5. Append: the token becomes part of the sequence, and may be its end.
    run.ids = torch.cat([run.ids, chosen[:, None]], dim=1)  # (B, T + 1)
    run.clock.token()
    snapshots = []
    for index in running:
        row, token_id, numbers = run.rows[index], token_ids[index], seen[index]
        text = _append(run, index, token_id)
        snapshots.append(
            StepSnapshot(
                id=_step_id(run, index, positions[index]),
                token_id=token_id,
                piece=piece(token_id),
                text=text,
                token_bytes=run.loaded.text.token_bytes(token_id),
                logprob=numbers.logprob,
                final_logprob=numbers.final_logprob,
                entropy_bits=numbers.entropy_bits,
                final_entropy_bits=numbers.final_entropy_bits,
                rank=numbers.rank,
                top=numbers.top,
                u=draws[index],
                timing=timing,
                cache=report,
                trace_bytes=0 if run.trace is None else run.trace.nbytes,
                allowed_tokens=allowed[index],
                finish_reason=None if row.finish_reason is None else str(row.finish_reason),
            )
        )
    return tuple(snapshots)


def _allowed(run: Session, index: int) -> int | None:
    """How many tokens the grammar allows next."""
    if run.grammar is None:
        return None
    return run.grammar.allowed_tokens(run.rows[index].token_ids, run.params.eos_token_id)


def _append(run: Session, index: int, token_id: int) -> str:
    """Add the token to its row; returns the text it completed."""
    row = run.rows[index]
    row.token_ids.append(token_id)
    text = row.stream.push(token_id)
    row.finish_reason = row.stop.check(row.token_ids, text, run.params)
    if row.finish_reason is not None:
        text += row.stream.flush()
    row.text += text
    return text


def _step_id(run: Session, index: int, position: int) -> StepId:
    return StepId(
        model_id=run.loaded.info.model_id,
        run_id=run.run_id,
        branch_id=run.branch_id,
        row=index,
        beam=0,
        index=len(run.rows[index].token_ids) - 1,
        position=position,
        epoch=run.epoch,
    )


def _pad_ended_rows(chosen: torch.Tensor, run: Session) -> torch.Tensor:
    ended = [row.finish_reason is not None for row in run.rows]
    if not any(ended):
        return chosen
    return chosen.masked_fill(torch.tensor(ended, device=chosen.device), pad_id(run.loaded, run.params))


def pad_id(loaded: LoadedModel, params: GenerationParams) -> int:
    """The token fed where a row has nothing to say: EOS as in `generate()`, else 0. It is masked or ignored."""
    return params.eos_token_id[0] if params.eos_token_id else (loaded.info.bos_token_id or 0)


def _check_finite(logits: torch.Tensor, run: Session) -> None:
    # The maximum is NaN if any logit is, +inf if any is, and -inf only if all are.
    if not all(math.isfinite(most) for most in logits.amax(dim=-1).tolist()):
        raise NonFiniteLogitsError(
            f"The model returned logits that are not finite at token {run.new_tokens}; its weights are damaged or "
            f"overflow in {run.loaded.info.dtype}, so try another precision or reload it."
        )


def _check_survivors(processed: Processed, run: Session) -> None:
    if processed.final is processed.raw:
        return
    names = ", ".join(stage.name for stage in processed.stages)
    for most in processed.final.amax(dim=-1).tolist():
        if most == -math.inf:
            raise NonFiniteLogitsError(
                f"The pipeline ({names}) left no token to choose at token {run.new_tokens}; relax it."
            )
        if not math.isfinite(most):
            raise NonFiniteLogitsError(
                f"The pipeline ({names}) made scores that are not finite at token {run.new_tokens}; relax it."
            )


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
