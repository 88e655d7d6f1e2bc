"""Views of runs whose cache keeps less than was fed: rows that are gone say so, and come back recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.contract import AttentionAnswer, AttentionQuery, CacheSpec, RolloutQuery, ViewUnavailableError
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, eager_attention, open_session, plain, prompt_of, run, twin
from tests.parity.test_cache_kinds import serves, window_mask

PROMPT, NEW, WINDOW, SINKS = 21, 9, 6, 2
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}
FED = PROMPT + NEW - 1


def ask(ours: Ours, layer: int, **kwargs: Any) -> torch.Tensor:
    answer = ours.session.answer(AttentionQuery(1, layer, **kwargs))
    assert isinstance(answer, AttentionAnswer)
    return torch.tensor(answer.weights)


def masked_eager(loaded: LoadedModel, ids: list[int], mask: torch.Tensor) -> list[torch.Tensor]:
    """Attention of one eager pass under a mask, (H, T, T) a layer."""
    whole: Any = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
    with plain(twin(loaded), "eager") as model:
        types = getattr(model.config, "layer_types", None)
        if types and len(set(types)) > 1:
            own = window_mask(len(ids), loaded.info.sliding_window or 0)
            both = torch.zeros(mask.shape).masked_fill(~(mask & own), torch.finfo(torch.float32).min)
            whole = {"full_attention": whole, "sliding_attention": both[None, None]}
        positions = torch.arange(len(ids))[None]
        output = model(
            input_ids=torch.tensor([ids]), attention_mask=whole, position_ids=positions, use_cache=False,
            output_attentions=True,
        )  # fmt: skip
        return [weights[0].float() for weights in output.attentions]


@pytest.mark.parametrize("kind", ["off", "dynamic", "static", "hybrid"])
def test_kinds_that_keep_everything_show_the_models_own_attention(loaded: LoadedModel, kind: Any) -> None:
    if not serves(loaded, kind):
        pytest.skip("refused")
    ours = run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, cache=CacheSpec(kind), prefill_chunk=8)
    for layer, weights in enumerate(eager_attention(loaded, ours.sequences[0][:-1])):
        torch.testing.assert_close(ask(ours, layer, recompute=True), weights, **TOLERANCE)
    if kind == "off":
        with pytest.raises(ViewUnavailableError, match="keeps no keys") as refused:
            ask(ours, 0)
        assert refused.value.can_recompute
    elif kind == "static" or loaded.info.sliding_window is None:
        torch.testing.assert_close(ask(ours, 0), weights if loaded.info.layers == 1 else ask(ours, 0), **TOLERANCE)


def test_a_batch_without_a_cache_says_that_keys_are_gone_and_feeds_them_again(loaded: LoadedModel) -> None:
    prompts = [prompt_of(loaded, PROMPT), prompt_of(loaded, 8, seed=2)]
    ours = run(loaded, prompts, {"max_new_tokens": NEW}, cache=CacheSpec("off"))
    for row, sequence in enumerate(ours.sequences):
        for layer, weights in enumerate(eager_attention(loaded, sequence[:-1])):
            with pytest.raises(ViewUnavailableError, match="keeps no keys") as refused:
                ask(ours, layer, row=row)
            assert refused.value.can_recompute
            torch.testing.assert_close(ask(ours, layer, row=row, recompute=True), weights, **TOLERANCE)
        with pytest.raises(ViewUnavailableError, match="keeps no keys"):
            ours.session.answer(RolloutQuery(1, rows=(0, None), row=row))


@pytest.mark.parametrize("name", ["random_gpt2", "random_llama", "random_qwen2_sliding"])
@pytest.mark.parametrize(
    "spec",
    [CacheSpec("sliding_window", window=WINDOW), CacheSpec("sink", window=WINDOW, sinks=SINKS)],
    ids=lambda s: s.kind,
)
def test_rows_of_the_window_are_shown_and_older_ones_recomputed(
    name: str, spec: CacheSpec, request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    ours = run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, cache=spec, prefill_chunk=8)
    sinks = SINKS if spec.kind == "sink" else 0
    expected = masked_eager(loaded, ours.sequences[0][:-1], window_mask(FED, WINDOW, sinks))
    for layer, weights in enumerate(expected):
        newest = ask(ours, layer, rows=(FED - 1, None))
        torch.testing.assert_close(newest, weights[:, -1:], **TOLERANCE)
        with pytest.raises(ViewUnavailableError, match="have left the cache") as refused:
            ask(ours, layer, rows=(FED - 4, None))
        assert refused.value.can_recompute
        torch.testing.assert_close(ask(ours, layer, recompute=True), weights, **TOLERANCE)
        some = ask(ours, layer, rows=(9, 12), heads=(2, 0), recompute=True)
        torch.testing.assert_close(some, weights[[2, 0], 9:12, :12], **TOLERANCE)
    with pytest.raises(ViewUnavailableError, match="have left the cache"):
        ours.session.answer(RolloutQuery(1, (FED - 1, None)))


def test_batches_keep_the_keys_in_their_records(random_llama: LoadedModel) -> None:
    spec = CacheSpec("sink", window=WINDOW, sinks=SINKS)
    rows = [prompt_of(random_llama, length) for length in (PROMPT, 9)]
    ours = run(random_llama, rows, {"max_new_tokens": NEW}, cache=spec, prefill_chunk=8)
    for row, sequence in enumerate(ours.sequences):
        fed = len(sequence) - 1
        for layer, weights in enumerate(masked_eager(random_llama, sequence[:-1], window_mask(fed, WINDOW, SINKS))):
            torch.testing.assert_close(ask(ours, layer, row=row), weights, **TOLERANCE)


@pytest.mark.parametrize("name", ["random_gpt2", "random_llama"])
def test_of_heavy_hitters_the_newest_step_is_known_and_any_other_alone(
    name: str, request: pytest.FixtureRequest
) -> None:
    """What the loop itself gave each slot in a step, as the difference of the sums, is what the view shows."""
    loaded: LoadedModel = request.getfixturevalue(name)
    spec = CacheSpec("heavy_hitters", window=4, heavy=3)
    session = open_session(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, cache=spec)
    seen: dict[int, list[torch.Tensor]] = {}
    with session.attached():
        while not session.finished:
            session.advance()
            if session.cache.length >= PROMPT:
                seen[session.cache.length - 1] = [_given(session.cache, n) for n in range(loaded.info.layers)]
    group = loaded.info.heads // loaded.info.kv_heads
    ours = Ours(session, [], [], session.result())
    for position, gained in seen.items():
        if position == PROMPT - 1:
            continue  # the sums of a prompt are those of many queries
        for layer in range(loaded.info.layers):
            row = (position, position + 1)
            if position < FED - 1:
                with pytest.raises(ViewUnavailableError, match="recompute this step alone"):
                    ask(ours, layer, rows=row)
            weights = ask(ours, layer, rows=row, recompute=True)[:, 0]  # (H, T)
            torch.testing.assert_close(weights.view(-1, group, weights.shape[1]).sum(1), gained[layer], **TOLERANCE)
            assert int((weights[0] > 0).sum()) <= 3 + 4 + 1
    with pytest.raises(ViewUnavailableError):
        ask(ours, 0)


def _given(cache: Any, layer: int) -> torch.Tensor:
    """(H_kv, length): what each slot got in the newest step."""
    held = cache.layers[layer]
    before = torch.zeros_like(held._sums[0])
    before[:, : held._before.shape[2]] = held._before[0]
    whole = torch.zeros(before.shape[0], held.length)
    return whole.scatter(1, held.slots()[0], held.sums()[0] - before)


def test_cache_relative_steps_are_shown_as_they_were(random_llama: LoadedModel) -> None:
    spec = CacheSpec("sink", window=WINDOW, sinks=SINKS, relative=True)
    prompt = [prompt_of(random_llama, PROMPT)]
    ours = run(random_llama, prompt, {"max_new_tokens": NEW}, cache=spec)
    shorter = run(random_llama, prompt, {"max_new_tokens": NEW - 4}, cache=spec)
    row = (FED - 5, FED - 4)  # the newest one of the shorter run
    with pytest.raises(ViewUnavailableError, match="stood at other places"):
        ask(ours, 1, rows=row)
    again, then = ask(ours, 1, rows=row, recompute=True), ask(shorter, 1, rows=row)
    torch.testing.assert_close(again, then, **TOLERANCE)
    assert int((then[0, 0] > 0).sum()) == SINKS + WINDOW


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_what_is_shown_of_quantised_keys_is_what_ran(random_llama: LoadedModel, kind: Any) -> None:
    """A step's own attention output, made again from the weights shown and the values held, is the one that ran."""
    prompt = [prompt_of(random_llama, PROMPT)]
    session = open_session(random_llama, prompt, {"max_new_tokens": NEW}, cache=CacheSpec(kind))
    outputs: list[torch.Tensor] = []
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _m, args: outputs.append(args[0]))
        for layer in random_llama.module.model.layers
    ]
    try:
        with session.attached():
            while not session.finished:
                outputs.clear()
                session.advance()
    finally:
        for handle in handles:
            handle.remove()
    ours, heads = Ours(session, [], [], session.result()), random_llama.info.heads
    for layer, output in enumerate(outputs):
        weights = ask(ours, layer, rows=(FED - 1, None))[:, 0]  # (H, T)
        values = session.cache.layers[layer].held_values()[0].repeat_interleave(heads // random_llama.info.kv_heads, 0)
        again = (weights[:, None] @ values)[:, 0].reshape(-1)
        torch.testing.assert_close(again, output[0, -1], atol=1e-4, rtol=1e-4)
