"""A model without weights: its class, its parameters and what they take, known before a byte of them is read."""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from core.contract.errors import ModelLoadError
from core.domains.sandboxed import one_line
from core.models.facts import Dimensions, dimensions
from core.models.units import byte_count
from core.models.weight_files import StoredWeights

# A causal model that transformers does not list among the causal language models: its tokens are colours.
_IMAGE_MODELS = {"imagegpt": "ImageGPTForCausalImageModeling"}
_OTHER_LAYERS = frozenset({"conv", "linear_attention", "hybrid", "hybrid_sliding", "moe", "mamba", "recurrent"})
# Beyond that, time and memory would go into random numbers before missing weights are refused by name.
_MORE_THAN_STORED = 2
_SPARE_BUFFER_BYTES = 256 << 20  # masks and position tables; more only in proportion to the weights


@dataclass(frozen=True)
class Blueprint:
    """A model as its config describes it. `shapes`: elements of each parameter by name, tied ones once.

    config: whatever it is passed to may change it, so pass a copy.
    """

    config: PretrainedConfig
    kind: type[PreTrainedModel]
    size: Dimensions
    elements: Mapping[str, int]
    buffer_bytes: int
    embedding_rows: int

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(self.elements.values())

    @property
    def paints(self) -> bool:
        """Whether its tokens are pixels."""
        return self.config.model_type in _IMAGE_MODELS

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the parameters; some families keep a few of them in fp32, as transformers does."""
        strict = getattr(self.kind, "_keep_in_fp32_modules_strict", None) or ()
        kept = re.compile("|".join(strict)) if strict and dtype != torch.float32 else None
        wide = sum(n for name, n in self.elements.items() if kept is not None and kept.search(name))
        return (self.parameters - wide) * dtype.itemsize + wide * torch.float32.itemsize


def draw_up(name: str, config: Mapping[str, Any]) -> Blueprint:
    """Build the model that a cleaned config.json describes on the meta device. Raises `ModelLoadError`.

    name: of the model, for the sentence. Takes about 10 ms for 30 layers.
    """
    try:
        kind, made = _model_class(name, config)
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            module = kind(made)
    except ModelLoadError:
        raise
    except Exception as error:  # each family has its own idea of how to refuse a config
        raise ModelLoadError(
            f"The config.json of “{name}” does not describe a {str(config['model_type'])[:40]} model: "
            f"{one_line(error)}.",
            detail=traceback.format_exc(),
        ) from None
    embeddings = module.get_input_embeddings()
    rows = getattr(getattr(embeddings, "weight", None), "shape", (0,))[0]
    return Blueprint(
        config=made,
        kind=kind,
        size=dimensions(made.get_text_config()),
        elements={key: parameter.numel() for key, parameter in module.named_parameters()},
        buffer_bytes=sum(buffer.nbytes for buffer in module.buffers()),
        embedding_rows=int(rows),
    )


def check_stored(name: str, blueprint: Blueprint, stored: StoredWeights) -> None:
    """Refuse a config that asks for far more than the files hold: the rest would be random. Raises `ModelLoadError`."""
    if blueprint.parameters > stored.elements * _MORE_THAN_STORED + 1024:
        raise ModelLoadError(
            f"The config.json of “{name}” describes {blueprint.parameters:,} parameters, its weight files hold "
            f"{stored.elements:,}; they do not belong together."
        )
    if blueprint.buffer_bytes > _SPARE_BUFFER_BYTES + stored.data_bytes:
        raise ModelLoadError(
            f"The config.json of “{name}” asks for {byte_count(blueprint.buffer_bytes)} of masks and position tables, "
            f"and the weights take only {byte_count(stored.data_bytes)}; choose fewer positions."
        )


def check_memory(name: str, needed_bytes: int, available_bytes: int) -> None:
    """Refuse what does not fit; the kernel would end the whole program instead. Raises `ModelLoadError`."""
    if needed_bytes > available_bytes:
        raise ModelLoadError(
            f"“{name}” needs {byte_count(needed_bytes)} for its weights and {byte_count(available_bytes)} are free; "
            "close something, or choose bf16 or a smaller model."
        )


def _model_class(name: str, config: Mapping[str, Any]) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    family = str(config["model_type"])
    shown = family[:40]
    if family not in CONFIG_MAPPING_NAMES:
        raise ModelLoadError(
            f"“{name}” is a {shown} model, a family that transformers {transformers.__version__} "
            "does not know; a newer transformers may."
        )
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in _IMAGE_MODELS:
        if getattr(CONFIG_MAPPING[family], "is_encoder_decoder", False):
            raise ModelLoadError(_two_parts(name, shown))
        raise ModelLoadError(f"“{name}” is a {shown} model, which does not generate text token by token.")
    made = CONFIG_MAPPING[family].from_dict(dict(config))
    if made.is_encoder_decoder:
        raise ModelLoadError(_two_parts(name, shown))
    if family in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(made, "is_decoder", True) is False:
        raise ModelLoadError(
            f"“{name}” is a {shown} model that reads in both directions (is_decoder is off); "
            "choose one that predicts the next token, such as GPT-2 or Llama."
        )
    if family in _IMAGE_MODELS:
        kind: Any = getattr(transformers, _IMAGE_MODELS[family])
    else:
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(made)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    if "past_key_values" not in inspect.signature(kind.forward).parameters:
        raise ModelLoadError(f"“{name}” ({shown}) keeps no KV cache; choose GPT-2, Llama or one of their relatives.")
    other = _other_layers(kind, made.get_text_config())
    if other:
        raise ModelLoadError(
            f"“{name}” is a {shown} model, in which not all layers are attention: {other}. Their state cannot be taken "
            "back to an earlier token or looked into; choose GPT-2, Llama or one of their relatives."
        )
    return kind, made


def _two_parts(name: str, family: str) -> str:
    return f"“{name}” is an encoder-decoder model ({family}); choose a decoder-only one, such as GPT-2 or Llama."


def _other_layers(kind: Any, config: Any) -> str:
    """What else than attention over a KV cache there is; empty where there is nothing else."""
    kinds = [str(one) for one in getattr(config, "layer_types", None) or ()]
    others = sorted({one for one in kinds if one in _OTHER_LAYERS})
    if others:
        count = sum(one in _OTHER_LAYERS for one in kinds)
        return f"{count} of {len(kinds)} are {' and '.join(others).replace('_', ' ')}"
    return "some carry a recurrent state" if getattr(kind, "_is_stateful", False) else ""
