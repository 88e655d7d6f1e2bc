"""The self-test at load: passes on honest models, switches views off where derived values would lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from core.api import load_model
from core.contract import (
    AttentionQuery,
    DistributionQuery,
    LensAnswer,
    LensQuery,
    Prompt,
    RunSpec,
    ViewUnavailableError,
)
from core.decode.selftest import qualify
from core.decode.session import Session
from core.models import attention
from core.models.loaded import LoadedModel
from tests.parity.reference import plain, twin


def finished(loaded: LoadedModel) -> Session:
    session = Session(loaded, RunSpec(prompts=(Prompt(ids=(1, 2, 3, 4)),), params={"max_new_tokens": 2}))
    with session.attached():
        while not session.finished:
            session.advance()
    return session


@pytest.mark.parametrize("name", ["tiny_gpt2", "random_gpt2", "random_llama", "random_qwen2", "random_qwen2_sliding"])
def test_views_of_honest_models_pass_with_their_error_told(name: str, request: pytest.FixtureRequest) -> None:
    views = qualify(request.getfixturevalue(name)).info.views
    assert [(view.view, view.available) for view in views] == [("attention", True), ("distribution", True)]
    assert all(view.max_error is not None and view.max_error <= 1e-4 for view in views)


def test_no_hook_is_left_and_the_attention_is_ours_again(random_llama: LoadedModel) -> None:
    qualify(random_llama)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in random_llama.module.modules())
    assert random_llama.module.config._attn_implementation == attention.NAME


def test_a_wrong_derivation_switches_the_attention_view_off(
    random_gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.decode import selftest

    honest = selftest.attention_weights
    monkeypatch.setattr(selftest, "attention_weights", lambda *args: honest(*args).flip(-1))
    loaded = qualify(random_gpt2)
    status = {view.view: view for view in loaded.info.views}
    assert not status["attention"].available
    assert "differ" in status["attention"].reason
    assert status["distribution"].available
    session = finished(loaded)
    with pytest.raises(ViewUnavailableError, match="differ"):
        session.answer(AttentionQuery(0, 0))
    assert session.answer(DistributionQuery(0, 0)).token_ids.size


def test_a_read_out_that_adds_something_unknown_is_found(random_gpt2: LoadedModel) -> None:
    handle = random_gpt2.module.lm_head.register_forward_hook(
        lambda module, args, output: output if args[0].dim() == 1 else output + torch.arange(output.shape[-1])
    )
    try:
        views = qualify(random_gpt2).info.views
    finally:
        handle.remove()
    assert [view.available for view in views] == [True, False]


def test_a_model_that_fails_the_probe_is_still_usable_without_views(random_gpt2: LoadedModel) -> None:
    broken = dataclasses.replace(random_gpt2, info=dataclasses.replace(random_gpt2.info, layers=99))
    views = qualify(broken).info.views
    assert not views[1].available
    assert "self-test" in views[1].reason


@pytest.mark.parametrize("normed", [True, False])
def test_a_decoder_inside_the_model_and_one_without_final_norm_are_read(tmp_path: Path, normed: bool) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48}
    torch.manual_seed(1)
    more = {"word_embed_proj_dim": 32, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    config = OPTConfig(**sizes, **more, pad_token_id=0, do_layer_norm_before=normed)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu", dtype="fp32")
    assert [(view.view, view.available) for view in loaded.info.views] == [("attention", True), ("distribution", True)]
    session = finished(loaded)
    answer = session.answer(LensQuery(0, (0, 4)))
    assert isinstance(answer, LensAnswer)
    with plain(twin(loaded)) as model:
        logits = model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits[0]
    assert answer.token_ids[:, -1, 0].tolist() == logits.argmax(-1).tolist()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.module.modules())
