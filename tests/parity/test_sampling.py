"""Sampling from torch's generator equals `generate()` under the same seed, token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.models.loaded import LoadedModel
from tests.parity.reference import generate, prompt_of, run, unpadded

SETTINGS: list[dict[str, Any]] = [
    {"top_k": 0},
    {"top_k": 0, "temperature": 1.8},
    {"top_k": 20, "top_p": 0.9, "temperature": 0.8},
    {"top_k": 50, "min_p": 0.02, "typical_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s))
@pytest.mark.parametrize("seed", [0, 12345])
def test_the_same_seed_draws_what_generate_draws(loaded: LoadedModel, settings: dict[str, Any], seed: int) -> None:
    rows = [prompt_of(loaded, 7)]
    params = {"do_sample": True, "max_new_tokens": 24, **settings}
    expected = generate(loaded, rows, seed=seed, **params)
    ours = run(loaded, rows, params, seed=seed, draw_source="torch")
    assert ours.sequences == unpadded(rows, expected.sequences)
    assert [step.u for step in ours.steps] == [None] * 24  # torch does not tell its draws


def test_several_sequences_from_a_padded_batch_equal_generate(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length, seed=5) for length in (4, 13)]
    params = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 16, "num_return_sequences": 3}
    expected = generate(loaded, rows, seed=3, **params)
    ours = run(loaded, rows, params, seed=3, draw_source="torch")
    assert ours.sequences == unpadded(rows, expected.sequences, copies=3)
    assert len({tuple(ids) for ids in ours.sequences[:3]}) == 3  # they are not copies of each other


def test_rows_that_have_ended_do_not_disturb_the_draws_of_the_others(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 5, seed=6)]
    params = {"do_sample": True, "top_k": 0, "temperature": 1.5, "max_new_tokens": 24, "num_return_sequences": 4}
    free = run(loaded, rows, params, seed=8, draw_source="torch")
    eos = sorted({free.sequences[0][5 + 2], free.sequences[2][5 + 10]})
    expected = generate(loaded, rows, seed=8, eos_token_id=eos, **params)
    ours = run(loaded, rows, {**params, "eos_token_id": eos}, seed=8, draw_source="torch")
    assert ours.sequences == unpadded(rows, expected.sequences, eos, copies=4)
    assert len({len(ids) for ids in ours.sequences}) > 1


def test_the_draws_leave_torch_s_own_generator_alone(tiny_gpt2: LoadedModel) -> None:
    before = torch.random.get_rng_state()
    for source in ("torch", "counter"):
        run(tiny_gpt2, [prompt_of(tiny_gpt2, 3)], {"do_sample": True}, draw_source=source)
    assert torch.equal(torch.random.get_rng_state(), before)
