"""The numbers of a loaded model: from its config, its weights and its generation_config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from core.contract.errors import ModelLoadError, ParameterError
from core.contract.events import ModelInfo
from core.contract.params import PARAMETERS, GenerationParams
from core.contract.specs import ModelSpec
from core.domains.domain import Domain
from core.models.placement import DTYPE_NAMES

_POSITIONS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes that decide the KV cache."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    max_positions: int
    sliding_window: int | None
    latent: int | None = None  # multi-head latent attention caches this many numbers a layer, for all heads together

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """K and V of one position in all layers: 2 · layers · key/value heads · head dim · element size.

        With latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1) it is the compressed vector
        and the shared rotary key: layers · (kv_lora_rank + qk_rope_head_dim) · element size.
        """
        values = 2 * self.kv_heads * self.head_dim if self.latent is None else self.latent
        return self.layers * values * dtype.itemsize


def dimensions(config: Any) -> Dimensions:
    """Read them under the names each family uses. Raises `ModelLoadError`."""
    heads = _required(config, ("num_attention_heads",), "attention heads")
    hidden_size = _required(config, ("hidden_size",), "hidden units")
    return Dimensions(
        layers=_required(config, ("num_hidden_layers",), "layers"),
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_dim=_first(config, ("head_dim",)) or hidden_size // heads,
        hidden_size=hidden_size,
        max_positions=_required(config, _POSITIONS, "positions"),
        sliding_window=_sliding_window(config),
        latent=_latent(config),
    )


def model_info(
    *, model_id: int, spec: ModelSpec, title: str, module: PreTrainedModel, text: Domain, load_ms: float
) -> ModelInfo:
    """Everything the contract wants to know of a model; `views` stays empty, `revision` too."""
    config = module.config.get_text_config()
    size = dimensions(config)
    image = text.image
    defaults, chosen, notices = generation_defaults(module.generation_config, int(config.vocab_size))
    if image is not None and not {"max_new_tokens", "max_length"} & chosen:
        defaults = defaults.replace({"max_new_tokens": image.pixels})  # a whole picture
    parameters, weight_bytes = count_weights(module)
    return ModelInfo(
        model_id=model_id,
        spec=spec,
        title=title,
        family=str(module.config.model_type),
        device=str(module.device),
        dtype=DTYPE_NAMES.get(module.dtype, str(module.dtype).removeprefix("torch.")),
        parameters=parameters,
        weight_bytes=weight_bytes,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        hidden_size=size.hidden_size,
        vocab_size=int(config.vocab_size),
        max_positions=size.max_positions if image is None else min(size.max_positions, image.pixels),
        sliding_window=size.sliding_window,
        kv_bytes_per_token=size.kv_bytes_per_token(module.dtype),
        bos_token_id=_bos(module, text, int(config.vocab_size)),
        eos_token_ids=defaults.eos_token_id,
        has_chat_template=text.has_chat_template,
        defaults=defaults,
        from_generation_config=chosen,
        views=(),
        load_ms=load_ms,
        notices=notices,
        image=image,
        layer_windows=layer_windows(config, size),
    )


def count_weights(module: PreTrainedModel) -> tuple[int, int]:
    """Number of parameters and the bytes of their storages; tied weights count once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}
    return sum(p.numel() for p in module.parameters()), sum(storages.values())


def generation_defaults(config: Any, vocab_size: int) -> tuple[GenerationParams, frozenset[str], tuple[str, ...]]:
    """The model's own defaults, the names it sets, and a sentence for each value that cannot be used."""
    defaults, chosen, notices = GenerationParams(), set(), []
    for name in PARAMETERS:
        value = getattr(config, name, None)
        if value is None:
            continue
        if name == "eos_token_id":
            ids = value if isinstance(value, list | tuple) else [value]
            value = [n for n in ids if isinstance(n, int) and 0 <= n < vocab_size]
        elif name == "watermarking_config":
            value = value.to_dict()
        try:
            defaults = defaults.replace({name: value})
        except ParameterError:
            notices.append(
                f"The generation config says {name} = {str(value)[:40]}, which cannot be used; it is ignored."
            )
            continue
        chosen.add(name)
    return defaults, frozenset(chosen), tuple(notices)


def _kv_heads(config: Any, heads: int) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1  # Falcon-7B, GPT-BigCode
    return _first(config, ("num_key_value_heads", "num_kv_heads")) or heads


def _latent(config: Any) -> int | None:
    rank, rotary = _first(config, ("kv_lora_rank",)), _first(config, ("qk_rope_head_dim",))
    return None if not rank or rotary is None else rank + rotary


def _sliding_window(config: Any) -> int | None:
    """None where no layer slides: families keep the number in the config even when it is switched off."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds and not any("sliding" in str(kind) for kind in kinds):
        return None
    return _first(config, ("sliding_window",))


def layer_windows(config: Any, size: Dimensions) -> tuple[int | None, ...]:
    """The window of each layer, None where it attends to everything; empty where none slides."""
    if size.sliding_window is None:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * size.layers
    return tuple(size.sliding_window if "sliding" in str(kind) else None for kind in kinds)


def _bos(module: PreTrainedModel, text: Domain, vocab_size: int) -> int | None:
    if text.image is not None:
        return text.image.sos_token_id
    for holder in (module.generation_config, module.config, text.tokenizer):
        value = getattr(holder, "bos_token_id", None)
        if isinstance(value, int) and 0 <= value < vocab_size:
            return value
    return None


def _required(config: Any, names: tuple[str, ...], what: str) -> int:
    value = _first(config, names)
    if not value:
        raise ModelLoadError(
            f"This {config.model_type} model does not say how many {what} it has, so it has no KV cache to look at."
        )
    return value


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
