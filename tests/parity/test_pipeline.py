"""The final distribution of each step is what `generate()`'s own processors give for the same prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, dense, generate, prompt_of, run, unpadded

SAMPLING: dict[str, dict[str, Any]] = {
    "nothing": {},
    "temperature": {"temperature": 0.6},
    "high temperature": {"temperature": 2.5},
    "top_k": {"top_k": 7},
    "top_k 1": {"top_k": 1},
    "top_p": {"top_p": 0.7},
    "top_p 0": {"top_p": 0.0},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.6},
    "repetition_penalty": {"repetition_penalty": 1.6},
    "repetition_penalty below 1": {"repetition_penalty": 0.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "min_new_tokens": {"min_new_tokens": 5, "eos_token_id": [3, 8]},
    "filters": {"temperature": 1.4, "top_k": 40, "top_p": 0.92, "min_p": 0.01, "typical_p": 0.95},
    "everything": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 4,
        "eos_token_id": [5],
        "temperature": 0.9,
        "top_k": 30,
        "top_p": 0.95,
        "min_p": 0.005,
        "typical_p": 0.98,
    },
}
STEPS = 10


def assert_equal_distributions(ours: Ours, expected: Any, row: int, tolerance: float = 2e-5) -> None:
    """Raw and final log-probabilities of each step of one row against logits and scores of `generate()`."""
    vocabulary = ours.session.loaded.info.output_size
    for index, step in enumerate(ours.of_row(row)):
        raw, final = dense(step, vocabulary)
        torch.testing.assert_close(raw, expected.logits[index][row].log_softmax(-1), atol=tolerance, rtol=1e-4)
        wanted = expected.scores[index][row].log_softmax(-1)
        assert torch.equal(final.isneginf(), wanted.isneginf()), f"step {index} kills other tokens"
        torch.testing.assert_close(final, wanted, atol=tolerance, rtol=1e-4)
        assert float(final.exp().sum()) == pytest.approx(1.0, abs=1e-5)
        assert float(raw.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", SAMPLING)
def test_the_final_distribution_equals_that_of_generate(loaded: LoadedModel, name: str) -> None:
    rows = [prompt_of(loaded, 12)]
    params = {"top_k": 0, "do_sample": True, "max_new_tokens": STEPS, **SAMPLING[name]}
    expected = generate(loaded, rows, seed=1, **params)
    ours = run(loaded, rows, params, seed=1, draw_source="torch", top_logprobs=loaded.info.output_size)
    assert ours.sequences == unpadded(rows, expected.sequences, params.get("eos_token_id", ()))
    assert_equal_distributions(ours, expected, 0)


@pytest.mark.parametrize("name", ["nothing", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"])
def test_the_final_distribution_of_greedy_search_too(loaded: LoadedModel, name: str) -> None:
    rows = [prompt_of(loaded, 12)]
    params = {"do_sample": False, "max_new_tokens": STEPS, **SAMPLING[name]}
    expected = generate(loaded, rows, **params)
    ours = run(loaded, rows, params, top_logprobs=loaded.info.output_size)
    assert_equal_distributions(ours, expected, 0)


@pytest.mark.parametrize("name", ["filters", "top_p", "typical_p"])
def test_rows_of_a_padded_batch_have_their_own_distributions(loaded: LoadedModel, name: str) -> None:
    rows = [prompt_of(loaded, length, seed=2) for length in (12, 3, 8)]
    params = {"top_k": 0, "do_sample": True, "max_new_tokens": 6, **SAMPLING[name]}
    expected = generate(loaded, rows, seed=1, **params)
    ours = run(loaded, rows, params, seed=1, draw_source="torch", top_logprobs=loaded.info.output_size)
    assert ours.sequences == unpadded(rows, expected.sequences)
    for row in range(3):
        assert_equal_distributions(ours, expected, row)


def test_padding_is_no_token_of_the_sequence(loaded: LoadedModel) -> None:
    """A penalty or an n-gram may count only what the row really holds: each row equals the row alone."""
    rows = [prompt_of(loaded, length, seed=2) for length in (12, 4)]
    params = {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2, "max_new_tokens": 6}
    together = run(loaded, rows, params, top_logprobs=loaded.info.output_size)
    for row, ids in enumerate(rows):
        alone = run(loaded, [ids], params, top_logprobs=loaded.info.output_size)
        for ours, own in zip(together.of_row(row), alone.steps, strict=True):
            final, wanted = dense(ours, loaded.info.output_size)[1], dense(own, loaded.info.output_size)[1]
            assert torch.equal(final.isneginf(), wanted.isneginf())
            torch.testing.assert_close(final, wanted, atol=2e-5, rtol=1e-4)


def test_the_stage_that_killed_a_token_is_named(tiny_gpt2: LoadedModel) -> None:
    params = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "max_new_tokens": 5}
    ours = run(tiny_gpt2, [prompt_of(tiny_gpt2, 6)], params, top_logprobs=tiny_gpt2.info.vocab_size)
    for step in ours.steps:
        top = step.top
        assert top.stages == ("temperature", "top_k", "top_p")
        alive = top.killed_by == -1
        assert (alive == (top.final_logprob > -float("inf"))).all()
        assert set(top.killed_by.tolist()) <= {-1, 1, 2}
        # Raw order is final order here, so top_k kills everything from the 21st on.
        assert (top.killed_by[20:] == 1).all()
        assert not (top.killed_by[:20] == 1).any()


def test_numbers_of_a_step_agree_with_its_distribution(loaded: LoadedModel) -> None:
    params = {"do_sample": True, "temperature": 1.3, "top_k": 25, "max_new_tokens": 8}
    ours = run(loaded, [prompt_of(loaded, 9)], params, top_logprobs=loaded.info.output_size)
    for step in ours.steps:
        raw, final = dense(step, loaded.info.output_size)
        assert step.logprob == pytest.approx(float(raw[step.token_id]))
        assert step.final_logprob == pytest.approx(float(final[step.token_id]))
        assert step.rank == int((raw > raw[step.token_id]).sum())
        for logprobs, bits in ((raw, step.entropy_bits), (final, step.final_entropy_bits)):
            alive = logprobs[~logprobs.isneginf()].double()
            assert bits == pytest.approx(float(-(alive.exp() * alive).sum() / torch.log(torch.tensor(2.0))), abs=1e-4)
        assert step.top.token_ids[step.rank] == step.token_id


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_chosen_token_is_always_among_the_candidates(loaded: LoadedModel, count: int) -> None:
    params = {"do_sample": True, "temperature": 3.0, "top_k": 0, "max_new_tokens": 12}
    ours = run(loaded, [prompt_of(loaded, 5)], params, top_logprobs=count)
    if count == 0:
        assert {len(step.top.token_ids) for step in ours.steps} <= {0, 1}
        return
    for step in ours.steps:
        ids = step.top.token_ids.tolist()
        assert step.token_id in ids
        assert len(ids) == count + (step.rank >= count)
        assert (step.top.logprob[:count][:-1] >= step.top.logprob[:count][1:]).all()
        assert not step.top.logprob.flags.writeable
