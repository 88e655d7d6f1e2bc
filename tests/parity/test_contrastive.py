"""Contrastive search: the tokens of transformers 4.51, whatever is in the batch, and views of the chosen ones alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from core.contract import (
    AttentionQuery,
    ContrastiveDetail,
    DistributionQuery,
    FinishReason,
    ParameterError,
    StepSnapshot,
)
from core.decode.kv import cache_length
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.expected import cases, label, run_case
from tests.parity.reference import (
    Ours,
    dense,
    eager_attention,
    finish,
    full_logits,
    open_session,
    plain,
    prompt_of,
    run,
    twin,
)

CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 10}


@pytest.mark.parametrize("case", cases("contrastive_search"), ids=label)
def test_tokens_are_those_of_transformers_4_51(case: dict[str, Any]) -> None:
    assert run_case(case, trace=False).sequences == case["sequences"]


@pytest.fixture(scope="module")
def _ours() -> dict[int, Ours]:
    return {}


@pytest.fixture
def ours(loaded: LoadedModel, _ours: dict[int, Ours]) -> Ours:
    key = id(loaded)
    if key not in _ours:
        _ours[key] = run(
            loaded, [prompt_of(loaded, 9)], CONTRASTIVE, prefill_chunk=4, top_logprobs=loaded.info.output_size
        )
    return _ours[key]


def test_what_a_step_tells_is_what_full_passes_give(loaded: LoadedModel, ours: Ours) -> None:
    """Every candidate fed behind the whole sequence, without any cache."""
    for index in (0, 4, 9):
        step, ids = ours.steps[index], ours.sequences[0][: 9 + index]
        detail = step.detail
        assert isinstance(detail, ContrastiveDetail)
        assert [*detail.probability] == sorted(detail.probability, reverse=True)
        with plain(twin(loaded)) as model:
            tried = torch.tensor([[*ids, int(token)] for token in detail.token_ids])
            hidden = model(tried, output_hidden_states=True, use_cache=False).hidden_states[-1]
        hidden = normalize(hidden, dim=-1)
        penalty = (hidden[:, :-1] @ hidden[:, -1:].transpose(1, 2)).squeeze(-1).amax(-1)
        probability = torch.softmax(full_logits(loaded, ids)[-1], -1)[torch.tensor(detail.token_ids)]
        torch.testing.assert_close(torch.tensor(detail.penalty), penalty, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(detail.probability), probability, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(detail.score), 0.4 * probability - 0.6 * penalty, atol=1e-4, rtol=0)
        assert step.token_id == detail.token_ids[detail.score.argmax()]


def test_raw_probabilities_are_the_model_s_own(loaded: LoadedModel, ours: Ours) -> None:
    logits = full_logits(loaded, ours.sequences[0][:-1])
    for index, step in enumerate(ours.steps):
        raw, final = dense(step, loaded.info.output_size)
        torch.testing.assert_close(raw, torch.log_softmax(logits[8 + index], -1), atol=1e-3, rtol=1e-4)
        assert torch.equal(raw, final)


def test_views_are_those_of_the_chosen_tokens(loaded: LoadedModel, ours: Ours) -> None:
    ids = ours.sequences[0]
    expected, logits = eager_attention(loaded, ids), full_logits(loaded, ids)
    for layer in range(loaded.info.layers):
        weights = torch.tensor(ours.session.answer(AttentionQuery(1, layer)).weights)
        torch.testing.assert_close(weights, expected[layer], atol=1e-4, rtol=0)
    for position in (3, 12, 17):
        answer = ours.session.answer(DistributionQuery(1, position))
        own = torch.log_softmax(logits[position], -1)[torch.tensor(answer.token_ids)]
        torch.testing.assert_close(torch.tensor(answer.logprob), own, atol=1e-3, rtol=1e-4)


def test_the_record_holds_the_chosen_rows_only(loaded: LoadedModel, ours: Ours) -> None:
    fewer = run(loaded, [prompt_of(loaded, 9)], {**CONTRASTIVE, "top_k": 2}, prefill_chunk=4).session.trace
    assert ours.session.trace is not None
    assert fewer is not None
    assert ours.session.trace.nbytes == fewer.nbytes
    assert ours.session.trace.stop == cache_length(ours.session.cache) == 19


def test_the_cache_tells_what_the_candidates_take_and_gives_it_back(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 9)], CONTRASTIVE)
    with session.attached():
        steps = []
        while not session.finished:
            steps += session.advance()
            if not session.finished and not session.in_prefill and session.new_tokens:
                assert session.cache.layers[0].keys.shape[0] == 4
    tokens = [step for step in steps if isinstance(step, StepSnapshot)]
    assert tokens[0].cache.used_bytes == 4 * 10 * loaded.info.kv_bytes_per_token
    assert session.cache.layers[0].keys.shape[0] == 1


def test_each_row_of_a_batch_says_what_it_says_alone(loaded: LoadedModel) -> None:
    prompts = [prompt_of(loaded, n) for n in (9, 4, 12)]
    alone = [run(loaded, [prompt], CONTRASTIVE).sequences[0] for prompt in prompts]
    params = {**CONTRASTIVE, "eos_token_id": [alone[1][4 + 3], alone[2][12 + 6]]}
    expected = [run(loaded, [prompt], params) for prompt in prompts]
    together = run(loaded, prompts, params)
    assert together.sequences == [one.sequences[0] for one in expected]
    assert len({len(ids) - len(prompt) for ids, prompt in zip(together.sequences, prompts, strict=True)}) > 1
    for row, one in enumerate(expected):
        for layer in (0, loaded.info.layers - 1):
            weights = together.session.answer(AttentionQuery(1, layer, row=row)).weights
            assert abs(weights - one.session.answer(AttentionQuery(1, layer)).weights).max() < 1e-4


def test_an_ended_row_can_be_looked_at_while_others_go_on(loaded: LoadedModel) -> None:
    prompts = [prompt_of(loaded, 9), prompt_of(loaded, 4)]
    long, short = (run(loaded, [prompt], CONTRASTIVE).sequences[0][len(prompt) :] for prompt in prompts)
    eos = next(token for index, token in enumerate(short) if token not in long[: index + 1])
    session = open_session(loaded, prompts, {**CONTRASTIVE, "eos_token_id": [eos]})
    with session.attached():
        while len(session.lanes) == 2 and not session.finished:
            session.advance()
    assert not session.finished
    ended = next(row for row in session.rows if row.finish_reason is not None)
    answer = session.answer(AttentionQuery(1, 0, row=ended.index))
    assert answer.columns == len(prompts[ended.index]) + len(ended.token_ids)
    session.cancel()


def test_without_a_record_the_tokens_are_the_same(loaded: LoadedModel, ours: Ours) -> None:
    assert run(loaded, [prompt_of(loaded, 9)], CONTRASTIVE, trace=False).sequences == ours.sequences


def test_a_token_that_a_stage_killed_is_never_chosen(loaded: LoadedModel) -> None:
    alive = [5, 6]
    banned = [token for token in range(loaded.info.output_size) if token not in alive]
    params = {**CONTRASTIVE, "top_k": 8, "penalty_alpha": 0.9, "eos_token_id": banned, "min_new_tokens": 9}
    found = run(loaded, [prompt_of(loaded, 9)], params)
    assert set(found.sequences[0][9:18]) <= set(alive)


def test_parameters_change_between_steps(loaded: LoadedModel) -> None:
    prompt = [prompt_of(loaded, 9)]
    session = open_session(loaded, prompt, CONTRASTIVE)
    with session.attached():
        while session.new_tokens < 4:
            session.advance()
        session.set_params({"top_k": 7, "penalty_alpha": 0.3}, epoch=1)
        ids = session.rows[0].token_ids[:]
        for _ in range(3):
            [step] = session.advance()
            assert len(step.detail.token_ids) == 7
        with pytest.raises(ParameterError, match="cannot change from contrastive_search"):
            session.set_params({"penalty_alpha": 0.0}, epoch=2)
        session.cancel()
    rest = run(loaded, [[*prompt[0], *ids]], {"penalty_alpha": 0.3, "top_k": 7, "max_new_tokens": 3})
    assert session.rows[0].token_ids == [*ids, *rest.sequences[0][13:]]


def test_the_token_after_the_last_position_is_the_likeliest_one(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    params = {**CONTRASTIVE, "top_k": 2}
    ours = run(loaded, [prompt_of(loaded, positions - 3)], params, prefill_chunk=positions)
    assert ours.finished.finish_reason == FinishReason.LENGTH_LIMIT
    assert len(ours.sequences[0]) == positions + 1 == ours.steps[-1].cache.length + 1
    assert [step.detail is None for step in ours.steps] == [False, False, False, True]
    assert ours.steps[-1].rank == 0
    greedy = run(loaded, [ours.sequences[0][:-1]], {"max_new_tokens": 3}, prefill_chunk=positions)
    assert greedy.sequences[0] == ours.sequences[0]
    full = run(loaded, [ours.sequences[0][:-1]], params, prefill_chunk=positions)
    assert full.sequences == ours.sequences


def test_a_row_that_is_full_ends_beside_one_that_is_not(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    prompts = [prompt_of(loaded, positions - 2), prompt_of(loaded, positions - 9, seed=5)]
    params = {**CONTRASTIVE, "max_new_tokens": 6}
    both = run(loaded, prompts, params, prefill_chunk=positions)
    for row, prompt in enumerate(prompts):
        alone = run(loaded, [prompt], params, prefill_chunk=positions)
        assert both.sequences[row] == alone.sequences[0]
        assert both.finished.finish_reasons[row] == alone.finished.finish_reason
    session = both.session
    assert session.rows[0].strand().fed == positions
    query = AttentionQuery(session.run_id, 0, row=0, rows=(positions - 1, None))
    weights = session.answer(query).weights
    assert weights.shape[-1] == positions


@pytest.mark.parametrize("looks", [1, 7, 12, 14])
def test_stopping_inside_a_layer_leaves_whole_steps_only(loaded: LoadedModel, ours: Ours, looks: int) -> None:
    left = iter(range(looks))
    config = copy.deepcopy(loaded.module.config.to_dict())
    session = open_session(loaded, [prompt_of(loaded, 9)], CONTRASTIVE, prefill_chunk=4)
    session = finish(Session(loaded, session.spec, cancelled=lambda: next(left, None) is None)).session
    passes = looks // loaded.info.layers
    fed = (0, 4, 8, 9)[passes] if passes < 3 else 9 + passes - 3
    assert session.result().finish_reason == FinishReason.CANCELLED
    assert {layer.get_seq_length() for layer in session.cache.layers} == {fed}
    assert session.trace is not None
    assert session.trace.stop == fed
    assert list(session.result().sequences[0]) == ours.sequences[0][: max(9, fed)]
    assert_no_hooks(loaded.module)
    assert loaded.module.config.to_dict() == config


def test_the_next_run_takes_nothing_over(loaded: LoadedModel, ours: Ours) -> None:
    """Candidates stood side by side in its cache, and the prompt's hidden states are needed anew."""
    spec = replace(ours.session.spec, reuse_prefix=True)
    again = Session(loaded, spec, before=ours.session)
    assert again.started.reused_positions == 0
    assert finish(again).sequences == ours.sequences


def test_bf16_runs(random_llama: LoadedModel) -> None:
    loaded = replace(twin(random_llama), dtype=torch.bfloat16)
    loaded.module.to(torch.bfloat16)
    found = run(loaded, [prompt_of(loaded, 9), prompt_of(loaded, 5)], CONTRASTIVE)
    assert [len(ids) for ids in found.sequences] == [19, 15]
    assert all(step.detail.penalty.min() >= -1.01 and step.detail.penalty.max() <= 1.01 for step in found.steps)


def test_more_candidates_than_sequences_of_a_batch_are_refused(random_llama: LoadedModel) -> None:
    """Thousands of them took the memory of the whole machine, and the process with it."""
    rows = [prompt_of(random_llama, 5 + n) for n in range(9)]  # 9 × 57 are more than 512
    with pytest.raises(ParameterError, match=r"513 candidates at once .*; lower top_k to 56, or take fewer sequences"):
        open_session(random_llama, rows, {**CONTRASTIVE, "top_k": 57})
    with pytest.raises(ParameterError, match=r"514 candidates at once .*; take 256 sequences at most"):
        open_session(random_llama, [[1]] * 257, {**CONTRASTIVE, "top_k": 2})
    session = open_session(random_llama, rows, {**CONTRASTIVE, "top_k": 2})
    with session.attached():
        session.advance()
        with pytest.raises(ParameterError, match="lower top_k to 56"):
            session.set_params({"top_k": 10**9}, epoch=1)
        assert session.params.top_k == 2
    session.close()
