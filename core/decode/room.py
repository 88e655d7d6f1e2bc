"""Whether a run fits, before anything is allocated for it."""

from __future__ import annotations

from core.contract.cache import CacheSpec
from core.contract.errors import OutOfMemoryError, PromptError
from core.contract.events import ModelInfo
from core.models.loaded import LoadedModel
from core.models.placement import available_bytes

MOST_LANES = 512  # sequences in one batch; beyond it a step takes seconds, and its snapshots megabytes
SCALE_BYTES = 4  # float32, of each token and head


def check_room(loaded: LoadedModel, lanes: int, positions: int, spec: CacheSpec | None = None, chunk: int = 0) -> None:
    """Raises `PromptError` for too many sequences, `OutOfMemoryError` where their keys and values cannot be held.

    chunk: positions fed at once, which a cache with a window holds besides it.
    """
    spec = spec or CacheSpec()
    if lanes > MOST_LANES:
        raise PromptError(
            f"This run would have {lanes:,} sequences at once, but {MOST_LANES} is the most; split the batch, or take "
            "fewer beams or return sequences."
        )
    if spec.budget is not None:
        positions = min(positions, spec.budget + chunk)
    needed, free = lanes * positions * position_bytes(loaded.info, spec), available_bytes(loaded.device)
    if needed > free:
        once = " at once" if spec.kind == "static" else ""
        raise OutOfMemoryError(
            f"{lanes:,} × {positions:,} positions need {needed / 1e9:.3g} GB of KV cache{once}, but "
            f"{loaded.info.device} has {free / 1e9:.3g} GB free; take fewer or shorter sequences."
        )


def position_bytes(info: ModelInfo, spec: CacheSpec) -> int:
    """K and V of one position in all layers, as this kind stores them."""
    if spec.kind == "off":
        return 0
    if spec.kind in ("fp8", "int8"):
        return 2 * info.layers * info.kv_heads * (info.head_dim + SCALE_BYTES)
    return info.kv_bytes_per_token
