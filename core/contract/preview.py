"""What a model would take, known before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract.specs import ModelSpec


@dataclass(frozen=True, slots=True)
class DtypeEstimate:
    """Bytes in one precision: of the weights, and of K and V for one position in all layers."""

    dtype: str  # bf16 | fp32
    weight_bytes: int
    kv_bytes_per_token: int

    def needed_bytes(self, positions: int) -> int:
        """Weights and a KV cache of so many positions."""
        return self.weight_bytes + self.kv_bytes_per_token * positions


@dataclass(frozen=True, slots=True)
class ModelPreview:
    """A model in numbers before it is loaded; the same numbers as `ModelInfo` has afterwards.

    device, dtype: where and how it would be loaded now. available_bytes: memory free on that device now.
    exact: false for a GGUF file that was not converted yet; then parameters are counted in its header.
    download_bytes: what is still to be downloaded, 0 for what is on this disk.
    """

    spec: ModelSpec
    title: str
    kind: str  # embedded | package | folder | gguf | hub | new
    family: str
    revision: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    device: str
    dtype: str
    available_bytes: int
    estimates: tuple[DtypeEstimate, ...]
    exact: bool = True
    download_bytes: int = 0
    notices: tuple[str, ...] = ()

    def estimate(self, dtype: str | None = None) -> DtypeEstimate:
        """In this precision, by default the one it would be loaded in."""
        return next(e for e in self.estimates if e.dtype == (dtype or self.dtype))

    def missing_bytes(self, dtype: str | None = None, positions: int | None = None) -> int:
        """By how much weights and a cache of `positions` (all the model has) exceed the free memory; 0: they fit."""
        needed = self.estimate(dtype).needed_bytes(self.max_positions if positions is None else positions)
        return max(0, needed - self.available_bytes)

    def fitting_positions(self, dtype: str | None = None) -> int:
        """Positions whose cache fits beside the weights, at most all; 0 where the weights alone do not fit."""
        estimate = self.estimate(dtype)
        free = self.available_bytes - estimate.weight_bytes
        return max(0, min(self.max_positions, free // max(1, estimate.kv_bytes_per_token)))
