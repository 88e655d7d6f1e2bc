"""Heavy hitters and cache-relative sinks against oracles that go step by step and never drop anything.

Both register an attention of their own with transformers, keep every key and value, and decide at each step by the
words of the papers what the query may see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from core.contract import CacheSpec
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, dense, plain, prompt_of, run

CLOSE = {"atol": 3e-4, "rtol": 1e-3}
NEW = 14
Attend = Callable[..., tuple[torch.Tensor, None]]


@contextmanager
def attending(loaded: LoadedModel, attend: Attend) -> Iterator[Any]:
    AttentionInterface.register("oracle", attend)
    AttentionMaskInterface.register("oracle", eager_mask)
    with plain(loaded, "oracle") as model:
        yield model


def logprobs_of(ours: Ours, loaded: LoadedModel) -> torch.Tensor:
    return torch.stack([dense(step, loaded.info.output_size)[0] for step in ours.steps])


class HeavyOracle:
    """Per layer and head: what is kept, and the sums, as lists of Python numbers."""

    def __init__(self, heavy: int, window: int) -> None:
        self.heavy, self.window = heavy, window
        self.muted: dict[int, int] = {}  # key → the first query that it is hidden from
        self.past: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.kept: dict[tuple[int, int], list[int]] = {}
        self.sums: dict[tuple[int, int], dict[int, float]] = {}

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float,
        dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        layer = module.layer_idx
        if layer in self.past:
            key, value = (torch.cat(pair, dim=2) for pair in zip(self.past[layer], (key, value), strict=True))
        self.past[layer] = key, value
        start, stop, group = key.shape[2] - query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
        output = torch.zeros_like(query)
        for head in range(key.shape[1]):
            kept = self._evict(layer, head) + list(range(start, stop))
            sums = self.sums.setdefault((layer, head), {})
            for q in range(start, stop):
                seen = [k for k in kept if k <= q < self.muted.get(k, q + 1)]
                for own in range(head * group, (head + 1) * group):
                    scores = query[0, own, q - start] @ key[0, head, seen].T * scaling
                    weights = torch.softmax(scores, -1)
                    output[0, own, q - start] = weights @ value[0, head, seen]
                    for k, weight in zip(seen, weights.tolist(), strict=True):
                        sums[k] = sums.get(k, 0.0) + weight
            self.kept[layer, head] = kept
        return output.transpose(1, 2), None

    def _evict(self, layer: int, head: int) -> list[int]:
        kept = self.kept.get((layer, head), [])
        if len(kept) <= self.heavy + self.window:
            return kept
        older, recent = kept[: -self.window], kept[-self.window :]
        ranked = sorted(older, key=lambda k: (-self.sums[layer, head][k], -k))
        return sorted(ranked[: self.heavy]) + recent


@pytest.mark.parametrize("name", ["random_gpt2", "random_llama", "random_qwen2"])
def test_heavy_hitters_equal_an_oracle_that_drops_nothing(name: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    spec, prompt = CacheSpec("heavy_hitters", window=4, heavy=3), prompt_of(loaded, 17)
    chunks = [7, 7, 3, *[1] * (NEW - 1)]
    ours = run(
        loaded, [prompt], {"max_new_tokens": NEW}, cache=spec, prefill_chunk=7, top_logprobs=loaded.info.output_size
    )
    oracle, found, fed = HeavyOracle(3, 4), [], 0
    ids = ours.sequences[0]
    with attending(loaded, oracle) as model:
        for count in chunks:
            positions = torch.arange(fed, fed + count)[None]
            tokens = torch.tensor([ids[fed : fed + count]])
            found.append(model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0, -1])
            fed += count
    expected = torch.log_softmax(torch.stack(found[2:]).float(), -1)
    torch.testing.assert_close(logprobs_of(ours, loaded), expected, **CLOSE)
    for index, layer in enumerate(ours.session.cache.layers):
        for head in range(loaded.info.kv_heads):
            assert layer.slots()[0, head].tolist() == oracle.kept[index, head]
            sums = oracle.sums[index, head]
            expected_sums = torch.tensor([sums[k] for k in oracle.kept[index, head]])
            torch.testing.assert_close(layer.sums()[0, head], expected_sums, atol=1e-3, rtol=1e-3)
    assert ours.steps[-1].cache.held == 3 + 4 + 1
    assert all(step.cache.score_ms > 0 for step in ours.steps)


def test_rows_of_a_padded_batch_drop_what_they_would_drop_alone(loaded: LoadedModel) -> None:
    """One chunk for the whole prompt, so that a row alone is fed in the same portions."""
    spec = CacheSpec("heavy_hitters", window=3, heavy=4)
    rows = [prompt_of(loaded, length, seed=length) for length in (15, 6, 11)]
    options: dict[str, Any] = {"cache": spec, "prefill_chunk": 64, "top_logprobs": loaded.info.output_size}
    together = run(loaded, rows, {"max_new_tokens": NEW}, **options)
    for index, row in enumerate(rows):
        alone = run(loaded, [row], {"max_new_tokens": NEW}, **options)
        assert together.sequences[index] == alone.sequences[0]
        ours = torch.stack([dense(s, loaded.info.output_size)[0] for s in together.of_row(index)])
        torch.testing.assert_close(ours, logprobs_of(alone, loaded), **CLOSE)


class RelativeOracle:
    """StreamingLLM: keys before rotation are kept, and rotated at every step by their places in the cache."""

    def __init__(self, model: Any, sinks: int, window: int) -> None:
        self.sinks, self.window = sinks, window
        self.rotary = model.model.rotary_emb
        self.apply = sys.modules[type(model).__module__].apply_rotary_pos_emb
        self.raw: dict[int, dict[str, torch.Tensor]] = {}
        self.past: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.handles = [
            getattr(layer.self_attn, f"{part}_proj").register_forward_hook(self._hook(index, part))
            for index, layer in enumerate(model.model.layers)
            for part in ("q", "k")
        ]

    def _hook(self, layer: int, part: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            self.raw.setdefault(layer, {})[part] = output

        return keep

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float,
        dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        layer, (_, heads, _, width) = module.layer_idx, query.shape
        raw_query, raw_key = (
            self.raw[layer][part].view(1, 1, -1, width).transpose(1, 2) for part in ("q", "k")
        )  # (1, H, 1, D)
        if layer in self.past:
            raw_key, value = (torch.cat(pair, 2) for pair in zip(self.past[layer], (raw_key, value), strict=True))
        self.past[layer] = raw_key, value
        stop = raw_key.shape[2]
        places = [s for s in range(stop) if s < self.sinks or s >= stop - self.window]
        cos, sin = self.rotary(value, torch.arange(len(places))[None])
        keys = self.apply(raw_key[:, :, places], raw_key[:, :, places], cos, sin)[1]
        turned = self.apply(raw_query, raw_query, cos[:, -1:], sin[:, -1:])[0]
        group = heads // keys.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, value[:, :, places]))
        weights = torch.softmax(turned @ keys.transpose(2, 3) * scaling, -1)
        return (weights @ values).transpose(1, 2), None


@pytest.mark.parametrize("name", ["random_llama", "random_qwen2"])
def test_cache_relative_sinks_equal_streaming_llm_step_by_step(name: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    spec, prompt = CacheSpec("sink", window=6, sinks=3, relative=True), prompt_of(loaded, 21)
    ours = run(
        loaded, [prompt], {"max_new_tokens": NEW}, cache=spec, prefill_chunk=7, top_logprobs=loaded.info.output_size
    )
    found = []
    with plain(loaded) as bare:
        oracle = RelativeOracle(bare, 3, 6)
    try:
        with attending(loaded, oracle) as model:
            for position, token in enumerate(ours.sequences[0][:-1]):
                at = torch.tensor([[position]])
                found.append(model(input_ids=torch.tensor([[token]]), position_ids=at, use_cache=False).logits[0, -1])
    finally:
        for handle in oracle.handles:
            handle.remove()
    expected = torch.log_softmax(torch.stack(found[len(prompt) - 1 :]).float(), -1)
    torch.testing.assert_close(logprobs_of(ours, loaded), expected, **CLOSE)
    absolute = run(loaded, [prompt], {"max_new_tokens": NEW}, cache=CacheSpec("sink", window=6, sinks=3))
    assert absolute.sequences != ours.sequences  # the option does something


def test_cache_relative_rows_of_a_batch_equal_the_rows_alone(random_llama: LoadedModel) -> None:
    spec = CacheSpec("sink", window=5, sinks=2, relative=True)
    rows: Sequence[list[int]] = [prompt_of(random_llama, length, seed=length) for length in (18, 4, 9)]
    together = run(random_llama, rows, {"max_new_tokens": NEW}, cache=spec)
    for index, row in enumerate(rows):
        assert together.sequences[index] == run(random_llama, [row], {"max_new_tokens": NEW}, cache=spec).sequences[0]
