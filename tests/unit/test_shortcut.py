"""Passes that go shortcuts give the model's own numbers, meet every hook, and leave the modules as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config

from core.models.shortcut import Shortcuts

_SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "llama": lambda: LlamaConfig(**_LLAMA),
    "qwen2": lambda: Qwen2Config(**_LLAMA),
}
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[request.param]())
    return made.eval()


def _namespaces(model: PreTrainedModel) -> list[dict[str, Any]]:
    return [dict(vars(module)) for module in model.modules()]


@torch.inference_mode()
def test_same_numbers_and_nothing_left(model: PreTrainedModel) -> None:
    plain, before = model(IDS).logits, _namespaces(model)
    with Shortcuts(model).taken():
        assert _namespaces(model) != before
        quick = model(IDS).logits
    torch.testing.assert_close(quick, plain, rtol=0, atol=0 if model.config.model_type != "gpt2" else 1e-6)
    assert _namespaces(model) == before


@torch.inference_mode()
def test_narrow_numbers_are_the_same_to_the_bit(model: PreTrainedModel) -> None:
    model.to(torch.bfloat16)
    plain = model(IDS).logits
    with Shortcuts(model).taken():
        assert torch.equal(model(IDS).logits, plain)


@torch.inference_mode()
def test_hooks_of_every_module_fire_as_often_as_ever(model: PreTrainedModel) -> None:
    shortcuts, met = Shortcuts(model), list[str]()
    names = {module: name for name, module in model.named_modules()}
    hooks = [m.register_forward_hook(lambda module, args, out: met.append(names[module])) for m in model.modules()]
    model(IDS)
    plain, met[:] = list(met), []
    with shortcuts.taken():
        model(IDS)
    assert met == plain
    for hook in hooks:
        hook.remove()


@torch.inference_mode()
def test_a_hook_may_change_what_one_module_gives(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    with Shortcuts(model).taken():
        assert not model(IDS).logits.any()
    hook.remove()


@torch.inference_mode()
def test_nothing_is_left_after_a_failure(model: PreTrainedModel) -> None:
    before = _namespaces(model)
    with pytest.raises(RuntimeError, match="broken off"), Shortcuts(model).taken():
        raise RuntimeError("broken off")
    assert _namespaces(model) == before


@torch.inference_mode()
def test_a_dropout_in_training_drops(model: PreTrainedModel) -> None:
    if model.config.model_type != "gpt2":
        pytest.skip("only GPT-2 has dropout layers here")
    model.train()
    model.set_attn_implementation("eager")
    with Shortcuts(model).taken():
        assert not torch.equal(model(IDS).logits, model(IDS).logits)
