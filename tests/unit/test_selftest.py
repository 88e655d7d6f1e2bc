"""The self-test at load: passes on honest models, switches views off where derived values would lie."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.contract import AttentionQuery, DistributionQuery, Prompt, RunSpec, ViewUnavailableError
from core.decode.selftest import qualify
from core.decode.session import Session
from core.models import attention
from core.models.loaded import LoadedModel


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
