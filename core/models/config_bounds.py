"""Bounds of what a config.json may say, so that a typo or a trap cannot ask for a million layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.contract.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class Bound:
    """Inclusive limits of an integer, under all the names that families give it. Some may be null or a list."""

    names: tuple[str, ...]
    low: int
    high: int
    nullable: bool = False


BOUNDS = (
    Bound(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1, 512),
    Bound(("num_attention_heads", "n_head", "n_heads"), 1, 1024),
    Bound(("num_key_value_heads", "num_kv_heads"), 0, 1024, nullable=True),
    Bound(("head_dim",), 1, 8192, nullable=True),
    Bound(("hidden_size", "n_embd", "d_model"), 1, 65_536),
    Bound(("intermediate_size", "n_inner", "ffn_dim"), 1, 1 << 20, nullable=True),
    Bound(("vocab_size",), 1, 1 << 20),
    Bound(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 1, 1 << 24, nullable=True),
    Bound(("sliding_window",), 1, 1 << 24, nullable=True),
    Bound(("num_experts", "num_local_experts", "n_routed_experts"), 0, 4096, nullable=True),
)
# Architectures that are built from an otherwise known family but do not predict the next token.
NOT_GENERATIVE = {
    "ForMaskedLM": "it predicts masked tokens, not the next one",
    "ForSequenceClassification": "it classifies texts, it does not continue them",
    "ForTokenClassification": "it labels tokens, it does not continue them",
    "ForQuestionAnswering": "it marks answers, it does not continue texts",
}


def check_config(folder: str, config: Mapping[str, Any]) -> None:
    """Refuse a config.json that no causal language model has. Raises `ModelLoadError`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelLoadError(f"“{folder}” does not say what kind of model it is (model_type in its config.json).")
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(
            f"“{folder}” is an encoder-decoder model ({model_type}); choose a decoder-only one, such as GPT-2 or Llama."
        )
    _check_architecture(folder, config.get("architectures"))
    nested = config.get("text_config")
    for part in (config, nested) if isinstance(nested, dict) else (config,):
        for bound in BOUNDS:
            for name in bound.names:
                if name in part:
                    _check_bound(folder, name, part[name], bound)


def _check_architecture(folder: str, architectures: object) -> None:
    for architecture in architectures if isinstance(architectures, list) else ():
        for ending, reason in NOT_GENERATIVE.items():
            if str(architecture).endswith(ending):
                raise ModelLoadError(f"“{folder}” is a {architecture}: {reason}.")


def _check_bound(folder: str, name: str, value: object, bound: Bound) -> None:
    if value is None and bound.nullable:
        return
    for one in value if isinstance(value, list) and value else (value,):
        if not isinstance(one, int) or isinstance(one, bool) or not bound.low <= one <= bound.high:
            raise ModelLoadError(
                f"The config.json of “{folder}” says {name} = {str(value)[:40]}; "
                f"it must be a whole number from {bound.low} to {bound.high}."
            )
