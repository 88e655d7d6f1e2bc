"""What is taken out of a model's JSON files before transformers reads them.

Refused is what changes what the model is; dropped is what could only steer the library: which code attends, which
file is opened, in which precision. Twice in 2026 such a key was enough to run code (CVE-2026-4372, CVE-2026-5241).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from core.contract.errors import ParameterError
from core.contract.params import validate

# Keys that steer the library, and labels, which a language model has none of but which may be a million.
_DROPPED_FROM_CONFIG = frozenset({
    "attn_implementation", "experts_implementation", "dtype", "torch_dtype", "transformers_weights", "fusion_config",
    "distributed_config", "kernel_config", "custom_generate", "custom_pipelines", "base_model_name_or_path",
    "name_or_path", "num_labels", "id2label", "label2id", "task_specific_params", "quantization_config",
    "compression_config", "gguf_file", "auto_map", "output_attentions", "output_hidden_states", "return_dict",
    "use_return_dict", "torchscript",
})  # fmt: skip
_DROPPED_FROM_TOKENIZER = frozenset({
    "init_inputs", "name_or_path", "processor_class", "is_local", "local_files_only", "trust_remote_code",
    "tokenizer_object", "gguf_file", "vocab_files_names", "auto_map",
})  # fmt: skip
# How transformers writes what JSON has no number for.
_SPECIAL_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_GENERATION_COUNTS = {"num_beams": 16, "num_beam_groups": 16, "num_return_sequences": 64}
_MOST_IN_GENERATION = 1 << 31
_MOST_ITEMS = 10_000
_WATERMARK = "watermarking_config"
_LAST = "num_return_sequences"  # whether it is right depends on num_beams and do_sample


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without keys that steer the library, in its parts, too."""
    return {
        key: _clean_part(value)
        for key, value in config.items()
        if not key.startswith("_") and key not in _DROPPED_FROM_CONFIG
    }


def _clean_part(value: Any) -> Any:
    if isinstance(value, dict):
        number = _SPECIAL_FLOATS.get(str(value.get("__float__"))) if len(value) == 1 else None
        return clean_config(value) if number is None else number
    return [_clean_part(item) for item in value] if isinstance(value, list) else value


def clean_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json without paths: the files of the folder are found by their names."""
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and not key.endswith(("_file", "_files")) and key not in _DROPPED_FROM_TOKENIZER
    }


def clean_generation_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A generation_config.json of plain numbers and ids, and a sentence for each value that was left out."""
    from_model = config.get("_from_model_config")  # says that it was not written by hand
    kept: dict[str, Any] = {"_from_model_config": True} if from_model is True else {}
    notices = []
    for key, value in config.items():
        if key.startswith("_") or value is None:
            continue
        problem = _problem(key, value)
        if problem is None:
            kept[key] = value
        elif problem:
            notices.append(_ignored(key, value, problem))
    accepted = _accepted(kept)
    notices += [_ignored(key, kept[key], "which cannot be used") for key in kept if key not in accepted]
    return accepted, tuple(notices)


def _ignored(key: str, value: object, problem: str) -> str:
    return f"The generation config says {key[:40]} = {str(value)[:40]}, {problem}; it is ignored."


def _accepted(config: dict[str, Any]) -> dict[str, Any]:
    """Without the values that transformers refuses, of which a single one would refuse the whole model."""
    if _is_accepted(config):
        return config
    accepted: dict[str, Any] = {}
    for key in sorted(config, key=lambda name: name == _LAST):
        if _is_accepted({**accepted, key: config[key]}):
            accepted[key] = config[key]
    return {key: accepted[key] for key in config if key in accepted}


def _is_accepted(config: dict[str, Any]) -> bool:
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_dict(dict(config))
    except Exception:  # its checks compare and iterate whatever they are given
        return False
    return True


def _problem(key: str, value: object) -> str | None:
    """Why a value is left out; empty where there is nothing to say about it."""
    if isinstance(value, Mapping):
        if key != _WATERMARK:
            return ""  # settings of caches and compilers, which the engine does not have
        try:
            validate({key: value})
        except ParameterError:
            return "which cannot be used"
        return None
    if isinstance(value, list):
        short = len(value) <= _MOST_ITEMS
        return None if short and all(_problem("", item) is None for item in value) else "which is no list of ids"
    if isinstance(value, float) and not math.isfinite(value):
        return "which is no finite number"
    if isinstance(value, int) and not isinstance(value, bool):
        most = _GENERATION_COUNTS.get(key)
        if most is not None and not 1 <= value <= most:
            return f"which is not between 1 and {most}"
        if abs(value) > _MOST_IN_GENERATION:
            return "which is too large"
    return None
