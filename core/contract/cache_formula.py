"""The size of a KV cache from a model's numbers alone: prediction, and what makes it differ from what is measured.

K and V hold 2 × batch × positions × layers × kv_heads × head_dim numbers. Where every query head has keys of its own
(plain multi-head attention) kv_heads × head_dim is, but for a few models, the hidden size d_model. Multi-head latent
attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1) holds batch × positions × layers × latent
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.contract.cache import CacheReport, CacheSpec, Difference
from core.contract.events import ModelInfo

SCALE_BYTES = 4  # float32, of each token and head of an 8-bit cache
DTYPE_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What of a model decides the size of its cache.

    heads: of the queries. hidden_size: d_model; None: as wide as all heads. latent: numbers that latent attention keeps
    of a position in each layer, for all heads together; None: it keeps K and V.
    """

    title: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    hidden_size: int | None = None
    latent: int | None = None

    @classmethod
    def of(cls, info: ModelInfo) -> CacheShape:
        """Of a loaded model."""
        numbers = info.kv_bytes_per_token // (info.layers * DTYPE_BYTES[info.dtype])
        latent = None if numbers == 2 * info.kv_heads * info.head_dim else numbers
        return cls(
            info.title,
            info.layers,
            info.heads,
            info.kv_heads,
            info.head_dim,
            info.max_positions,
            info.hidden_size,
            latent,
        )

    @property
    def plain_width(self) -> int | None:
        """d_model, where every query head has keys of its own and all heads are as wide as it; else None."""
        width = self.heads * self.head_dim
        plain = self.heads == self.kv_heads and self.hidden_size in (None, width) and self.latent is None
        return width if plain else None

    @property
    def layer_elements(self) -> int:
        """Numbers that one layer keeps of a position."""
        return 2 * self.kv_heads * self.head_dim if self.latent is None else self.latent

    @property
    def layer_scales(self) -> int:
        """Scales that an 8-bit cache keeps of a position in one layer: of K and of V, by head."""
        return 2 * (self.kv_heads if self.latent is None else 1)

    def position_elements(self) -> int:
        """Numbers of K and V of one position in all layers."""
        return self.layers * self.layer_elements

    @property
    def formula(self) -> str:
        """The names of `factors`."""
        if self.latent is not None:
            return "batch × seq_len × layers × latent × bytes"
        return "2 × batch × seq_len × layers × kv_heads × head_dim × bytes"

    def factors(self, rows: int, positions: int, number_bytes: int) -> tuple[int, ...]:
        """What is multiplied to get the bytes of a cache that keeps everything."""
        if self.latent is not None:
            return rows, positions, self.layers, self.latent, number_bytes
        return 2, rows, positions, self.layers, self.kv_heads, self.head_dim, number_bytes


# From the configurations that were published with the weights.
KNOWN_SHAPES: tuple[CacheShape, ...] = (
    CacheShape("GPT-2 (124M)", 12, 12, 12, 64, 1024),
    CacheShape("GPT-2 medium (355M)", 24, 16, 16, 64, 1024),
    CacheShape("GPT-2 large (774M)", 36, 20, 20, 64, 1024),
    CacheShape("GPT-2 XL (1.6B)", 48, 25, 25, 64, 1024),
    CacheShape("Llama 2 7B", 32, 32, 32, 128, 4096),
    CacheShape("Llama 2 70B", 80, 64, 8, 128, 4096),
    CacheShape("Llama 3 8B", 32, 32, 8, 128, 8192),
    CacheShape("Llama 3.2 1B", 16, 32, 8, 64, 131_072),
    CacheShape("Qwen2 0.5B", 24, 14, 2, 64, 32_768),
    CacheShape("Qwen2 1.5B", 28, 12, 2, 128, 32_768),
    CacheShape("Qwen2 7B", 28, 28, 4, 128, 32_768),
    CacheShape("Qwen2 72B", 80, 64, 8, 128, 32_768),
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """used_bytes: K and V of the positions that are kept. scale_bytes: contained in it. kept: in the fullest layer.

    position_bytes: of one more position in one row, as long as nothing is dropped.
    """

    used_bytes: int
    scale_bytes: int
    kept: int
    position_bytes: int


def predict(
    shape: CacheShape, spec: CacheSpec, dtype: str, rows: int, positions: int, windows: tuple[int | None, ...] = ()
) -> Prediction:
    """What the cache holds once so many positions were fed one by one.

    dtype: of the model. windows: the window of each layer, for the kinds that keep by layer type; empty: none slides.
    """
    per_layer, scales = shape.layer_elements * DTYPE_BYTES[dtype], 0
    if spec.kind in ("fp8", "int8"):
        scales = shape.layer_scales * SCALE_BYTES
        per_layer = shape.layer_elements + scales
    kept = [_kept(spec, positions, window) for window in windows or (None,) * shape.layers]
    total = rows * sum(kept)
    position = 0 if spec.kind == "off" else per_layer * shape.layers
    return Prediction(total * per_layer, total * scales, max(kept, default=0), position)


def _kept(spec: CacheSpec, positions: int, window: int | None) -> int:
    """Positions that a layer holds after so many were fed, the newest alone in the last pass."""
    if spec.kind == "off":
        return 0
    if spec.kind == "hybrid" and window is not None:
        return min(positions, window)
    if spec.kind == "dynamic" and window is not None:
        return min(positions, window - 1)
    if spec.kind == "heavy_hitters":
        return min(positions, spec.heavy + spec.window + 1)
    return positions if spec.budget is None else min(positions, spec.budget)


def rows_of(report: CacheReport) -> int:
    """Rows of the batch as they are stored: beams and candidates tried count."""
    return max((layout.rows for layout in report.layouts), default=1)


def plain_bytes(shape: CacheShape, dtype: str, report: CacheReport) -> int:
    """What the formula says of so many rows and positions, all kept as the model's numbers."""
    return rows_of(report) * report.length * shape.position_elements() * DTYPE_BYTES[dtype]


def differences(shape: CacheShape, dtype: str, report: CacheReport) -> tuple[Difference, ...]:
    """Why the used bytes measured are not those of `plain_bytes`; they add up exactly."""
    plain = plain_bytes(shape, dtype, report)
    dropped = sum(
        layout.rows * layout.heads * layout.dropped * (layout.key_width + layout.value_width) * DTYPE_BYTES[dtype]
        for layout in report.layouts
    )
    if report.kind == "off":
        return (Difference("nothing is kept", -plain),)
    rounded = 0
    if report.scales_bytes:
        held = sum(
            layout.rows * layout.heads * layout.held * (layout.key_width + layout.value_width)
            for layout in report.layouts
        )
        rounded = held * (DTYPE_BYTES[dtype] - 1)
    found = [
        Difference("positions dropped", -dropped),
        Difference("8 bits a number", -rounded),
        Difference("scales", report.scales_bytes),
    ]
    rest = report.used_bytes - plain - sum(d.bytes for d in found)
    found.append(Difference("not explained", rest))
    return tuple(d for d in found if d.bytes)
