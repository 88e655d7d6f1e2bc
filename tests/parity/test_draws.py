"""Counter-based draws: a function of seed, row and position, and truly distributed as the model says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from core.decode.random import inverse_cdf, uniform
from core.models.loaded import LoadedModel
from tests.parity.reference import dense, prompt_of, run

SAMPLING = {"do_sample": True, "top_k": 0, "temperature": 1.5, "max_new_tokens": 16}


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 7)]
    first, again, other = (run(loaded, rows, SAMPLING, seed=seed) for seed in (5, 5, 6))
    assert first.sequences == again.sequences
    assert [step.u for step in first.steps] == [step.u for step in again.steps]
    assert first.sequences != other.sequences
    assert run(loaded, rows, SAMPLING, seed=5, reroll=1).sequences != first.sequences


def test_draws_depend_on_nothing_but_seed_row_position(loaded: LoadedModel) -> None:
    """Neither chunks, nor recording, nor candidates, nor the length asked for change a draw."""
    rows = [prompt_of(loaded, 9)]
    expected = run(loaded, rows, SAMPLING, seed=3).sequences
    for spec in ({"prefill_chunk": 2}, {"trace": False}, {"top_logprobs": 0}):
        assert run(loaded, rows, SAMPLING, seed=3, **spec).sequences == expected
    longer = run(loaded, rows, {**SAMPLING, "max_new_tokens": 24}, seed=3).sequences
    assert longer[0][: len(expected[0])] == expected[0]


def test_a_run_resumed_from_its_own_middle_draws_the_same(loaded: LoadedModel) -> None:
    """The prompt and its first tokens as a new prompt: the draws belong to positions, not to the run."""
    rows = [prompt_of(loaded, 5)]
    whole = run(loaded, rows, SAMPLING, seed=9)
    for taken in (1, 6):
        start = [whole.sequences[0][: 5 + taken]]
        rest = run(loaded, start, {**SAMPLING, "max_new_tokens": 16 - taken}, seed=9)
        assert [step.u for step in rest.steps] == [step.u for step in whole.steps[taken:]]
        assert rest.sequences == whole.sequences


def test_rows_differ(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 4)], {**SAMPLING, "num_return_sequences": 5}, seed=1)
    assert len({tuple(ids) for ids in ours.sequences}) == 5
    assert len({step.u for step in ours.steps}) == len(ours.steps)


def test_the_draw_falls_on_the_chosen_token(loaded: LoadedModel) -> None:
    """The needle: u lies in the chosen token's part of the cumulative bar, likeliest first."""
    ours = run(loaded, [prompt_of(loaded, 6)], SAMPLING, seed=2, top_logprobs=loaded.info.output_size)
    for step in ours.steps:
        _, final = dense(step, loaded.info.output_size)
        probabilities = final.double().exp() / final.double().exp().sum()
        ids = sorted(range(len(probabilities)), key=lambda i: (-float(probabilities[i]), i))
        before = sum(float(probabilities[i]) for i in ids[: ids.index(step.token_id)])
        assert step.u is not None
        assert before - 1e-6 <= step.u <= before + float(probabilities[step.token_id]) + 1e-6


def test_greedy_search_draws_nothing(loaded: LoadedModel) -> None:
    assert {step.u for step in run(loaded, [prompt_of(loaded, 4)]).steps} == {None}


def test_tokens_are_distributed_as_the_final_distribution_says(random_gpt2: LoadedModel) -> None:
    """Chi-square over 2,048 first tokens from one prompt; seeds are fixed, so the verdict is, too."""
    draws = 2048
    step = run(random_gpt2, [prompt_of(random_gpt2, 5)], {**SAMPLING, "max_new_tokens": 1}, top_logprobs=300).steps[0]
    _, final = dense(step, 300)
    counts = Counter(inverse_cdf(final, uniform(seed, row=seed % 7, position=5)) for seed in range(draws))
    expected = draws * final.exp().double()
    common = expected >= 8  # the rest is joined into one cell, as the test demands
    observed = torch.tensor([counts[i] for i in range(300)], dtype=torch.float64)
    cells = torch.cat([observed[common], observed[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = float(((cells - wanted) ** 2 / wanted).sum())
    freedom = len(cells) - 1
    assert freedom >= 10
    # Wilson and Hilferty: the cube root of chi-square over its freedom is normal; 4 standard deviations.
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < limit


def test_rows_of_one_run_are_distributed_so_too(random_gpt2: LoadedModel) -> None:
    """The same through the whole engine: 64 rows a run."""
    counts: Counter[int] = Counter()
    params = {**SAMPLING, "max_new_tokens": 1, "num_return_sequences": 64}
    for seed in range(16):
        ours = run(random_gpt2, [prompt_of(random_gpt2, 5)], params, seed=seed, trace=False, top_logprobs=300)
        counts.update(step.token_id for step in ours.steps)
    _, final = dense(ours.steps[0], 300)
    likeliest = int(final.argmax())
    share, total = float(final[likeliest].exp()), 64 * 16
    assert counts[likeliest] / total == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5)
