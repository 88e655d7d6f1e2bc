"""Families whose layers are not all attention over keys and values, and those that cache otherwise than most."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import core
from core.contract import ModelLoadError, ModelSpec
from core.models.clean import clean_config
from core.models.preview import preview

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 24}
HYBRIDS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "recurrent_gemma": {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 8},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32, "mamba_d_state": 8},
}


def build(folder: Path, family: str, **more: Any) -> Path:
    """A model of random weights, as `save_pretrained` writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**TINY, **more}))
        module.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", HYBRIDS)
def test_models_with_layers_other_than_attention_are_refused_with_the_reason(tmp_path: Path, family: str) -> None:
    folder = build(tmp_path / family, family, **HYBRIDS[family])
    with pytest.raises(ModelLoadError, match="not all layers are attention"):
        preview(ModelSpec(str(folder), "cpu", "fp32"))


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_the_bytes_of_latent_attention_are_those_that_a_run_measures(tmp_path: Path, family: str) -> None:
    folder = build(tmp_path / family, family, **EXPERTS, **LATENT, first_k_dense_replace=1)
    looked_at = preview(ModelSpec(str(folder), "cpu", "fp32"))
    told = next(e.kv_bytes_per_token for e in looked_at.estimates if e.dtype == "fp32")
    params = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": ()}
    result = core.run(str(folder), prompt_ids=[3, 4, 5], params=params, device="cpu", dtype="fp32")
    cache = result.steps[-1].cache
    assert told == 192
    assert cache.used_bytes == told * cache.length


def test_infinities_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    limit = [0.0, {"__float__": "Infinity"}]
    cleaned = clean_config({"model_type": "x", "time_step_limit": limit, "part": {"a": {"__float__": "-Infinity"}}})
    assert cleaned["time_step_limit"] == [0.0, math.inf]
    assert cleaned["part"] == {"a": -math.inf}
    assert clean_config({"a": {"__float__": "import os"}, "b": {"__float__": "NaN", "c": 1}}) == {
        "a": {},
        "b": {"c": 1},
    }
    folder = build(tmp_path / "llama", "llama", spare=[0.5, math.inf])
    assert "__float__" in json.dumps(json.loads((folder / "config.json").read_text()))
    assert preview(ModelSpec(str(folder), "cpu", "fp32")).family == "llama"
