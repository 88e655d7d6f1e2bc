"""Whether a run fits, before anything is allocated for it."""

from __future__ import annotations

from core.contract.errors import OutOfMemoryError, PromptError
from core.models.loaded import LoadedModel
from core.models.placement import available_bytes

MOST_LANES = 512  # sequences in one batch; beyond it a step takes seconds, and its snapshots megabytes


def check_room(loaded: LoadedModel, lanes: int, positions: int) -> None:
    """Raises `PromptError` for too many sequences, `OutOfMemoryError` where their keys and values cannot be held."""
    if lanes > MOST_LANES:
        raise PromptError(
            f"This run would have {lanes:,} sequences at once, but {MOST_LANES} is the most; split the batch, or take "
            "fewer beams or return sequences."
        )
    needed, free = lanes * positions * loaded.info.kv_bytes_per_token, available_bytes(loaded.device)
    if needed > free:
        raise OutOfMemoryError(
            f"{lanes:,} × {positions:,} positions need {needed / 1e9:.3g} GB of KV cache, but {loaded.info.device} has "
            f"{free / 1e9:.3g} GB free; take fewer or shorter sequences."
        )
