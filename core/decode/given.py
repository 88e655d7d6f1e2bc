"""What a run can begin with besides tokens: a cache that holds the first of them, or embeddings in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.cache_utils import Cache

from core.contract.errors import ParameterError, PromptError
from core.contract.events import PromptRow
from core.decode.kv import cache_length, copy_in, foreign_lengths, foreign_shape, fork_cache
from core.models.anatomy import find_anatomy
from core.models.loaded import LoadedModel
from core.trace.record import Trace

if TYPE_CHECKING:
    from core.decode.session import Session

HEAVY_PAST = (
    "What heavy hitters keep depends on the portions that a text was fed in, so a cache of the kind heavy_hitters "
    "cannot begin with past_key_values; choose another kind."
)
EMBEDDING = "⟨embedding⟩"  # shown where a position has no token


def to_embeds(loaded: LoadedModel, given: object) -> torch.Tensor:
    """Embeddings (1, T, E) on the model's device, in its precision. Raises `PromptError` or `ParameterError`."""
    info = loaded.info
    if "inputs_embeds" not in find_anatomy(loaded.module).accepts:
        raise ParameterError(f"{info.title} takes no inputs_embeds; give it token ids.")
    if info.image is not None:
        raise ParameterError(
            f"{info.title} paints pictures from the first pixel on; give it an image, no inputs_embeds."
        )
    if not isinstance(given, np.ndarray | torch.Tensor):
        raise PromptError(f"inputs_embeds is a tensor or a numpy array (1, T, E), not a {type(given).__name__}.")
    embeds = torch.as_tensor(given).detach()
    width = loaded.module.get_input_embeddings().weight.shape[-1]
    if embeds.ndim != 3 or embeds.shape[0] != 1 or embeds.shape[1] == 0 or embeds.shape[2] != width:
        shape = " × ".join(map(str, embeds.shape))
        raise PromptError(f"inputs_embeds has the shape {shape}, but {info.title} takes 1 × T × {width}.")
    if not embeds.is_floating_point() or not bool(embeds.isfinite().all()):
        raise PromptError("inputs_embeds holds values that are no finite floating-point numbers.")
    if embeds.shape[1] > info.max_positions:
        raise PromptError(
            f"inputs_embeds has {embeds.shape[1]:,} positions, but {info.title} has only {info.max_positions:,}; "
            "shorten it."
        )
    return embeds.to(loaded.device, loaded.module.dtype)


def embedded_row(embeds: torch.Tensor) -> PromptRow:
    """The prompt of such a run: negative ids, no two alike, because no position is known to be another's token."""
    count = embeds.shape[1]
    return PromptRow(tuple(range(-1, -count - 1, -1)), (EMBEDDING,) * count, "")


def reuse(run: Session, before: Session) -> int:
    """Take over what `before` has fed of this very prompt; returns the positions. The last one is always fed."""
    single = not run.several and not before.several
    recorded = before.trace is not None or run.trace is None
    if not (run.spec.reuse_prefix and single and recorded and before.loaded.module is run.loaded.module):
        return 0
    until = run.acts.same_until(before.acts)  # what was fed under other interventions is no use
    same = _same(run, before) if until is None else min(until, _same(run, before))
    kept = before.spec.cache == run.spec.cache and run.spec.cache.kind != "heavy_hitters"  # its portions were others
    reused = before.cache.reusable(same) if kept else 0
    if reused:
        _continue(run, before, reused)
    return reused


def adopt(run: Session, past: Session | Cache) -> int:
    """Begin with the cache that the caller gives; returns its positions. Raises `ParameterError` or `PromptError`."""
    if run.several:
        why = f"{run.mode.name} keeps several side by side" if len(run.rows) == 1 else f"there are {len(run.rows)} here"
        raise ParameterError(f"past_key_values holds one sequence, but {why}; run without it.")
    if isinstance(past, Cache):
        return _adopt_cache(run, past)
    if past.loaded.module is not run.loaded.module:
        raise ParameterError(
            f"past_key_values comes from {past.loaded.info.title}, loaded as model {past.loaded.info.model_id}, and "
            f"fits no other model than that one, not {run.loaded.info.title} as it is loaded now."
        )
    if past.several:
        raise ParameterError(
            "The earlier run has several rows; pass its past_key_values(row=…) with the ids of that row."
        )
    if past.unseen:
        raise ParameterError("The earlier run began with embeddings, so that its cache fits no prompt of tokens.")
    if past.spec.cache != run.spec.cache:
        raise ParameterError(
            f"The earlier run kept its cache as {past.spec.cache.words()}, and this one is to keep it as "
            f"{run.spec.cache.words()}; ask for the same."
        )
    if run.spec.cache.kind == "heavy_hitters":
        raise ParameterError(HEAVY_PAST)
    fed = min(cache_length(past.cache), past.ids.shape[1])
    if fed == 0:
        raise ParameterError("The earlier run was closed and holds no cache any more; run it again.")
    reused, most = _same(run, past), min(fed, run.prompt_slots - 1)
    if reused < most:
        piece, ids = run.loaded.text.piece, (run.ids[0, reused], past.ids[0, reused])
        ours, theirs = (piece(int(i)) for i in ids)
        raise PromptError(
            f"The prompt differs from the earlier run at position {reused} ({ours!r}, there {theirs!r}); its "
            "past_key_values fits only a prompt that begins with its tokens."
        )
    if past.cache.reusable(reused) < reused:
        raise PromptError(
            f"The earlier run has dropped what position {reused:,} would see, so its cache cannot be continued there; "
            "run without past_key_values."
        )
    _continue(run, past, reused)
    return reused


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
    if run.spec.cache.kind == "heavy_hitters":
        raise ParameterError(HEAVY_PAST)
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
    if batch != 1:
        raise ParameterError(f"past_key_values holds {batch} rows, but a run begins with one.")
    if len(set(lengths)) > 1:
        raise ParameterError("The layers of past_key_values hold different positions; a sliding window dropped some.")
    if lengths[0] > run.prompt_slots:
        raise PromptError(
            f"past_key_values holds {lengths[0]} positions, but the prompt has only {run.prompt_slots} tokens; give "
            "all ids, those in the cache included."
        )
    reused = min(lengths[0], run.prompt_slots - 1)
    if reused:
        copy_in(run.cache, past, reused, run.loaded.module.dtype, run.loaded.device)
        run.trace = None if run.trace is None else _unrecorded(run, reused)
    return reused


def _unrecorded(run: Session, reused: int) -> Trace:
    return Trace(run.spec.trace_budget_bytes, start=reused)
