"""Norms of cached keys against the cache that transformers makes of the same ids."""

from __future__ import annotations

import numpy as np
import torch

from core.contract import KeyNormsAnswer, KeyNormsQuery
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
