"""Norms of cached keys against the cache that transformers makes of the same ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from app.panels.canvas_overlays import of_keys
from core.contract import CacheContentAnswer, CacheContentQuery, CacheSpec, KeyNormsAnswer, KeyNormsQuery
from core.models.loaded import LoadedModel
from tests.parity.reference import plain, prompt_of, run


def test_key_norms_are_those_of_the_library_s_own_cache(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 12, seed=5)], {"max_new_tokens": 6})
    fed = ours.sequences[0][:-1]
    with plain(loaded) as model, torch.inference_mode():
        cache = model(torch.tensor([fed]), use_cache=True).past_key_values
    for layer in range(loaded.info.layers):
        answer = ours.session.answer(KeyNormsQuery(1, layer))
        assert isinstance(answer, KeyNormsAnswer)
        expected = cache.layers[layer].keys[0].norm(dim=-1)[:, -len(fed) :].numpy()
        held = answer.norms[:, -expected.shape[1] :]  # a window of the library's forgets what is behind it
        assert answer.norms.shape == (loaded.info.kv_heads, len(fed))
        np.testing.assert_allclose(held, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", ["sliding_window", "sink", "heavy_hitters"])
def test_of_keys_that_are_gone_nothing_is_told(random_imagegpt: LoadedModel, kind: Any, rows: int) -> None:
    """The zeros in the slots of a cache that lets keys go are no short keys."""
    loaded = random_imagegpt
    window, fed = 6, 25
    spec = {
        "sliding_window": CacheSpec("sliding_window", window=window),
        "sink": CacheSpec("sink", window=window, sinks=2),
        "heavy_hitters": CacheSpec("heavy_hitters", heavy=4, window=window),
    }[kind]
    prompts = [prompt_of(loaded, 16, seed=seed) for seed in range(rows)]
    ours = run(loaded, prompts, {"max_new_tokens": 10}, cache=spec, prefill_chunk=8)
    whole = run(loaded, [prompts[0]], {"max_new_tokens": 10}, cache=CacheSpec("dynamic"))
    answer, content = ours.session.answer(KeyNormsQuery(1, 0)), ours.session.answer(CacheContentQuery(1, 0))
    assert isinstance(answer, KeyNormsAnswer)
    assert isinstance(content, CacheContentAnswer)
    np.testing.assert_array_equal(answer.norms, content.key_norms)
    held = ~np.isnan(answer.norms)
    assert answer.norms.shape == (loaded.info.kv_heads, fed)
    assert (held.sum(axis=1) <= {"sliding_window": window, "sink": window + 2, "heavy_hitters": window + 5}[kind]).all()
    everything = whole.session.answer(KeyNormsQuery(1, 0))  # layer 0: what later ones forget does not matter
    assert isinstance(everything, KeyNormsAnswer)
    if ours.sequences[0] == whole.sequences[0]:
        np.testing.assert_allclose(answer.norms[held], everything.norms[held], rtol=1e-4)
    shown = of_keys(answer, None, fed - 1)
    assert shown is not None
    there = held.any(axis=0)[1:]
    assert ((shown.levels >= 0) == there).all()
    assert shown.gone == int((~there).sum()) > 0
    values = np.nanmean(answer.norms[:, 1:][:, there], axis=0)
    assert (shown.low, shown.high) == pytest.approx((float(values.min()), float(values.max())))
