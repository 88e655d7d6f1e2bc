"""Two branches compared, against fresh runs of their own, plain forward passes in numpy, and eager attentions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import core
from core.contract import (
    CacheSpec,
    CompareAnswer,
    CompareAttentionAnswer,
    CompareAttentionQuery,
    CompareQuery,
    ModelSpec,
    ParameterError,
    StartBranch,
    StartTwin,
    ViewUnavailableError,
)
from core.controls import QuietControl
from core.decode.branch import begin_branch
from core.decode.session import Session
from core.decode.twin import begin_twin
from core.models.loaded import LoadedModel
from core.models.loader import load
from tests.models import build_gpt2
from tests.parity.branching import advance
from tests.parity.reference import (
    dense,
    eager_attention,
    finish,
    full_logits,
    open_session,
    prompt_of,
    run,
)

PROMPT, NEW = 15, 10
WARM: dict[str, Any] = {"do_sample": True, "top_k": 0, "temperature": 0.8, "max_new_tokens": NEW}
HOT = {"temperature": 1.9}
FULL: dict[str, Any] = {**WARM, "top_k": 30, "repetition_penalty": 1.3}

Log = np.ndarray


def pair(
    loaded: LoadedModel, params: dict[str, Any], change: dict[str, Any], other: LoadedModel | None = None, **spec: Any
) -> tuple[Session, Session]:
    """A finished run and its finished twin."""
    first = open_session(loaded, [prompt_of(loaded, PROMPT)], params, **spec)
    advance(first, 1)
    second, started = begin_twin(first, StartTwin(1, 1, params=change), loaded=other)
    assert started.beside == 0
    advance(second, 4)
    advance(first)
    advance(second)
    return first, second


def ids_of(session: Session) -> list[int]:
    row = session.rows[0]
    return [*row.prompt.token_ids, *row.token_ids]


def compare(first: Session, second: Session, **query: Any) -> CompareAnswer:
    answer = first.answer(CompareQuery(1, second.branch_id, **query), second)
    assert isinstance(answer, CompareAnswer)
    return answer


def log_softmax(logits: Log) -> Log:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def kl_bits(ours: Log, theirs: Log) -> float:
    p = np.exp(ours)
    alive = p > 0
    return float((p[alive] * (ours[alive] - theirs[alive])).sum() / np.log(2.0))


def plain(loaded: LoadedModel, ids: list[int]) -> Log:
    return np.asarray(full_logits(loaded, ids).numpy())


def test_the_models_own_distributions_are_those_of_plain_forward_passes(loaded: LoadedModel) -> None:
    first, second = pair(loaded, WARM, HOT)
    answer = compare(first, second, final=False)
    ours, theirs = ids_of(first), ids_of(second)
    assert ours[:PROMPT] == theirs[:PROMPT]
    assert ours != theirs
    expected = [log_softmax(plain(loaded, ids)) for ids in (ours, theirs)]
    assert answer.positions == (1, PROMPT + NEW)
    for at, position in enumerate(range(1, PROMPT + NEW)):
        p, q = (logs[position - 1] for logs in expected)
        assert np.isclose(answer.kl_bits[at], max(0.0, kl_bits(p, q)), atol=2e-4), position
        for t, token in enumerate((ours[position], theirs[position])):
            wanted = [np.exp(side[token]) if token < len(side) else 0.0 for side in (p, q)]  # no head says the start
            assert np.allclose(answer.probability[at, t], wanted, atol=1e-4)
    assert answer.token_ids.tolist() == [[a, b] for a, b in zip(ours[1:], theirs[1:], strict=True)]
    assert answer.parted == next(n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    assert not answer.kl_bits.flags.writeable


def test_after_the_pipeline_a_temperature_is_what_numpy_makes_of_the_logits(tiny_gpt2: LoadedModel) -> None:
    first, second = pair(tiny_gpt2, WARM, HOT)
    answer = compare(first, second, final=True, positions=(PROMPT, None))
    ours, theirs = ids_of(first), ids_of(second)
    p = log_softmax(plain(tiny_gpt2, ours) / 0.8)
    q = log_softmax(plain(tiny_gpt2, theirs) / 1.9)
    for at, position in enumerate(range(*answer.positions)):
        assert np.isclose(answer.kl_bits[at], kl_bits(p[position - 1], q[position - 1]), atol=1e-3)
        expected = [np.exp(side[position - 1][ours[position]]) for side in (p, q)]
        assert np.allclose(answer.probability[at, 0], expected, atol=1e-4)
    assert float(answer.kl_bits[0]) > 0  # although both have read the same


def test_after_the_pipeline_all_stages_count_as_in_two_fresh_runs(random_llama: LoadedModel) -> None:
    vocabulary = random_llama.info.vocab_size
    first, second = pair(random_llama, FULL, HOT)
    answer = compare(first, second, final=True, positions=(PROMPT, None))
    prompt = prompt_of(random_llama, PROMPT)
    fresh = [run(random_llama, [prompt], {**FULL, **more}, top_logprobs=vocabulary) for more in ({}, HOT)]
    assert [one.sequences[0] for one in fresh] == [ids_of(first), ids_of(second)]
    infinite = 0
    for at, (one, other) in enumerate(zip(fresh[0].steps, fresh[1].steps, strict=True)):
        p, q = (dense(step, vocabulary)[1].double().numpy() for step in (one, other))
        expected = kl_bits(p, q)
        infinite += np.isinf(expected)
        assert np.isclose(answer.kl_bits[at], max(0.0, expected), atol=1e-3) or answer.kl_bits[at] == expected
        assert np.allclose(answer.probability[at, 0], np.exp([p[one.token_id], q[one.token_id]]), atol=1e-4)
    assert 0 < infinite < NEW  # what one keeps, the other rules out


def test_parameters_changed_on_the_way_count_from_the_step_on_where_they_were_in_force(tiny_gpt2: LoadedModel) -> None:
    first = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, PROMPT)], WARM)
    advance(first, 1)
    second, _ = begin_twin(first, StartTwin(1, 1, params=HOT))
    for session in (first, second):
        advance(session, 4 if session is second else 3)
        session.set_params({"min_p": 0.2}, 1)
        advance(session)
    raw = plain(tiny_gpt2, ids_of(first)) / 0.8
    answer = compare(first, second, final=True, positions=(PROMPT, None))
    for at, min_p in ((2, False), (6, True)):
        p = log_softmax(raw)[PROMPT + at - 1]
        if min_p:
            p = log_softmax(np.where(np.exp(p) < 0.2 * np.exp(p.max()), -np.inf, p))
        assert np.isclose(answer.probability[at, 0, 0], np.exp(p[ids_of(first)[PROMPT + at]]), atol=1e-4)


def test_differences_of_attention_are_those_of_eager_attentions(loaded: LoadedModel) -> None:
    first, second = pair(loaded, WARM, HOT)
    stop = PROMPT + NEW - 1
    one, other = (eager_attention(loaded, ids_of(session)[:-1]) for session in (first, second))
    for layer in range(loaded.info.layers):
        difference = (one[layer] - other[layer]).numpy()
        for heads, reduce, expected in (
            ((1,), None, difference[1]),
            (None, "mean", difference.mean(0)),
            ((0, 2), "max", (one[layer][[0, 2]].amax(0) - other[layer][[0, 2]].amax(0)).numpy()),
        ):
            answer = first.answer(CompareAttentionQuery(1, 1, layer, heads, reduce), second)
            assert isinstance(answer, CompareAttentionAnswer)
            assert answer.rows == (0, stop)
            assert np.allclose(answer.difference, expected, atol=1e-5)


def test_pooled_cells_keep_the_largest_difference_with_its_sign(random_gpt2: LoadedModel) -> None:
    first, second = pair(random_gpt2, WARM, HOT)
    whole = first.answer(CompareAttentionQuery(1, 1, 0, (1,)), second)
    pooled = first.answer(CompareAttentionQuery(1, 1, 0, (1,), pool=(6, 6)), second)
    assert isinstance(whole, CompareAttentionAnswer)
    assert isinstance(pooled, CompareAttentionAnswer)
    assert pooled.cell == (4, 4)
    for row, column in np.ndindex(pooled.difference.shape):
        cell = whole.difference[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert pooled.difference[row, column] == cell.flat[np.abs(cell).argmax()]
    assert (pooled.difference < 0).any()
    assert (pooled.difference > 0).any()


def test_a_branch_that_parts_inside_the_prompt_is_compared_position_by_position(random_qwen2: LoadedModel) -> None:
    first = finish(open_session(random_qwen2, [prompt_of(random_qwen2, PROMPT)], WARM)).session
    second, _ = begin_branch(first, StartBranch(1, 3, position=6, token_ids=(77, 78)))
    advance(second)
    answer = compare(first, second, final=False)
    ours, theirs = ids_of(first), ids_of(second)
    p, q = (log_softmax(plain(random_qwen2, ids)) for ids in (ours, theirs))
    assert answer.parted == 6
    assert answer.positions == (1, min(len(ours), len(theirs)))
    expected = [max(0.0, kl_bits(p[n - 1], q[n - 1])) for n in range(*answer.positions)]
    assert np.allclose(answer.kl_bits, expected, atol=2e-4)
    assert answer.kl_bits[:5].max() < 1e-6  # the same tokens, the same records


def test_another_model_is_compared_over_what_both_know(random_gpt2: LoadedModel, tmp_path: Path) -> None:
    folder = build_gpt2(tmp_path / "other", seed=9, n_layer=2, n_head=2)
    other = load(ModelSpec(str(folder), device="cpu", dtype="fp32"), 0, QuietControl(lambda: False))
    first, second = pair(random_gpt2, WARM, {}, other)
    assert second.reused == 0
    answer = compare(first, second, final=False, positions=(PROMPT, None))
    p, q = (log_softmax(plain(m, ids_of(s))) for m, s in ((random_gpt2, first), (other, second)))
    expected = [kl_bits(p[n - 1], q[n - 1]) for n in range(*answer.positions)]
    assert np.allclose(answer.kl_bits, expected, atol=2e-4)
    difference = first.answer(CompareAttentionQuery(1, 1, 1, (1,)), second)
    assert isinstance(difference, CompareAttentionAnswer)
    one, two = (eager_attention(m, ids_of(s)[:-1])[1][1] for m, s in ((random_gpt2, first), (other, second)))
    assert np.allclose(difference.difference, (one - two).numpy(), atol=1e-5)
    with pytest.raises(ViewUnavailableError, match=r"There is no layer 2; .* has 2"):
        first.answer(CompareAttentionQuery(1, 1, 2, (0,)), second)
    with pytest.raises(ViewUnavailableError, match=r"no head .*; a layer has 2"):
        first.answer(CompareAttentionQuery(1, 1, 0, (3,)), second)


def test_another_kind_of_cache_feeds_the_prompt_by_itself(random_llama: LoadedModel) -> None:
    first, _ = pair(random_llama, WARM, {})
    rounded = CacheSpec("int8")
    second, _ = begin_twin(first, StartTwin(1, 1, cache=rounded))
    advance(second)
    assert second.reused == 0
    alone = run(random_llama, [prompt_of(random_llama, PROMPT)], WARM, cache=rounded)
    assert ids_of(second) == alone.sequences[0]
    answer = compare(first, second, final=False)
    assert answer.kl_bits[:PROMPT].max() > 0  # the records are its own, of the prompt, too
    for at, step in enumerate(alone.steps):
        p = answer.probability[PROMPT - 1 + at, 1, 1]
        assert np.isclose(p, np.exp(step.logprob), atol=1e-4)
    exact, _ = begin_twin(first, StartTwin(1, 2, cache=CacheSpec("dynamic")))
    advance(exact)
    assert ids_of(exact) == ids_of(first)
    assert compare(first, exact, final=False).kl_bits.max() < 1e-5


def test_a_row_of_a_batch_has_a_twin_like_a_run_of_its_own(random_llama: LoadedModel) -> None:
    rows = [prompt_of(random_llama, n, seed=4) for n in (4, 9)]
    first = open_session(random_llama, rows, WARM)
    advance(first, 2)
    second, _ = begin_twin(first, StartTwin(1, 1, row=0, params=HOT))
    advance(first)
    advance(second)
    answer = compare(first, second, final=False, row=0, other_row=0)
    ours = [*rows[0], *first.rows[0].token_ids]
    p, q = (log_softmax(plain(random_llama, ids)) for ids in (ours, ids_of(second)))
    expected = [max(0.0, kl_bits(p[n - 1], q[n - 1])) for n in range(*answer.positions)]
    assert np.allclose(answer.kl_bits, expected, atol=2e-4)


def test_the_draws_of_a_twin_are_those_of_the_run(random_gpt2: LoadedModel) -> None:
    first, second = pair(random_gpt2, WARM, {"top_p": 0.7}, seed=3)
    again = run(random_gpt2, [prompt_of(random_gpt2, PROMPT)], {**WARM, "top_p": 0.7}, seed=3)
    assert again.sequences[0] == ids_of(second)
    assert ids_of(first) == run(random_gpt2, [prompt_of(random_gpt2, PROMPT)], WARM, seed=3).sequences[0]


def test_what_cannot_be_compared_says_why(random_gpt2: LoadedModel) -> None:
    first, second = pair(random_gpt2, WARM, HOT)
    with pytest.raises(ViewUnavailableError, match="both branches go up to 25"):
        compare(first, second, positions=(40, None))
    with pytest.raises(ViewUnavailableError, match="choose mean or max, or one head"):
        first.answer(CompareAttentionQuery(1, 1, 0), second)
    with pytest.raises(ViewUnavailableError, match="no longer held"):
        first.answer(CompareQuery(1, 1))
    blind, other = pair(random_gpt2, WARM, HOT, trace=False)
    with pytest.raises(ViewUnavailableError, match="not recorded"):
        compare(blind, other)
    short, other = pair(random_gpt2, WARM, HOT, trace_budget_bytes=20_000)
    with pytest.raises(ViewUnavailableError) as problem:
        compare(short, other)
    begin = problem.value.first_recorded + 1
    with pytest.raises(ViewUnavailableError) as problem:  # the twin has dropped some of its own
        compare(short, other, positions=(begin, None))
    assert problem.value.first_recorded >= begin
    assert compare(short, other, positions=(problem.value.first_recorded + 1, None)).kl_bits.shape[0] > 0


def test_a_twin_of_another_vocabulary_or_of_beams_is_refused(random_gpt2: LoadedModel, tiny_gpt2: LoadedModel) -> None:
    first = open_session(random_gpt2, [prompt_of(random_gpt2, PROMPT)], WARM)
    with pytest.raises(ParameterError, match="their vocabularies differ"):
        begin_twin(first, StartTwin(1, 1), loaded=tiny_gpt2)
    beams = open_session(random_gpt2, [prompt_of(random_gpt2, PROMPT)], {"num_beams": 2})
    with pytest.raises(ParameterError, match="Beams are chosen together"):
        begin_twin(beams, StartTwin(1, 1, params=HOT))
    same = replace(random_gpt2, spec=replace(random_gpt2.spec, dtype="bf16"))
    assert begin_twin(first, StartTwin(1, 1), loaded=same)[1].model is same.info


def test_two_results_are_compared_in_a_script(tmp_path: Path) -> None:
    model = build_gpt2(tmp_path / "m")
    settings: dict[str, Any] = {"prompt_ids": [5, 6, 7, 8, 9], "device": "cpu", "dtype": "fp32", "seed": 1}
    first = core.run(model, params={**WARM, "temperature": 0.5}, **settings)
    second = core.run(model, params=WARM, **settings)
    answer = core.compare(first, second, final=True, positions=(5, None))
    assert answer.kl_bits[0] > 0
    assert answer.token_ids[:, 0].tolist() == list(first.sequences[0][5:])
    difference = core.compare_attention(first, second, 1, reduce="mean").difference
    assert difference.shape == (14, 14)
    other = core.run("tiny-gpt2", params=WARM, **settings)
    with pytest.raises(ParameterError, match="different vocabularies"):
        core.compare(first, other)
    core.unload()


def test_infinite_divergence_is_told_as_such() -> None:
    from core.trace.compare import divergence_bits

    p = torch.log(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    q = torch.log(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert divergence_bits(p, q) == np.inf
    assert divergence_bits(q, p) == 1.0
