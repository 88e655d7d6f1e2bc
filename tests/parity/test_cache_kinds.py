"""Every kind of cache against what it stands for: the same tokens, or one plain pass under the same mask."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

from core.contract import CacheSpec, ParameterError
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, dense, full_logits, open_session, plain, prompt_of, run

PROMPT, NEW = 23, 11
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
EXACT = ("off", "dynamic", "static", "hybrid")


def kept_as(loaded: LoadedModel, spec: CacheSpec, rows: Sequence[Sequence[int]], **more: Any) -> Ours:
    return run(
        loaded, rows, {"max_new_tokens": NEW}, cache=spec, prefill_chunk=7, top_logprobs=loaded.info.output_size, **more
    )


def serves(loaded: LoadedModel, kind: str) -> bool:
    slides = loaded.info.sliding_window is not None
    return {"hybrid": slides, "static": loaded.info.image is None}.get(kind, True)


def raw(ours: Ours, loaded: LoadedModel, row: int = 0) -> torch.Tensor:
    """Log-probabilities (steps, V) before the pipeline."""
    return torch.stack([dense(step, loaded.info.output_size)[0] for step in ours.of_row(row)])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", EXACT)
def test_kinds_that_keep_everything_say_the_same(loaded: LoadedModel, kind: Any, rows: int) -> None:
    if not serves(loaded, kind):
        pytest.skip("refused, see below")
    prompts = [prompt_of(loaded, PROMPT - 4 * row, seed=row) for row in range(rows)]
    growing, other = kept_as(loaded, CacheSpec(), prompts), kept_as(loaded, CacheSpec(kind), prompts)
    assert other.sequences == growing.sequences
    for row in range(rows):
        torch.testing.assert_close(raw(other, loaded, row), raw(growing, loaded, row), **CLOSE)
    assert {step.cache.kind for step in other.steps} == {kind}


def window_mask(length: int, window: int, sinks: int = 0) -> torch.Tensor:
    """(T, T), True where the query of a row attends to the key of a column: the rule as papers state it."""
    return torch.tensor([[k <= q and (q - k < window or k < sinks) for k in range(length)] for q in range(length)])


@contextmanager
def masked(mask: torch.Tensor) -> Iterator[None]:
    """ImageGPT takes no mask of T × T, so that it is added where its scores are."""
    original = ImageGPTAttention._attn

    def attend(self: Any, query: Any, key: Any, value: Any, attention_mask: Any = None) -> Any:
        added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return original(self, query, key, value, added)

    ImageGPTAttention._attn = attend
    try:
        yield
    finally:
        ImageGPTAttention._attn = original


def plain_logprobs(loaded: LoadedModel, ids: Sequence[int], mask: torch.Tensor) -> torch.Tensor:
    """(T, V) of one pass over all positions without a cache, under `mask` and what the model itself hides."""
    tokens = torch.tensor([list(ids)])
    with plain(loaded) as model:
        if loaded.info.image is not None:
            with masked(mask):
                logits = model(input_ids=tokens, use_cache=False).logits
        else:
            own = window_mask(len(ids), loaded.info.sliding_window or len(ids))
            types = getattr(model.config, "layer_types", None)
            whole: Any = mask[None, None]
            if types and len(set(types)) > 1:
                whole = {"full_attention": whole, "sliding_attention": (mask & own)[None, None]}
            positions = torch.arange(len(ids))[None]
            logits = model(input_ids=tokens, attention_mask=whole, position_ids=positions, use_cache=False).logits
    return torch.log_softmax(logits[0].float(), -1)


@pytest.mark.parametrize(
    "spec", [CacheSpec("sliding_window", window=6), CacheSpec("sink", window=5, sinks=2)], ids=lambda s: s.words()
)
def test_windows_equal_one_plain_pass_under_their_mask(loaded: LoadedModel, spec: CacheSpec) -> None:
    rows = [prompt_of(loaded, length, seed=length) for length in (PROMPT, 4, 15)]
    for prompts in (rows[:1], rows):
        ours = kept_as(loaded, spec, prompts)
        for row, sequence in enumerate(ours.sequences):
            fed = sequence[:-1]
            sinks = spec.sinks if spec.kind == "sink" else 0
            expected = plain_logprobs(loaded, fed, window_mask(len(fed), spec.window, sinks))
            first = len(prompts[row]) - 1
            torch.testing.assert_close(raw(ours, loaded, row), expected[first:], **CLOSE)
    held = ours.session.cache.layers[-1].held
    assert held <= spec.window + (0 if spec.kind == "sliding_window" else spec.sinks + PROMPT - 4)


def test_a_kind_that_a_model_cannot_use_is_refused_with_the_reason(
    random_imagegpt: LoadedModel, random_gpt2: LoadedModel
) -> None:
    for loaded, spec, words in (
        (random_imagegpt, CacheSpec("static"), "whole buffer would be wrong"),
        (random_gpt2, CacheSpec("hybrid"), "attends to all positions"),
        (random_gpt2, CacheSpec("sink", window=16, relative=True), "adds positions to the embeddings"),
        (random_gpt2, CacheSpec("sliding_window", window=65), "larger than the 64"),
        (random_gpt2, CacheSpec("sliding_window", window=0), "cannot be 0"),
        (random_gpt2, CacheSpec("quanto"), "no cache of the kind"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ParameterError, match=words):
            kept_as(loaded, spec, [prompt_of(loaded, 5)])


class Rounded(DynamicLayer):
    """What 8 bits mean, written down once more: every token of every head is rounded before it is stored."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def rounded(self, states: torch.Tensor) -> torch.Tensor:
        found = states.clone()
        for place in itertools.product(*map(range, states.shape[:3])):
            numbers = states[place].double()
            largest = float(numbers.abs().max())
            if self.kind == "int8":
                found[place] = torch.round(numbers * 127 / largest) * largest / 127
            else:
                found[place] = (numbers * 448 / largest).to(torch.float8_e4m3fn).double() * largest / 448
        return found

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        return super().update(self.rounded(key_states), self.rounded(value_states))


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_8_bits_equal_a_dynamic_cache_of_rounded_numbers(loaded: LoadedModel, kind: Any) -> None:
    ours = kept_as(loaded, CacheSpec(kind), [prompt_of(loaded, PROMPT)])
    cache = Cache(layers=[Rounded(kind) for _ in range(loaded.info.layers)])
    found = []
    with plain(loaded) as model:
        bounds = [(0, 7), (7, 14), (14, 21), (21, 23), *((n, n + 1) for n in range(PROMPT, PROMPT + NEW - 1))]
        for start, stop in bounds:
            ids = torch.tensor([ours.sequences[0][start:stop]])
            positions = torch.arange(start, stop)[None]
            output = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
            found.append(output.logits[0, -1])
    expected = torch.log_softmax(torch.stack(found[3:]).float(), -1)
    # A number half way between two bytes may fall either way, which is little beside what rounding itself does.
    exact = torch.log_softmax(full_logits(loaded, ours.sequences[0][:-1]), -1)[PROMPT - 1 :]
    lost = (raw(ours, loaded) - exact).abs().median()
    assert float((raw(ours, loaded) - expected).abs().median()) < 0.25 * float(lost)
    torch.testing.assert_close(raw(ours, loaded), expected, atol=0.2, rtol=0.05)


@pytest.mark.parametrize(("kind", "logit_error", "kl_nats"), [("fp8", 0.5, 5e-3), ("int8", 0.1, 5e-4)])
def test_8_bits_change_the_logits_of_a_trained_model_by_so_much(
    tiny_gpt2: LoadedModel, kind: Any, logit_error: float, kl_nats: float
) -> None:
    """The logits have a standard deviation of 2.7; README and lab say these bounds."""
    ids = tiny_gpt2.text.encode("Once upon a time there was a little dog who lived in a big house. The dog was happy.")
    with torch.inference_mode():
        session = open_session(tiny_gpt2, [ids], cache=CacheSpec(kind))
        with session.attached():
            ours = session.forward.positions(session.ids, session.cache, None, len(ids))[0]
    exact = full_logits(tiny_gpt2, ids)
    assert float((ours - exact).abs().max()) < logit_error
    p, q = torch.log_softmax(exact, -1), torch.log_softmax(ours, -1)
    assert float((p.exp() * (p - q)).sum(-1).max()) < kl_nats
