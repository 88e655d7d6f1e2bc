"""The formula of models whose cache is not 2 × kv_heads × head_dim numbers a layer, or not as wide as d_model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from core.api import load_model
from core.cli_cache import _shape
from core.contract import CACHE_KINDS, CacheShape, CacheSpec, ParameterError, differences, plain_bytes, predict
from core.models.loaded import LoadedModel
from tests.parity.reference import prompt_of, run

SMALL = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LATENT = {
    **SMALL, "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "first_k_dense_replace": 99, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_shared_experts": 1, "head_dim": 8,
}  # fmt: skip
NEW = 6


def made(folder: Path, family: str, **values: object) -> LoadedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_model(str(folder), "cpu", "fp32")


def test_latent_attention_is_predicted_and_measured_alike(tmp_path: Path) -> None:
    loaded = made(tmp_path / "latent", "deepseek_v2", **LATENT)
    shape = CacheShape.of(loaded.info)
    assert shape.latent == 16 + 8
    assert shape.plain_width is None
    assert _shape(str(tmp_path / "latent"))[0].latent == 24
    for kind in CACHE_KINDS:
        spec = CacheSpec(kind, window=5, sinks=2, heavy=3)
        try:
            report = run(loaded, [prompt_of(loaded, 12)], {"max_new_tokens": NEW}, cache=spec).steps[-1].cache
        except ParameterError:
            continue
        told = predict(shape, spec, "fp32", 1, 12 + NEW - 1)
        assert (told.used_bytes, told.scale_bytes) == (report.used_bytes, report.scales_bytes), spec
        named = differences(shape, "fp32", report)
        assert plain_bytes(shape, "fp32", report) + sum(d.bytes for d in named) == report.used_bytes
        assert "not explained" not in [d.name for d in named]
    product = 1
    for factor in shape.factors(3, 10, 4):
        product *= factor
    assert product == predict(shape, CacheSpec(), "fp32", 3, 10).used_bytes == 3 * 10 * 3 * 24 * 4


@pytest.mark.parametrize(("width", "plain"), [(16, 64), (32, None)])
def test_d_model_is_named_only_where_the_heads_are_as_wide(tmp_path: Path, width: int, plain: int | None) -> None:
    loaded = made(tmp_path / "plain", "llama", **SMALL, head_dim=width)
    assert CacheShape.of(loaded.info).plain_width == plain
    assert _shape(str(tmp_path / "plain"))[0].plain_width == plain


def test_sinks_of_layers_that_slide_themselves_are_not_moved(tmp_path: Path) -> None:
    loaded = made(
        tmp_path / "gemma", "gemma3_text", **SMALL, head_dim=16, sliding_window=8, sliding_window_pattern=2,
        query_pre_attn_scalar=16,
    )  # fmt: skip
    with pytest.raises(ParameterError, match="layers with a window of their own"):
        run(loaded, [prompt_of(loaded, 5)], cache=CacheSpec("sink", window=4, relative=True))
