"""Beam search and beam sampling equal `generate()`: tokens and scores, over a grid of drawn settings."""

from __future__ import annotations

import random
from typing import Any

import pytest

from core.models.loaded import LoadedModel
from tests.parity.reference import generate, prompt_of, run, unpadded

FAMILIES = ("random_gpt2", "random_llama", "random_qwen2", "random_qwen2_sliding")
CASES = 160
SLOW_CASES = 600


def a_case(number: int) -> tuple[str, dict[str, Any]]:
    """A family and parameters, the same each time."""
    draw = random.Random(number)
    width = draw.choice([2, 2, 3, 4, 4, 5, 6, 7, 8])
    params: dict[str, Any] = {
        "num_beams": width,
        "num_return_sequences": draw.choice([1, 1, width, draw.randint(1, width)]),
        "early_stopping": draw.choice([False, False, True, "never"]),
        "length_penalty": draw.choice([1.0, 1.0, 0.0, -1.0, 0.5, 2.0, 5.0]),
        "max_new_tokens": draw.choice([1, 2, 6, 10, 16]),
        "do_sample": draw.random() < 0.3,
    }
    if draw.random() < 0.3:
        params["repetition_penalty"] = draw.choice([0.8, 1.3, 2.0])
    if draw.random() < 0.25:
        params["no_repeat_ngram_size"] = draw.choice([1, 2, 3])
    if draw.random() < 0.8:
        params["eos_token_id"] = draw.sample(range(1, 300), draw.choice([1, 3, 20, 60]))
        if draw.random() < 0.3:
            params["min_new_tokens"] = min(draw.choice([1, 4]), params["max_new_tokens"])
    if params["do_sample"]:
        params["top_k"] = draw.choice([0, 50, 4])
        params["temperature"] = draw.choice([1.0, 0.7, 1.6])
        if draw.random() < 0.3:
            params["top_p"] = draw.choice([0.5, 0.9])
        if draw.random() < 0.3:
            params["min_p"] = 0.05
    return FAMILIES[number % len(FAMILIES)], params


def assert_equal(loaded: LoadedModel, rows: list[list[int]], params: dict[str, Any], seed: int) -> None:
    expected = generate(loaded, rows, seed=seed, **params)
    ours = run(loaded, rows, params, seed=seed, draw_source="torch", trace=False, top_logprobs=0)
    eos = params.get("eos_token_id", ())
    assert ours.sequences == unpadded(rows, expected.sequences, eos, copies=params["num_return_sequences"])
    assert ours.finished.scores == pytest.approx(expected.sequences_scores.tolist(), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("number", range(CASES))
def test_beams_equal_generate(number: int, request: pytest.FixtureRequest) -> None:
    family, params = a_case(number)
    loaded = request.getfixturevalue(family)
    assert_equal(loaded, [prompt_of(loaded, number % 7 + 1, seed=number)], params, seed=number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CASES, CASES + SLOW_CASES))
def test_more_beams_equal_generate(number: int, request: pytest.FixtureRequest) -> None:
    family, params = a_case(number)
    loaded = request.getfixturevalue(family)
    assert_equal(loaded, [prompt_of(loaded, number % 7 + 1, seed=number)], params, seed=number)
