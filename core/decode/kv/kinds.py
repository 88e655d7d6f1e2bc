"""From a `CacheSpec` to layers, and the reasons why a kind cannot serve a model."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from core.contract.cache import WINDOWED, CacheSpec
from core.contract.errors import ParameterError
from core.contract.events import ModelInfo
from core.decode.kv.cache import RunCache
from core.decode.kv.grow import GrowLayer
from core.decode.kv.heavy import HeavyLayer
from core.decode.kv.layer import KindLayer, Shared
from core.decode.kv.off import NoCache
from core.decode.kv.quantised import Fp8Layer, Int8Layer
from core.decode.kv.theirs import DynamicKind, DynamicSlidingKind, StaticKind
from core.decode.kv.window import RelativeLayer, Rotate, WindowLayer

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PLAIN_TYPES = frozenset({_FULL, _SLIDING})
_ROTATION_ERROR = 1e-3


def make_cache(model: PreTrainedModel, layers: int, spec: CacheSpec, limit: int | None = None) -> RunCache:
    """An empty cache for `model`. limit: slots it will ever hold; `static` needs it.

    Raises `ParameterError` for a model that the kind cannot serve, before anything is allocated.
    """
    if spec.kind == "growing":
        return RunCache(spec, [GrowLayer(limit) for _ in range(layers)])
    if spec.kind == "off":
        return NoCache(layers)
    shared, types = Shared(), layer_types(model, layers)
    return RunCache(spec, [_layer(model, spec, kind, window, shared, limit) for kind, window in types], shared)


def _layer(
    model: PreTrainedModel, spec: CacheSpec, kind: str, window: int | None, shared: Shared, limit: int | None
) -> KindLayer:
    slides = kind == _SLIDING and window is not None
    match spec.kind:
        case "dynamic":
            return DynamicSlidingKind(window) if slides and window is not None else DynamicKind()
        case "static":
            assert limit is not None  # the session knows it
            return StaticKind(limit)
        case "hybrid":
            return WindowLayer(window, 0, shared) if slides and window is not None else GrowLayer(limit)
        case "sliding_window":
            return WindowLayer(spec.window, 0, shared)
        case "sink" if spec.relative:
            return RelativeLayer(spec.window, spec.sinks, shared, rotation(model))
        case "sink":
            return WindowLayer(spec.window, spec.sinks, shared)
        case "heavy_hitters":
            return HeavyLayer(spec.window, spec.heavy, shared)
        case "fp8":
            return Fp8Layer(limit)
        case "int8":
            return Int8Layer(limit)
    return GrowLayer(limit)


def check_kind(model: PreTrainedModel, info: ModelInfo, spec: CacheSpec) -> None:
    """Raises `ParameterError` where the kind cannot serve the model."""
    spec.check()
    if spec.kind == "growing":
        return
    types = layer_types(model, info.layers)
    other = next((kind for kind, _ in types if kind not in _PLAIN_TYPES), None)
    if other is not None and spec.kind != "off":
        raise ParameterError(
            f"{info.title} has layers of the type {other}, for which there is only the growing cache; choose that one."
        )
    if spec.kind == "static" and not model._can_set_attn_implementation():
        raise ParameterError(
            f"{info.title} looks up who sees whom by the number of keys it gets, so a cache that hands out its whole "
            "buffer would be wrong without an error; choose another kind."
        )
    if spec.kind == "hybrid" and all(kind == _FULL for kind, _ in types):
        raise ParameterError(
            f"Every layer of {info.title} attends to all positions, so there is nothing to keep by layer type; choose "
            "another kind."
        )
    spec.check_sizes(info.title, info.max_positions)
    if spec.relative and any(kind == _SLIDING for kind, _ in types):
        raise ParameterError(
            f"{info.title} has layers with a window of their own, which counts positions in the text; leave the "
            "positions of the sinks as they are there."
        )
    if spec.relative:
        rotation(model)  # raises with the reason


def check_mode(spec: CacheSpec, mode: str, early_exit: bool, sliding: bool) -> None:
    """Raises `ParameterError` for a kind that cannot give back what a mode takes back."""
    what = "assistant_early_exit" if early_exit else mode
    whole = early_exit and (spec.kind in (*WINDOWED, "off", "hybrid") or (spec.kind == "dynamic" and sliding))
    part = mode == "assisted_generation" and (
        spec.kind == "heavy_hitters" or spec.relative or (spec.kind == "dynamic" and sliding)
    )
    if whole or part:
        raise ParameterError(
            f"{what} feeds positions that it may take back, which a cache of the kind {spec.words()} cannot do; choose "
            "the growing cache or another mode."
        )


def layer_types(model: PreTrainedModel, layers: int) -> list[tuple[str, int | None]]:
    """The type of each layer's attention and its window, as `DynamicCache(config=…)` reads them."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    config = model.config.get_text_config(decoder=True)
    kinds, keywords = get_layer_types_and_kwargs(config)
    if len(kinds) != layers:
        return [(_FULL, None)] * layers
    return [(kind, more.get("sliding_window")) for kind, more in zip(kinds, keywords, strict=True)]


def rotation(model: PreTrainedModel) -> Rotate:
    """Turns keys (B, H_kv, n, D) on by a number of positions (B | 1,), as the model's own rotary embedding would.

    Raises `ParameterError` where positions are not in the keys, or not in a way that can be turned.
    """
    rotary = next((m for name, m in model.named_modules() if name.split(".")[-1] == "rotary_emb"), None)
    frequencies = getattr(rotary, "inv_freq", None)
    if rotary is None or not isinstance(frequencies, torch.Tensor):
        raise ParameterError(
            f"{type(model).__name__} adds positions to the embeddings instead of turning the keys, so that a key "
            "cannot be moved to another position; leave its positions as they are in the text."
        )

    def rotate(keys: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        angles = shift.float()[:, None, None, None] * frequencies.float()  # (B | 1, 1, 1, D / 2)
        both = torch.cat([angles, angles], dim=-1)
        width = both.shape[-1]
        turned, rest = keys[..., :width].float(), keys[..., width:]
        half = torch.cat([-turned[..., width // 2 :], turned[..., : width // 2]], dim=-1)
        return torch.cat([(turned * both.cos() + half * both.sin()).to(keys.dtype), rest], dim=-1)

    if _rotation_error(model, rotary, rotate) > _ROTATION_ERROR:
        raise ParameterError(
            f"{type(model).__name__} turns its keys in a way that cannot be continued afterwards; leave their "
            "positions as they are in the text."
        )
    return rotate


def _rotation_error(model: PreTrainedModel, rotary: nn.Module, rotate: Rotate) -> float:
    """Largest difference between turning on by 7 and the model's own turn to a position 7 further on."""
    attention = next((m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "head_dim")), None)
    apply: Any = None if attention is None else getattr(sys.modules[type(attention).__module__], _APPLY, None)
    if attention is None or apply is None:
        return float("inf")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 1, 1, int(attention.head_dim), generator=generator).to(device)

    def at(position: int) -> torch.Tensor:
        cos, sin = rotary(keys, torch.tensor([[position]], device=device))
        turned: torch.Tensor = apply(keys, keys, cos, sin)[1]
        return turned

    try:
        with torch.inference_mode():
            return float((rotate(at(5), torch.tensor([7], device=device)) - at(12)).abs().max())
    except (TypeError, RuntimeError, IndexError, ValueError):
        return float("inf")


_APPLY = "apply_rotary_pos_emb"
