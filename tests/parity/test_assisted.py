"""Assisted generation and prompt lookup: whatever is drafted, the model says what it says alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.api import load_model
from core.contract import (
    AssistedDetail,
    AttentionQuery,
    DistributionQuery,
    ModelSpec,
    ParameterError,
    Prompt,
    RunSpec,
    StepSnapshot,
)
from core.decode.branch import give_up_cache
from core.decode.kv import cache_length
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.models import build_draft
from tests.parity.reference import Rows, dense, full_logits, prompt_of, run

NEW = 24
DRAFTS: dict[str, dict[str, Any]] = {
    "lookup": {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 2},
    "early exit": {"assistant_early_exit": 1, "num_assistant_tokens": 4, "assistant_confidence_threshold": 0.0},
    "heuristic": {
        "assistant_early_exit": 1,
        "num_assistant_tokens": 3,
        "num_assistant_tokens_schedule": "heuristic",
        "assistant_confidence_threshold": 0.1,
    },
}


def assisted(loaded: LoadedModel, rows: Rows, params: dict[str, Any], assistant: LoadedModel, **spec: Any) -> Session:
    """A finished run with a draft model."""
    prompts = tuple(Prompt(ids=tuple(row)) for row in rows)
    session = Session(
        loaded,
        RunSpec(prompts, {"do_sample": False, **params}, assistant=ModelSpec("draft"), **spec),
        assistant=assistant,
    )
    with session.attached():
        while not session.finished:
            session.advance()
    return session


def repetitive(loaded: LoadedModel) -> list[int]:
    return [*prompt_of(loaded, 7), *prompt_of(loaded, 9), *prompt_of(loaded, 7)]


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_tokens_are_those_without_drafts(loaded: LoadedModel, draft: str, penalty: float) -> None:
    params = {"max_new_tokens": NEW, "repetition_penalty": penalty}
    alone = run(loaded, [repetitive(loaded)], params)
    ours = run(loaded, [repetitive(loaded)], {**params, **DRAFTS[draft]})
    assert ours.sequences == alone.sequences
    details = [step.detail for step in ours.steps]
    assert all(isinstance(detail, AssistedDetail) for detail in details)
    assert cache_length(ours.session.cache) == len(ours.sequences[0]) - 1


def test_a_model_that_drafts_for_itself_is_always_right(loaded: LoadedModel) -> None:
    params = {"max_new_tokens": NEW, "num_assistant_tokens": 5, "assistant_confidence_threshold": 0.0}
    session = assisted(loaded, [prompt_of(loaded, 6)], params, loaded)
    alone = run(loaded, [prompt_of(loaded, 6)], {"max_new_tokens": NEW})
    assert list(session.result().sequences[0]) == alone.sequences[0]
    assert session.mode.passes == 1 + -(-(NEW - 1) // 6)  # type: ignore[attr-defined]


def test_a_bad_draft_changes_nothing(random_pair: tuple[LoadedModel, LoadedModel]) -> None:
    loaded, other = random_pair
    params = {"max_new_tokens": NEW, "num_assistant_tokens": 4, "assistant_confidence_threshold": 0.0}
    session = assisted(loaded, [prompt_of(loaded, 6)], params, other)
    assert (
        list(session.result().sequences[0]) == run(loaded, [prompt_of(loaded, 6)], {"max_new_tokens": NEW}).sequences[0]
    )


@pytest.fixture
def random_pair(loaded: LoadedModel) -> tuple[LoadedModel, LoadedModel]:
    """The model, and one of the same shape whose weights were shaken."""
    from copy import deepcopy

    module = deepcopy(loaded.module)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator))
    return loaded, replace(loaded, module=module)


def test_copied_drafts_leave_every_draw_as_it_was(loaded: LoadedModel) -> None:
    params = {"max_new_tokens": NEW, "do_sample": True, "temperature": 0.7}
    alone = run(loaded, [repetitive(loaded)], params, seed=3)
    ours = run(loaded, [repetitive(loaded)], {**params, **DRAFTS["lookup"]}, seed=3)
    assert ours.sequences == alone.sequences


def test_sampling_with_drafts_leaves_the_distribution_unchanged(random_pair: tuple[LoadedModel, LoadedModel]) -> None:
    loaded, other = random_pair
    if loaded.info.vocab_size > 1000:
        pytest.skip("too many tokens to count")
    prompt, draws = prompt_of(loaded, 5), 400
    first = run(loaded, [prompt], {"max_new_tokens": 1}).sequences[0]
    counts: Counter[int] = Counter()
    params = {"max_new_tokens": 2, "do_sample": True, "top_k": 8, "assistant_confidence_threshold": 0.0}
    for seed in range(draws):
        session = assisted(loaded, [first[:-1]], {**params, "num_assistant_tokens": 2}, other, seed=seed, trace=False)
        counts[session.result().sequences[0][-1]] += 1
    # The second token's marginal: the mixture over first tokens.
    start = torch.softmax(full_logits(loaded, first[:-1])[-1], -1)
    top = torch.topk(start, 8)
    mixture = torch.zeros_like(start)
    for token, weight in zip(top.indices.tolist(), (top.values / top.values.sum()).tolist(), strict=True):
        follow = torch.softmax(full_logits(loaded, [*first[:-1], token])[-1], -1)
        best = torch.topk(follow, 8)
        mixture[best.indices] += weight * best.values / best.values.sum()
    expected = mixture * draws
    likely = torch.nonzero(expected >= 5).flatten().tolist()
    chi = sum((counts[t] - float(expected[t])) ** 2 / float(expected[t]) for t in likely)
    assert chi < len(likely) + 4 * (2 * len(likely)) ** 0.5  # four standard deviations; the seeds are fixed
    assert sum(counts[t] for t in counts if mixture[t] == 0) == 0


@pytest.mark.parametrize("draft", ["lookup", "early exit"])
def test_records_are_those_of_a_run_without_drafts(loaded: LoadedModel, draft: str) -> None:
    ours = run(loaded, [repetitive(loaded)], {"max_new_tokens": NEW, **DRAFTS[draft]}).session
    alone = run(loaded, [repetitive(loaded)], {"max_new_tokens": NEW}).session
    for layer in range(loaded.info.layers):
        a, b = (s.answer(AttentionQuery(0, layer)).weights for s in (ours, alone))
        assert a.shape == b.shape
        assert abs(a - b).max() < 1e-4
    last = len(ours.rows[0].token_ids) + len(repetitive(loaded)) - 2
    a, b = (s.answer(DistributionQuery(0, last)).logprob for s in (ours, alone))
    assert abs(a - b).max() < 1e-3


def test_each_step_tells_the_models_own_distribution(loaded: LoadedModel) -> None:
    ours = run(
        loaded,
        [repetitive(loaded)],
        {"max_new_tokens": 10, **DRAFTS["early exit"]},
        top_logprobs=loaded.info.output_size,
    )
    for index, step in enumerate(ours.steps):
        ids = ours.sequences[0][: len(repetitive(loaded)) + index]
        raw, _ = dense(step, loaded.info.output_size)
        expected = torch.log_softmax(full_logits(loaded, ids)[-1], -1)
        assert torch.allclose(raw, expected, atol=1e-3)


def test_eos_inside_a_draft_ends_the_run(loaded: LoadedModel) -> None:
    alone = run(loaded, [repetitive(loaded)], {"max_new_tokens": NEW})
    eos = alone.sequences[0][len(repetitive(loaded)) + 7]
    params = {"max_new_tokens": NEW, "eos_token_id": [eos]}
    expected = run(loaded, [repetitive(loaded)], params).sequences
    for draft in DRAFTS.values():
        ours = run(loaded, [repetitive(loaded)], {**params, **draft})
        assert ours.sequences == expected
        assert ours.session.result().finish_reason == "stop"


def test_early_exit_leaves_model_and_config_as_they_were(loaded: LoadedModel) -> None:
    before = loaded.module.config.to_dict()
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in loaded.module.modules())
    run(loaded, [prompt_of(loaded, 5)], {"max_new_tokens": 8, **DRAFTS["early exit"]})
    assert loaded.module.config.to_dict() == before
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in loaded.module.modules()) == hooks


def test_a_draft_that_cannot_work_is_refused_with_the_reason(loaded: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="layers"):
        run(loaded, [prompt_of(loaded, 4)], {"assistant_early_exit": loaded.info.layers})
    with pytest.raises(ParameterError, match="one prompt"):
        run(loaded, [prompt_of(loaded, 4), prompt_of(loaded, 6)], DRAFTS["lookup"])
    other = replace(loaded, text=_Foreign(), info=replace(loaded.info, vocab_size=loaded.info.vocab_size + 1))
    with pytest.raises(ParameterError, match="vocabular"):
        assisted(loaded, [prompt_of(loaded, 4)], {}, other)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Another, smaller model with the vocabulary of tiny-gpt2."""
    folder = build_draft(tmp_path_factory.mktemp("draft"), Path("resources/models/tiny-gpt2"))
    return load_model(folder, device="cpu", dtype="fp32")


@pytest.mark.parametrize("text", ["Once upon a time", "The dog was very", "Hello"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_smaller_model_drafts_and_the_tokens_are_the_large_one_s(
    tiny_gpt2: LoadedModel, small: LoadedModel, text: str, penalty: float
) -> None:
    assert small.info.layers < tiny_gpt2.info.layers
    rows = [tiny_gpt2.text.encode(text)]
    params = {"max_new_tokens": 40, "repetition_penalty": penalty, "eos_token_id": []}
    session = assisted(tiny_gpt2, rows, {**params, "num_assistant_tokens": 4}, small)
    assert [list(ids) for ids in session.result().sequences] == run(tiny_gpt2, rows, params).sequences
    assert session.mode.passes < 40  # type: ignore[attr-defined]  # some drafts were right


def test_the_draft_models_cache_is_counted_apart_and_given_up_with_the_other(
    random_pair: tuple[LoadedModel, LoadedModel],
) -> None:
    large, small = random_pair
    session = assisted(large, [prompt_of(large, 9)], {"max_new_tokens": 12}, small)
    (cache,) = session.caches_beside
    steps: list[StepSnapshot] = []
    other = Session(large, session.spec, assistant=small)
    with other.attached():
        while not other.finished:
            steps += [event for event in other.advance() if isinstance(event, StepSnapshot)]
    told = steps[-1].second_cache
    assert told is not None
    fed = cache_length(other.caches_beside[0])
    assert told.used_bytes == fed * small.info.kv_bytes_per_token
    assert told.length == fed == cache_length(cache)
    assert told.used_bytes not in (0, steps[-1].cache.used_bytes)
    first = Session(large, session.spec, assistant=small)
    with first.attached():
        while first.new_tokens < 4:
            first.advance()
        give_up_cache(first)
        assert first.caches_beside[0].length == 0
        while not first.finished:
            first.advance()
    assert first.result().sequences == other.result().sequences
    copied = run(large, [prompt_of(large, 9)], {"prompt_lookup_num_tokens": 3}).session
    assert copied.caches_beside == ()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("draft", ["model", *DRAFTS])
def test_the_same_run_is_the_same_to_the_last_bit(
    tiny_gpt2: LoadedModel, small: LoadedModel, draft: str, sampled: bool
) -> None:
    rows = [tiny_gpt2.text.encode("Once upon a time there was a fox. There was a")]
    params = {"max_new_tokens": 24, "do_sample": sampled, "temperature": 0.9, **DRAFTS.get(draft, {})}
    prompts = tuple(Prompt(ids=tuple(row)) for row in rows)

    def steps() -> list[object]:
        spec = RunSpec(prompts, params, seed=7, assistant=ModelSpec("draft") if draft == "model" else None)
        session = Session(tiny_gpt2, spec, assistant=small if draft == "model" else None)
        told: list[object] = []
        with session.attached():
            while not session.finished:
                told += session.advance()
        return [
            (s.token_id, s.logprob, s.final_logprob, s.entropy_bits, s.u, s.detail, s.top.logprob.tobytes())
            for s in told
            if isinstance(s, StepSnapshot)
        ]

    first = steps()
    assert len(first) == 24 or not sampled
    assert steps() == first


class _Foreign:
    """Tokens of another vocabulary."""

    def vocabulary(self) -> dict[str, int]:
        return {"a": 1}
