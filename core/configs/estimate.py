"""What a configuration adds up to, from its numbers alone: no model is built, however large the numbers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from core.contract.configs import ConfigEstimate, ConfigPart
from core.contract.preview import DtypeEstimate
from core.models.blueprint import Blueprint
from core.models.facts import dimensions
from core.models.placement import DTYPE_NAMES, DTYPES, available_bytes, choose_dtype

# Parts of parameter names, looked for in this order: a norm inside an attention module is a norm.
_NAMED = (
    ("norms", ("norm", "ln_", ".ln")),
    ("attention", ("attn", "attention")),
    ("MLP", ("mlp", "feed_forward", "ffn", "experts", "fc_in", "fc_out")),
    ("head", ("lm_head", "embed_out", "output_projection")),
    ("embeddings", ("embed", "wte", "wpe")),
)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """matmul: elements of the weights that every token is multiplied by."""

    parts: tuple[ConfigPart, ...]
    matmul: int
    buffer_bytes: int = 0


def estimate(config: Any, device: torch.device, blueprint: Blueprint | None = None) -> ConfigEstimate:
    """Parameters by part, bytes, FLOPs. Other families than GPT-2, ImageGPT, Llama and Qwen2 need their `blueprint`."""
    sizes = _gpt(config) if config.model_type in ("gpt2", "imagegpt") else None
    sizes = _rotary(config) if config.model_type in ("llama", "qwen2") else sizes
    if sizes is None and blueprint is None:
        raise ValueError(f"no formula for {config.model_type}")
    parts = sizes.parts if sizes is not None else count_parts(blueprint) if blueprint is not None else ()
    size = dimensions(config.get_text_config())
    parameters = sum(part.parameters for part in parts)
    return ConfigEstimate(
        parts=parts,
        dtypes=tuple(
            DtypeEstimate(name, parameters * dtype.itemsize, size.kv_bytes_per_token(dtype))
            for name, dtype in DTYPES.items()
        ),
        max_positions=size.max_positions,
        device=str(device),
        dtype=DTYPE_NAMES[choose_dtype("auto", device, parameters)],
        available_bytes=available_bytes(device),
        flops_per_token=None if sizes is None else 2 * sizes.matmul,
        flops_per_position=None if sizes is None else 4 * size.layers * size.heads * size.head_dim,
        buffer_bytes=0 if sizes is None else sizes.buffer_bytes,
    )


def count_parts(blueprint: Blueprint) -> tuple[ConfigPart, ...]:
    """Parameters of any family by the names of its modules, tied ones where they come first."""
    counts: dict[str, int] = {}
    for name, elements in blueprint.elements.items():
        part = next((part for part, marks in _NAMED if any(mark in name for mark in marks)), "other")
        counts[part] = counts.get(part, 0) + elements
    order = ("embeddings", "attention", "MLP", "norms", "head", "other")
    return tuple(ConfigPart(part, counts[part]) for part in order if part in counts)


def _gpt(config: Any) -> _Sizes:
    """GPT-2 (Radford et al. 2019), and ImageGPT (Chen et al. 2020), whose norms have no bias.

    ImageGPT's head predicts no start token: one row less, unless it is tied to the embedding.
    """
    vocabulary, positions = config.vocab_size, config.n_positions
    layers, width = config.n_layer, config.n_embd
    inner = config.n_inner if config.n_inner is not None else 4 * width
    image = config.model_type == "imagegpt"
    tied = config.tie_word_embeddings
    rows = vocabulary - 1 if image and not tied else vocabulary
    attention, mlp = width * 3 * width + width * width, 2 * width * inner
    norms = 2 * layers + 1
    gains = "" if image else " × 2"
    parts = (
        ConfigPart("embeddings", (vocabulary + positions) * width, f"({vocabulary:,} + {positions:,}) × {width:,}"),
        ConfigPart(
            "attention",
            layers * (attention + 4 * width),
            f"{layers} × ({width:,} × {3 * width:,} + {width:,} × {width:,} + {4 * width:,})",
        ),
        ConfigPart(
            "MLP", layers * (mlp + inner + width), f"{layers} × (2 × {width:,} × {inner:,} + {inner + width:,})"
        ),
        ConfigPart("norms", norms * width * (1 if image else 2), f"{norms} × {width:,}{gains}"),
        _head(rows, width, tied),
    )
    masks = layers * positions * positions if image else 0  # of bools
    return _Sizes(parts, layers * (attention + mlp) + rows * width, masks)


def _rotary(config: Any) -> _Sizes:
    """Llama (Touvron et al. 2023): gated MLP, grouped keys and values. Qwen2 adds biases to queries, keys, values."""
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or width // heads
    queries, keys = heads * head_dim, groups * head_dim
    attention, mlp = 2 * width * queries + 2 * width * keys, 3 * width * inner
    qwen = config.model_type == "qwen2"
    attention_bias = queries + 2 * keys if qwen else (queries + 2 * keys + width if config.attention_bias else 0)
    mlp_bias = 0 if qwen or not config.mlp_bias else 2 * inner + width
    norms = 2 * layers + 1
    parts = (
        ConfigPart("embeddings", config.vocab_size * width, f"{config.vocab_size:,} × {width:,}"),
        ConfigPart(
            "attention",
            layers * (attention + attention_bias),
            f"{layers} × (2 × {width:,} × {queries:,} + 2 × {width:,} × {keys:,}{_plus(attention_bias)})",
        ),
        ConfigPart("MLP", layers * (mlp + mlp_bias), f"{layers} × (3 × {width:,} × {inner:,}{_plus(mlp_bias)})"),
        ConfigPart("norms", norms * width, f"{norms} × {width:,}"),
        _head(config.vocab_size, width, config.tie_word_embeddings),
    )
    return _Sizes(parts, layers * (attention + mlp) + config.vocab_size * width)


def _head(rows: int, width: int, tied: bool) -> ConfigPart:
    return (
        ConfigPart("head", 0, "tied to the embedding")
        if tied
        else ConfigPart("head", rows * width, f"{rows:,} × {width:,}")
    )


def _plus(bias: int) -> str:
    return f" + {bias:,}" if bias else ""
