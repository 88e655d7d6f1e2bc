"""Interventions on every kind of cache: as that kind on a changed model, or under both masks, or by the oracles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

from core.contract import CacheSpec, MutePositions, ParameterError, ScaleHeads, SkipPart, Steer
from core.models.block import find_parts
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, plain, prompt_of, run
from tests.parity.test_cache_kinds import CLOSE, plain_logprobs, raw, window_mask
from tests.parity.test_cache_kinds_stepwise import HeavyOracle, attending
from tests.parity.test_deleting import acted
from tests.parity.test_interventions import changed, layers_of, wrapped

KINDS = [CacheSpec(kind) for kind in ("growing", "off", "dynamic", "static", "hybrid", "fp8", "int8")] + [
    CacheSpec("sliding_window", window=6),
    CacheSpec("sink", window=5, sinks=2),
    CacheSpec("sink", window=5, sinks=2, relative=True),
    CacheSpec("heavy_hitters", window=4, heavy=3),
]
WINDOWS = [CacheSpec("sliding_window", window=6), CacheSpec("sink", window=5, sinks=2)]
NEW = 12  # of `acted`


def kept_as(loaded: LoadedModel, spec: CacheSpec, **more: Any) -> Ours:
    """Skips a kind that the model cannot use."""
    try:
        return run(
            loaded, [prompt_of(loaded, 15)], {"max_new_tokens": 8}, cache=spec, prefill_chunk=6,
            top_logprobs=loaded.info.output_size, **more,
        )  # fmt: skip
    except ParameterError as refused:
        pytest.skip(refused.message)


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.words())
def test_heads_parts_and_steering_are_those_of_a_changed_model_on_the_same_kind(
    loaded: LoadedModel, spec: CacheSpec
) -> None:
    """Factors are powers of two, so that both round alike and 8-bit caches hold the same bytes."""
    vector = torch.linspace(-0.5, 0.5, loaded.info.hidden_size)
    asked = (ScaleHeads(1, (0, 2), 0.5), SkipPart(0, "mlp"), Steer(1, 1.0, vector=tuple(vector.tolist())))
    ours = kept_as(loaded, spec, interventions=asked)
    width = loaded.info.head_dim

    def scale(model: Any) -> None:
        projection = find_parts(layers_of(model)[1]).projection
        for head in (0, 2):
            part = slice(head * width, (head + 1) * width)
            weight = projection.weight[:, part] if isinstance(projection, torch.nn.Linear) else projection.weight[part]
            weight *= 0.5

    copy = changed(loaded, scale)
    first, second = layers_of(copy.module)[:2]

    def nothing(own: Any, *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs) * 0

    with (
        wrapped(find_parts(first).mlp, nothing),
        wrapped(second, lambda own, x, *args, **kwargs: own(x + vector, *args, **kwargs)),
    ):
        theirs = kept_as(copy, spec)
    assert ours.sequences == theirs.sequences
    torch.testing.assert_close(raw(ours, loaded), raw(theirs, loaded), **CLOSE)
    assert not torch.allclose(raw(ours, loaded), raw(kept_as(loaded, spec), loaded), atol=1e-2)


@pytest.mark.parametrize("spec", [CacheSpec("dynamic"), CacheSpec("static"), CacheSpec("hybrid"), *WINDOWS], ids=str)
def test_positions_muted_midway_are_hidden_by_both_masks(loaded: LoadedModel, spec: CacheSpec) -> None:
    prompt, muted, when = prompt_of(loaded, 15), (1, 12, 16), 4
    try:
        ours = acted(
            loaded, [prompt], {when: (MutePositions(0, muted),)}, cache=spec, top_logprobs=loaded.info.output_size,
        )  # fmt: skip
    except ParameterError as refused:
        pytest.skip(refused.message)
    fed = ours.sequences[0][:-1]
    sinks = spec.sinks if spec.kind == "sink" else 0
    windowed = spec.kind in ("sliding_window", "sink")
    mask = window_mask(len(fed), spec.window if windowed else len(fed), sinks)
    without = plain_logprobs(loaded, fed, mask)
    mask[len(prompt) + when - 1 :, list(muted)] = False
    expected = plain_logprobs(loaded, fed, mask)
    torch.testing.assert_close(raw(ours, loaded), expected[len(prompt) - 1 :], **CLOSE)
    assert not torch.allclose(expected, without, atol=1e-3)


@contextmanager
def asking(loaded: LoadedModel, oracle: HeavyOracle) -> Iterator[Any]:
    """The plain model on the oracle's attention; ImageGPT knows no attention interface."""
    if loaded.info.image is None:
        with attending(loaded, oracle) as model:
            yield model
        return
    original = ImageGPTAttention._attn

    def attend(self: Any, query: Any, key: Any, value: Any, attention_mask: Any = None) -> Any:
        output, _ = oracle(self, query, key, value, None, key.shape[-1] ** -0.5)
        return output.transpose(1, 2), None

    ImageGPTAttention._attn = attend
    try:
        with plain(loaded) as model:
            yield model
    finally:
        ImageGPTAttention._attn = original


@pytest.mark.parametrize("muted", [(), (3, 9, 14)])
@pytest.mark.parametrize("name", ["random_gpt2", "random_qwen2", "random_imagegpt"])
def test_heavy_hitters_with_muted_positions_equal_the_oracle(
    name: str, muted: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    spec, prompt, when = CacheSpec("heavy_hitters", window=4, heavy=3), prompt_of(loaded, 17), 5
    ours = acted(
        loaded, [prompt], {when: (MutePositions(0, muted),)} if muted else {}, cache=spec, prefill_chunk=7,
        top_logprobs=loaded.info.output_size,
    )  # fmt: skip
    oracle, found, fed = HeavyOracle(3, 4), [], 0
    oracle.muted = dict.fromkeys(muted, len(prompt) + when - 1)
    ids = ours.sequences[0]
    with asking(loaded, oracle) as model:
        for count in [7, 7, 3, *[1] * (NEW - 1)]:
            positions = torch.arange(fed, fed + count)[None]
            tokens = torch.tensor([ids[fed : fed + count]])
            found.append(model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0, -1])
            fed += count
    expected = torch.log_softmax(torch.stack(found[2:]).float(), -1)
    torch.testing.assert_close(raw(ours, loaded), expected, atol=3e-4, rtol=1e-3)
    for index, layer in enumerate(ours.session.cache.kind_layers()):
        for head in range(loaded.info.kv_heads):
            assert layer.slots()[0, head].tolist() == oracle.kept[index, head]  # type: ignore[index]
