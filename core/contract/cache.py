"""The KV cache of a run: which kind is asked for, and what it held at some step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from core.contract.errors import ParameterError

IntArray = NDArray[np.int64]

CacheKind = Literal[
    "growing", "dynamic", "static", "hybrid", "sliding_window", "sink", "heavy_hitters", "fp8", "int8", "off"
]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)
_SETTINGS: dict[CacheKind, tuple[str, ...]] = {
    "sliding_window": ("window",),
    "sink": ("sinks", "window", "relative"),
    "heavy_hitters": ("heavy", "window"),
}
WINDOWED: tuple[CacheKind, ...] = ("sliding_window", "sink", "heavy_hitters")  # these take a window

CACHE_TITLES: dict[CacheKind, str] = {
    "growing": "Growing buffer",
    "dynamic": "DynamicCache",
    "static": "StaticCache",
    "hybrid": "By layer type",
    "sliding_window": "Sliding window",
    "sink": "Sinks and window",
    "heavy_hitters": "Heavy hitters",
    "fp8": "8-bit floats",
    "int8": "8-bit integers",
    "off": "No cache",
}

CACHE_MEANINGS: dict[CacheKind, str] = {
    "growing": "Keeps K and V of every position in a buffer that doubles when it is full.",
    "dynamic": "The default of transformers: joins the new position to a copy of all earlier ones at every step.",
    "static": "All positions the run can reach are allocated at once; attention runs over the whole buffer.",
    "hybrid": "Layers that slide keep their own window only; the text stays the same.",
    "sliding_window": "Each position attends to itself and the window - 1 positions before it; older ones are dropped.",
    "sink": "Keeps the first positions and the last ones; those between are dropped.",
    "heavy_hitters": "Keeps the last positions and those that got most attention so far, head by head.",
    "fp8": "K and V as 8-bit floats with a scale for each token and head.",
    "int8": "K and V as 8-bit integers with a scale for each token and head.",
    "off": "Keeps nothing and feeds the whole text again at every step.",
}


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """How keys and values are kept. Names are those of `cache_implementation` in transformers where both have one.

    window: positions that `sliding_window` attends to, the newest included; the last ones that `sink` and
        `heavy_hitters` keep.
    sinks: first positions that `sink` keeps. heavy: positions that `heavy_hitters` keeps besides the window.
    relative: `sink` counts positions inside the cache, as StreamingLLM does, instead of in the text.
    """

    kind: CacheKind = "growing"
    window: int = 128
    sinks: int = 4
    heavy: int = 64
    relative: bool = False

    def check(self) -> None:
        """Raises `ParameterError` for an unknown kind or sizes that make no sense."""
        if self.kind not in CACHE_KINDS:
            raise ParameterError(f"There is no cache of the kind “{self.kind}”; take one of {', '.join(CACHE_KINDS)}.")
        if self.kind in WINDOWED and self.window < 1:
            raise ParameterError(f"The window of the cache cannot be {self.window:,}; it takes 1 position or more.")
        if self.kind == "sink" and self.sinks < 0:
            raise ParameterError(f"The cache cannot keep {self.sinks:,} first positions; it takes 0 or more.")
        if self.kind == "heavy_hitters" and self.heavy < 1:
            raise ParameterError(f"The cache cannot keep {self.heavy:,} heavy positions; it takes 1 or more.")
        if self.relative and self.kind != "sink":
            raise ParameterError("Positions inside the cache are an option of the kind “sink” only.")

    def check_sizes(self, title: str, max_positions: int) -> None:
        """Raises `ParameterError` for more positions than the model `title` has."""
        if self.kind in WINDOWED and self.window > max_positions:
            raise ParameterError(
                f"The window of {self.window:,} positions is larger than the {max_positions:,} that {title} has; "
                "take a smaller one, or the growing cache."
            )
        name, size = {"sink": ("sinks", self.sinks), "heavy_hitters": ("heavy", self.heavy)}.get(self.kind, ("", 0))
        if size > max_positions:
            raise ParameterError(
                f"{name}={size} is more than the {max_positions:,} positions that {title} has; take fewer, or "
                "the growing cache."
            )

    @property
    def budget(self) -> int | None:
        """Positions that a layer keeps at most between two steps; None: all."""
        if self.kind == "sliding_window":
            return self.window
        if self.kind == "sink":
            return self.sinks + self.window
        return self.heavy + self.window if self.kind == "heavy_hitters" else None

    def words(self) -> str:
        """The kind and its sizes in a few words."""
        extra = {
            "sliding_window": f" {self.window:,}",
            "sink": f" {self.sinks:,} + {self.window:,}{', cache-relative' if self.relative else ''}",
            "heavy_hitters": f" {self.heavy:,} + {self.window:,}",
        }.get(self.kind, "")
        return f"{self.kind}{extra}"


def parse_cache(text: str) -> CacheSpec:
    """`kind`, or with sizes `sink,window=64,sinks=4,relative`. Raises `ParameterError`."""
    kind, *settings = (part.strip() for part in text.split(","))
    known = next((name for name in CACHE_KINDS if name == kind), None)
    if known is None:
        raise ParameterError(f"There is no cache of the kind “{kind}”; take one of {', '.join(CACHE_KINDS)}.")
    known_settings = _SETTINGS.get(known, ())
    sizes: dict[str, int] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        whole = value.isdecimal() and len(value) < 10 if name != "relative" else not equals
        if not whole or name not in ("window", "sinks", "heavy", "relative"):
            raise ParameterError(
                f"“{setting[:40]}” is no setting of a cache; write window=128, sinks=4, heavy=64 or relative, after "
                "commas."
            )
        if name not in known_settings:
            takes = " and ".join(known_settings) or "no settings"
            raise ParameterError(f"{name} is no setting of the kind {known}, which takes {takes}.")
        if name in sizes:
            raise ParameterError(f"The setting {name} is given twice; remove one of the two.")
        sizes[name] = int(value or 1)
    relative = bool(sizes.pop("relative", 0))
    spec = CacheSpec(known, relative=relative, **sizes)
    spec.check()
    return spec


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """K and V of one layer as they are stored: (rows, heads, held, width) each.

    held: positions in the storage. dropped: positions fed whose K and V are gone.
    """

    rows: int
    heads: int
    held: int
    dropped: int
    key_width: int
    value_width: int
    dtype: str
    device: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H_kv, T, D) of K."""
        return self.rows, self.heads, self.held, self.key_width


@dataclass(frozen=True, slots=True)
class Difference:
    """A named part of what was measured beyond (or below) the plain formula."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Bytes of the KV cache per layer, summed from the storages really held. All arrays are (L,) int64.

    length: positions fed. used: of K and V that hold positions; beyond: the part of it that the next position does not
    attend to any more. allocated: of the storages, scales included. scales: bytes of the scales of both.
    other: storages that hold no K or V in use: what a kind needs to choose, or to take a step back.
    score_ms: time that was spent on deciding what to keep in this step. layouts: a layer each; empty for no cache.
    """

    length: int
    key_used_bytes: IntArray
    value_used_bytes: IntArray
    key_allocated_bytes: IntArray
    value_allocated_bytes: IntArray
    kind: str = "growing"
    key_beyond_bytes: IntArray | None = None
    value_beyond_bytes: IntArray | None = None
    scale_bytes: IntArray | None = None
    other_bytes: IntArray | None = None
    layouts: tuple[LayerLayout, ...] = ()
    score_ms: float = 0.0

    @property
    def used_bytes(self) -> int:
        """Bytes of K and V that hold positions, all layers."""
        return int(self.key_used_bytes.sum() + self.value_used_bytes.sum())

    @property
    def layer_used_bytes(self) -> list[int]:
        """The same, layer by layer."""
        layers: list[int] = (self.key_used_bytes + self.value_used_bytes).tolist()
        return layers

    @property
    def layer_allocated_bytes(self) -> list[int]:
        """Bytes of all storages, layer by layer."""
        both = self.key_allocated_bytes + self.value_allocated_bytes
        layers: list[int] = (both if self.other_bytes is None else both + self.other_bytes).tolist()
        return layers

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all storages, all layers."""
        return int(self.key_allocated_bytes.sum() + self.value_allocated_bytes.sum()) + self.besides_bytes

    @property
    def besides_bytes(self) -> int:
        """Bytes of storages that hold no K or V in use, all layers; they are contained in the allocated bytes."""
        return 0 if self.other_bytes is None else int(self.other_bytes.sum())

    @property
    def beyond_bytes(self) -> int:
        """Bytes of positions that are held but not attended to any more, all layers."""
        parts = (self.key_beyond_bytes, self.value_beyond_bytes)
        return sum(int(part.sum()) for part in parts if part is not None)

    @property
    def scales_bytes(self) -> int:
        """Bytes of the scales, all layers; they are contained in the used bytes."""
        return 0 if self.scale_bytes is None else int(self.scale_bytes.sum())

    @property
    def held(self) -> int:
        """Positions that the fullest layer holds."""
        return max((layout.held for layout in self.layouts), default=0)

    @property
    def unused(self) -> tuple[Difference, ...]:
        """Why the allocated bytes are more than the used ones; they add up exactly."""
        ahead = self.kind in ("growing", "static", "fp8", "int8")
        found = (
            Difference(
                "allocated ahead" if ahead else "left over until the next step",
                self.allocated_bytes - self.used_bytes - self.besides_bytes,
            ),
            Difference(
                "to choose what stays" if self.kind == "heavy_hitters" else "to take a step back", self.besides_bytes
            ),
        )
        return tuple(part for part in found if part.bytes)
