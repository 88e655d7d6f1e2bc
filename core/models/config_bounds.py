"""Bounds of what a config.json may say, so that a typo or a trap cannot ask for a million layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


LAYERS = Bound(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1, 512)
EXPERTS = Bound(("num_experts", "num_local_experts", "n_routed_experts"), 0, 4096, nullable=True)
BOUNDS = (
    LAYERS,
    Bound(("num_attention_heads", "n_head", "n_heads"), 1, 1024),
    Bound(("num_key_value_heads", "num_kv_heads"), 0, 1024, nullable=True),
    Bound(("head_dim",), 1, 8192, nullable=True),
    Bound(("hidden_size", "n_embd", "d_model"), 1, 65_536),
    Bound(("intermediate_size", "n_inner", "ffn_dim"), 1, 1 << 20, nullable=True),
    Bound(("vocab_size",), 1, 1 << 20),
    Bound(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 1, 1 << 24, nullable=True),
    Bound(("sliding_window",), 1, 1 << 24, nullable=True),
    EXPERTS,
)
# Each is a module of its own in some families; the largest public model has 23,424.
MOST_EXPERTS_IN_ALL = 32_768
# Any other number may become the length of a loop or a list. The largest default in transformers is 20 million.
MOST = 1 << 25
_LARGE = ("theta", "base")  # parts of the names of frequencies, which are no lengths
# Architectures that are built from an otherwise known family but do not predict the next token.
NOT_GENERATIVE = {
    "ForMaskedLM": "it predicts masked tokens, not the next one",
    "ForSequenceClassification": "it classifies texts, it does not continue them",
    "ForTokenClassification": "it labels tokens, it does not continue them",
    "ForQuestionAnswering": "it marks answers, it does not continue texts",
    "ForMultipleChoice": "it chooses between answers, it does not continue texts",
    "ForImageClassification": "it classifies pictures, it does not continue them",
    "DoubleHeadsModel": "it has two heads; save its language model alone",
}


def check_config(folder: str, config: Mapping[str, Any]) -> None:
    """Refuse a config.json that no causal language model has. Raises `ModelLoadError`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelLoadError(f"“{folder}” does not say what kind of model it is (model_type in its config.json).")
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(
            f"“{folder}” is an encoder-decoder model ({model_type[:40]}); choose a decoder-only one, such as GPT-2 or "
            "Llama."
        )
    _check_architecture(folder, config.get("architectures"))
    for part in _objects(config):
        _refuse_quantised(folder, part)
        for name, value in part.items():
            _check_length(folder, name, value)
        for bound in BOUNDS:
            for name in bound.names:
                if name in part:
                    _check_bound(folder, name, part[name], bound)
        layers, experts = (_largest(part, bound) for bound in (LAYERS, EXPERTS))
        if layers * experts > MOST_EXPERTS_IN_ALL:
            raise ModelLoadError(
                f"The config.json of “{folder}” says {layers} layers of {experts} experts; "
                f"{MOST_EXPERTS_IN_ALL:,} in all is the most."
            )


def _objects(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config and every object inside it: configs of its parts look the same."""
    level: list[Any] = [config]
    while level:
        item = level.pop()
        if isinstance(item, Mapping):
            yield item
            level.extend(item.values())
        elif isinstance(item, list):
            level.extend(item)


def _check_architecture(folder: str, architectures: object) -> None:
    for architecture in architectures if isinstance(architectures, list) else ():
        for ending, reason in NOT_GENERATIVE.items():
            if str(architecture).endswith(ending):
                raise ModelLoadError(f"“{folder}” is a {str(architecture)[:60]}: {reason}.")


def _refuse_quantised(folder: str, part: Mapping[str, Any]) -> None:
    for name in ("quantization_config", "compression_config"):
        if part.get(name):
            settings = part[name]
            method = settings.get("quant_method") if isinstance(settings, Mapping) else None
            how = f" with {str(method)[:30]}" if method else ""
            raise ModelLoadError(
                f"“{folder}” is quantised{how} ({name} in its config.json), which Tokenglass does not load; "
                "choose the model in bf16, fp16 or fp32."
            )


def _check_length(folder: str, name: str, value: object) -> None:
    """Also inside lists: GPT-Neo, for one, repeats each item of `attention_types` as often as it says."""
    if any(part in name for part in _LARGE):
        return
    numbers, level = 0, [value]
    while level:
        item = level.pop()
        if isinstance(item, list):
            level.extend(item)
        elif isinstance(item, int) and not isinstance(item, bool):
            numbers += abs(item) if name == "attention_types" else 0
            if abs(item) > MOST or numbers > LAYERS.high:
                raise ModelLoadError(
                    f"The config.json of “{folder}” says {name[:40]} = {str(item)[:40]}, too large a number there."
                )


def _check_bound(folder: str, name: str, value: object, bound: Bound) -> None:
    if value is None and bound.nullable:
        return
    for one in value if isinstance(value, list) and value else (value,):
        if not isinstance(one, int) or isinstance(one, bool) or not bound.low <= one <= bound.high:
            raise ModelLoadError(
                f"The config.json of “{folder}” says {name} = {str(value)[:40]}; "
                f"it must be a whole number from {bound.low} to {bound.high}."
            )


def _largest(part: Mapping[str, Any], bound: Bound) -> int:
    values = [part.get(name) for name in bound.names]
    flat = [n for value in values for n in (value if isinstance(value, list) else [value])]
    return max((n for n in flat if isinstance(n, int)), default=0)
