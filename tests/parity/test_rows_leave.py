"""Rows that have ended leave the batch, and nothing about any row changes for it."""

from __future__ import annotations

import pytest
import torch

from core.contract import AttentionQuery, DistributionQuery, Prompt, RunSpec
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import prompt_of, run

LENGTHS = (9, 4, 12)


def ends(loaded: LoadedModel) -> tuple[int, ...]:
    """EOS tokens that end the second row early and the third a little later."""
    alone = [run(loaded, [prompt_of(loaded, n)], {"max_new_tokens": 16}).sequences[0][n:] for n in LENGTHS]
    return (alone[1][3], alone[2][7])


def test_each_row_of_a_shrinking_batch_says_what_it_says_alone(loaded: LoadedModel) -> None:
    params = {"max_new_tokens": 16, "eos_token_id": ends(loaded)}
    prompts = [prompt_of(loaded, n) for n in LENGTHS]
    together = run(loaded, prompts, params)
    for row, prompt in enumerate(prompts):
        assert together.sequences[row] == run(loaded, [prompt], params).sequences[0]


def test_the_cache_gives_back_what_ended_rows_held(loaded: LoadedModel) -> None:
    spec = RunSpec(
        tuple(Prompt(ids=tuple(prompt_of(loaded, n))) for n in LENGTHS),
        {"max_new_tokens": 16, "eos_token_id": ends(loaded), "do_sample": False},
    )
    session = Session(loaded, spec)
    with session.attached():
        while not session.finished:
            session.advance()
            held = session.cache.layers[0].keys.shape[0]
            assert held == max(1, len(session.lanes)) or session.finished
    assert sum(1 for row in session.rows if row.finish_reason == "stop") >= 1


@pytest.mark.parametrize("row", range(3))
def test_views_of_a_row_are_those_of_the_row_alone(loaded: LoadedModel, row: int) -> None:
    params = {"max_new_tokens": 16, "eos_token_id": ends(loaded)}
    prompts = [prompt_of(loaded, n) for n in LENGTHS]
    together, alone = run(loaded, prompts, params).session, run(loaded, [prompts[row]], params).session
    for layer in (0, loaded.info.layers - 1):
        ours = together.answer(AttentionQuery(0, layer, row=row)).weights
        theirs = alone.answer(AttentionQuery(0, layer)).weights
        assert ours.shape == theirs.shape
        assert abs(ours - theirs).max() < 1e-4
    position = len(prompts[row]) - 1
    ours = together.answer(DistributionQuery(0, position, row=row))
    theirs = alone.answer(DistributionQuery(0, position))
    assert torch.allclose(torch.tensor(ours.logprob), torch.tensor(theirs.logprob), atol=1e-4)


def test_records_of_a_row_that_left_can_be_recomputed(loaded: LoadedModel) -> None:
    prompts = [prompt_of(loaded, n) for n in LENGTHS]
    session = run(loaded, prompts, {"max_new_tokens": 16, "eos_token_id": ends(loaded)}).session
    kept = session.answer(AttentionQuery(0, 1, row=1)).weights
    assert session.trace is not None
    session.trace.budget_bytes = 0
    while session.trace._drop_oldest():
        pass
    again = session.answer(AttentionQuery(0, 1, row=1, recompute=True)).weights
    assert abs(kept - again).max() < 1e-4
