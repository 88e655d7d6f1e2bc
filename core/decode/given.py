"""A run that begins with a cache of its first tokens: of the run before, of an earlier one, of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.cache_utils import Cache

from core.contract.errors import ParameterError, PromptError
from core.decode.interventions import History
from core.decode.kv import cache_length, copy_in, copy_moved, foreign_lengths, foreign_shape, fork_cache
from core.decode.rows import Row
from core.trace.record import Trace

if TYPE_CHECKING:
    from core.decode.session import Session

HEAVY_PAST = (
    "What heavy hitters keep depends on the portions that a text was fed in, so a cache of the kind heavy_hitters "
    "cannot begin with past_key_values; choose another kind."
)


def reuse(run: Session, before: Session) -> int:
    """Take over what `before` has fed of this very prompt; returns the positions. The last one is always fed."""
    single = not run.several and not before.several
    recorded = before.trace is not None or run.trace is None
    tokens = run.embeds is None and before.embeds is None
    same_model = before.loaded.module is run.loaded.module
    if not (run.spec.reuse_prefix and single and recorded and tokens and same_model):
        return 0
    until = run.acts.same_until(before.acts)  # what was fed under other interventions is no use
    same = _same(run, before) if until is None else min(until, _same(run, before))
    kept = before.spec.cache == run.spec.cache and run.spec.cache.kind != "heavy_hitters"  # its portions were others
    reused = before.cache.reusable(same) if kept else 0
    if reused:
        _continue(run, before, reused)
    return reused


def adopt(run: Session, past: Session | Cache) -> int:
    """Begin with the cache that the caller gives; returns its positions. Raises `ParameterError` or `PromptError`.

    An earlier run is continued row by row, or all rows of this one go on with its only one. What its cache does not
    hold any more (rows that ended before the others, beams) is fed again.
    """
    if run.mode.name == "contrastive_search":
        raise ParameterError(
            "Contrastive search compares with the hidden states of all that was said, which a cache does not hold; "
            "run it without past_key_values."
        )
    if run.spec.cache.kind == "heavy_hitters":
        raise ParameterError(HEAVY_PAST)
    if isinstance(past, Cache):
        return _adopt_cache(run, past)
    _check_run(run, past)
    sources = [past.rows[number] for number in _sources(run, len(past.rows))]
    if run.several or past.several:
        return _adopt_rows(run, past, sources)
    [row], [source] = run.rows, sources
    fed = min(cache_length(past.cache), source.position)
    reused = _in_common(run, row, source, fed)
    if past.cache.reusable(reused) < reused:
        raise PromptError(
            f"The earlier run has dropped what position {reused:,} would see, so its cache cannot be continued there; "
            "run without past_key_values."
        )
    _continue(run, past, reused)
    return reused


def _check_run(run: Session, past: Session) -> None:
    if past.loaded.module is not run.loaded.module:
        raise ParameterError(
            f"past_key_values comes from {past.loaded.info.title}, loaded as model {past.loaded.info.model_id}, and "
            f"fits no other model than that one, not {run.loaded.info.title} as it is loaded now."
        )
    if past.embeds is not None:
        raise ParameterError("The earlier run began with embeddings, so that its cache fits no prompt of tokens.")
    if past.spec.cache != run.spec.cache:
        raise ParameterError(
            f"The earlier run kept its cache as {past.spec.cache.words()}, and this one is to keep it as "
            f"{run.spec.cache.words()}; ask for the same."
        )
    if cache_length(past.cache) == 0:
        raise ParameterError("The earlier run was closed and holds no cache any more; run it again.")


def _sources(run: Session, held: int) -> list[int]:
    """Which of the `held` rows each row of the run goes on with: of as many its own, or that of its prompt."""
    rows, prompts = len(run.rows), run.prompt_count
    if held == 1:
        return [0] * rows
    if held not in (rows, prompts):
        here = f"{rows} rows" if rows == prompts else f"{prompts} prompts in {rows} rows"
        raise ParameterError(
            f"past_key_values holds {held} rows, but this run has {here}; give the rows it goes on with."
        )
    return [row * held // rows for row in range(rows)]


def _in_common(run: Session, row: Row, source: Row, fed: int) -> int:
    """Positions that a row takes over of one that fed so many. Raises `PromptError` where another text follows."""
    ours, theirs = row.prompt.token_ids, (*source.prompt.token_ids, *source.token_ids)
    most = min(fed, len(ours) - 1)
    at = next((n for n in range(most) if ours[n] != theirs[n]), most)
    if at < most:
        piece, which = run.loaded.text.piece, f" of row {row.index}" if len(run.rows) > 1 else ""
        raise PromptError(
            f"The prompt{which} differs from the earlier run at position {at} ({piece(ours[at])!r}, there "
            f"{piece(theirs[at])!r}); its past_key_values fits only a prompt that begins with its tokens."
        )
    return most


def _adopt_rows(run: Session, past: Session, sources: list[Row]) -> int:
    """Each row goes on with the one of the earlier run, moved to where it is in this batch; what is missing is fed."""
    if any(asked for _, asked in past.acts.asked):
        raise ParameterError(
            "The earlier run was under interventions, which are known of one row alone; run without past_key_values."
        )
    if not past.cache.holds_all:
        raise ParameterError(
            f"With its cache kept as {past.spec.cache.words()} the earlier run does not hold all of its positions, so "
            "several rows cannot go on with it; run it with the growing cache."
        )
    lanes = {id(lane): number for number, lane in enumerate(past.lanes) if not past.mode.has_beams}
    moves, slots = [], run.prompt_slots
    for row, source in zip(run.rows, sources, strict=True):
        there = id(source) in lanes and source.fed is None
        held = min(cache_length(past.cache) - source.padding, source.position) if there else 0
        slots = min(slots, row.padding + _in_common(run, row, source, held))
        moves.append((lanes.get(id(source), 0), source.padding, row.padding))
    if slots:
        run.acts.take(past.acts, slots)
        copy_moved(run.cache, past.cache, moves, slots)
        run.trace = None if run.trace is None else _unrecorded(run, slots)
    return slots


def _same(run: Session, before: Session) -> int:
    """Positions that `before` has fed and whose tokens are the same, the prompt's last one left out."""
    most = min(cache_length(before.cache), run.prompt_slots - 1, before.ids.shape[1])
    return int((run.ids[0, :most] == before.ids[0, :most]).int().cumprod(0).sum())


def _continue(run: Session, before: Session, reused: int) -> None:
    run.acts.take(before.acts, reused)
    run.cache = fork_cache(before.cache, reused, run.limit)
    if run.trace is not None:
        run.trace = _unrecorded(run, reused) if before.trace is None else before.trace.fork(reused)


def _adopt_cache(run: Session, past: Cache) -> int:
    """A cache of transformers: its ids cannot be compared, its sizes can."""
    info, lengths = run.loaded.info, foreign_lengths(past)
    if run.spec.cache.kind == "off":
        raise ParameterError(
            f"A cache of the kind {run.spec.cache.kind} cannot begin with past_key_values; choose another kind."
        )
    if not lengths or 0 in lengths:
        raise ParameterError("past_key_values is empty; leave it out.")
    batch, heads, width = foreign_shape(past)
    if (len(lengths), heads, width) != (info.layers, info.kv_heads, info.head_dim):
        raise ParameterError(
            f"past_key_values has {len(lengths)} layers of {heads} heads × {width}, but {info.title} has {info.layers} "
            f"of {info.kv_heads} × {info.head_dim}."
        )
    if len(set(lengths)) > 1 or -1 in lengths:
        raise ParameterError("The layers of past_key_values hold different positions; a sliding window dropped some.")
    length = lengths[0]
    if length > run.prompt_slots:
        raise PromptError(
            f"past_key_values holds {length} positions, but the prompt has only {run.prompt_slots} tokens; give "
            "all ids, those in the cache included."
        )
    reused = min(length, run.prompt_slots - 1)
    if reused:
        run.acts.take(History(), reused)  # as far as anybody knows
        copy_in(run.cache, past, reused, run.loaded.module.dtype, run.loaded.device, _foreign_rows(run, batch))
        run.trace = None if run.trace is None else _unrecorded(run, reused)
    return reused


def _foreign_rows(run: Session, held: int) -> list[int]:
    """The rows of a cache of transformers that the rows of the run begin with.

    `generate()` wants one for each beam, and goes on with the first of each prompt, the others being alike.
    """
    beams = run.params.num_beams if run.mode.has_beams else 1
    if beams > 1 and held == beams * len(run.rows):
        return list(range(0, held, beams))
    if held == 1 and run.prompt_count > 1:
        raise ParameterError(f"past_key_values holds 1 row, but this run has {run.prompt_count} prompts; give as many.")
    return _sources(run, held)


def _unrecorded(run: Session, reused: int) -> Trace:
    return Trace(run.spec.trace_budget_bytes, start=reused, keeps_keys=run.several)
