"""Whether a run fits, before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract.cache import CacheSpec
from core.contract.cache_formula import CacheShape, predict
from core.contract.errors import OutOfMemoryError, ParameterError, PromptError
from core.contract.events import ModelInfo
from core.contract.specs import MOST_SEQUENCES
from core.models.loaded import LoadedModel
from core.models.placement import available_bytes

SCORE_BYTES = 4 + 4  # of a token after a candidate, in float32: the model's own, and those that are looked at


@dataclass(frozen=True, slots=True)
class Feeding:
    """How a row is fed: `slots` in all, the `prompt` of it in chunks, the others one by one.

    padding: of the row that has most, contained in both.
    """

    slots: int
    prompt: int
    chunk: int
    padding: int = 0


def check_room(
    loaded: LoadedModel, lanes: int, feeding: Feeding, spec: CacheSpec | None = None, tried: int = 1
) -> None:
    """Raises `PromptError` for too many sequences, `OutOfMemoryError` where their keys and values cannot be held.

    tried: rows of the cache that each sequence takes, to try so many continuations at once.
    """
    spec = spec or CacheSpec()
    check_lanes(lanes)
    rows, info = lanes * tried, loaded.info
    if tried > 1 and rows > MOST_SEQUENCES:  # a pass of so many takes several times the memory of their cache
        raise ParameterError(
            f"Trying {rows:,} candidates at once is too much, {MOST_SEQUENCES} is the most; {_fewer(lanes)}."
        )
    needed, free = rows * most_bytes(info, spec, feeding), available_bytes(loaded.device)
    if tried > 1 and needed + rows * info.output_size * SCORE_BYTES > free:
        needed += rows * info.output_size * SCORE_BYTES
        raise OutOfMemoryError(
            f"Trying {rows:,} candidates at once takes {needed / 1e9:.3g} GB of KV cache and scores, but "
            f"{info.device} has {free / 1e9:.3g} GB free; lower top_k, or take fewer or shorter sequences."
        )
    if needed > free:
        once = " at once" if spec.kind == "static" else ""
        raise OutOfMemoryError(
            f"{lanes:,} × {feeding.slots:,} positions need {needed / 1e9:.3g} GB of KV cache{once}, but "
            f"{loaded.info.device} has {free / 1e9:.3g} GB free; take fewer or shorter sequences."
        )


def _fewer(lanes: int) -> str:
    """What to do about too many candidates of so many sequences."""
    most = MOST_SEQUENCES // lanes
    if most < 2:
        return f"take {MOST_SEQUENCES // 2} sequences at most"
    return f"lower top_k to {most}" + (", or take fewer sequences" if lanes > 1 else "")


def check_lanes(lanes: int) -> None:
    """Raises `PromptError` for too many sequences."""
    if lanes > MOST_SEQUENCES:
        raise PromptError(
            f"This run would have {lanes:,} sequences at once, but {MOST_SEQUENCES} is the most; split the batch, or "
            "take fewer beams or return sequences."
        )


def most_bytes(info: ModelInfo, spec: CacheSpec, feeding: Feeding) -> int:
    """Allocated for a row between two passes at most."""
    windows = info.layer_windows or (None,) * info.layers
    held = sum(_most_slots(spec, window, feeding) for window in windows)
    return held * (position_bytes(info, spec) // info.layers + _choosing_bytes(info, spec))


def _most_slots(spec: CacheSpec, window: int | None, feeding: Feeding) -> int:
    """Slots that the storages of one layer have; what left a window goes when the next pass begins."""
    if spec.kind == "dynamic" and window is not None:
        # transformers keeps window - 1, in the storage of the pass, and we keep those before it to take a step back.
        prompt = min(feeding.prompt, window - 1 + feeding.chunk)
        return prompt + max(min(feeding.slots, window), min(max(0, feeding.prompt - feeding.chunk), prompt))
    budget = window if spec.kind == "hybrid" else spec.budget
    if budget is None:
        return feeding.slots
    # A pass drops what its first query does not see, heavy hitters what they chose to drop, before it adds its own.
    before = budget if spec.kind == "heavy_hitters" else budget - 1
    before += feeding.padding if spec.kind == "sink" else 0
    return max(min(feeding.prompt, before + feeding.chunk), min(feeding.slots, before + 1))


def _choosing_bytes(info: ModelInfo, spec: CacheSpec) -> int:
    """What heavy hitters note of a slot in each layer: its number and the sums of two passes, head by head."""
    return info.kv_heads * (8 + 4 + 4) if spec.kind == "heavy_hitters" else 0


def position_bytes(info: ModelInfo, spec: CacheSpec) -> int:
    """K and V of one position in all layers, as this kind stores them."""
    return predict(CacheShape.of(info), spec, info.dtype, 1, 1).position_bytes
