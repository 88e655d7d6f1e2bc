"""Views of beams, returned, running and dead: what a plain forward pass of their ids gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core import api
from core.contract import AttentionQuery, DistributionQuery, Prompt, ThumbnailQuery, ViewUnavailableError
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import eager_attention, full_logits, open_session, prompt_of, run

MODES: list[dict[str, Any]] = [
    {"num_beams": 4, "eos_token_id": list(range(100, 130))},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.9, "eos_token_id": list(range(100, 130))},
]


def assert_views(loaded: LoadedModel, session: Session, place: tuple[int, int, int | None], ids: list[int]) -> None:
    """`ids`: what was fed of that sequence."""
    row, beam, index = place
    where: dict[str, Any] = {"row": row, "beam": beam, "index": index}
    for layer, expected in enumerate(eager_attention(loaded, ids)):
        ours = session.answer(AttentionQuery(1, layer, **where)).weights
        assert ours.shape == tuple(expected.shape)
        assert np.abs(ours - expected.numpy()).max() < 1e-5
    logits = torch.log_softmax(full_logits(loaded, ids), dim=-1).numpy()
    for position in (0, len(ids) // 2, len(ids) - 1):
        answer = session.answer(DistributionQuery(1, position, top=20, **where))
        assert np.allclose(answer.logprob, logits[position][answer.token_ids], atol=1e-3)
    maps = session.answer(ThumbnailQuery(1, (0,), **where)).maps
    assert maps.shape[:2] == (1, loaded.info.heads)


@pytest.mark.parametrize("params", MODES, ids=["beams", "groups"])
def test_views_of_returned_sequences(loaded: LoadedModel, params: dict[str, Any]) -> None:
    rows = [prompt_of(loaded, length, seed=2) for length in (5, 9)]
    eos = [token_id for token_id in params["eos_token_id"] if token_id < loaded.info.vocab_size]
    ours = run(loaded, rows, {**params, "eos_token_id": eos, "max_new_tokens": 9, "num_return_sequences": 3})
    for ids, place in zip(ours.sequences, ours.finished.places, strict=True):
        assert_views(loaded, ours.session, place, ids[:-1])


@pytest.mark.parametrize("params", MODES, ids=["beams", "groups"])
def test_views_of_every_beam_there_ever_was_dead_ones_too(random_llama: LoadedModel, params: dict[str, Any]) -> None:
    prompt = prompt_of(random_llama, 6, seed=4)
    ours = run(random_llama, [prompt], {**params, "max_new_tokens": 7})
    steps = {(step.id.beam, step.id.index): step for step in ours.steps}
    parents = {(step.detail.parent, step.id.index - 1) for step in ours.steps}
    dead = [key for key in steps if key not in parents and key[1] < max(index for _, index in steps)]
    assert dead
    for key in steps:
        said: list[int] = []
        beam = key[0]
        for at in range(key[1], -1, -1):
            said.append(steps[beam, at].token_id)
            beam = steps[beam, at].detail.parent
        assert_views(random_llama, ours.session, (0, *key), [*prompt, *said[:0:-1]])


def test_views_while_beams_run(random_gpt2: LoadedModel) -> None:
    prompt = prompt_of(random_gpt2, 6)
    session = open_session(random_gpt2, [prompt], {"num_beams": 3, "max_new_tokens": 8})
    with session.attached():
        while session.new_tokens < 5:
            session.advance()
    for lane in session.lanes:
        assert_views(random_gpt2, session, (0, lane.beam, None), [*prompt, *lane.token_ids[:-1]])
    with pytest.raises(ViewUnavailableError, match="no beam 7"):
        session.answer(AttentionQuery(1, 0, beam=7))


def test_records_of_a_dead_beam_can_be_recomputed(random_qwen2: LoadedModel) -> None:
    session = run(random_qwen2, [prompt_of(random_qwen2, 6)], {"num_beams": 4, "max_new_tokens": 8}).session
    query = {"row": 0, "beam": 3, "index": 4, "recompute": True}
    kept = session.answer(AttentionQuery(1, 1, **query)).weights
    assert session.trace is not None
    session.trace.budget_bytes = 0
    while session.trace._drop_oldest():
        pass
    assert np.abs(session.answer(AttentionQuery(1, 1, **query)).weights - kept).max() < 1e-5


def test_results_of_the_api_find_their_own_beam(tiny_gpt2: LoadedModel) -> None:
    prompt = tiny_gpt2.text.encode("Once upon a time there was")
    params = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 12, "do_sample": False, "eos_token_id": []}
    result = api.run("tiny-gpt2", prompt_ids=[prompt, prompt[:3]], params=params, device="cpu", dtype="fp32")
    assert len(result.sequences) == len(result.texts) == 6
    assert result.sequences_scores is not None
    assert result.sequences_scores[:3] == sorted(result.sequences_scores[:3], reverse=True)
    for row in (1, 5):
        ids = result.sequences[row][:-1]
        assert result.positions(row) == len(ids)
        expected = eager_attention(tiny_gpt2, ids)[2].numpy()
        assert np.abs(result.attention(2, row=row) - expected).max() < 1e-5
        answer = result.distribution(-1, row=row, top=5)
        logits = torch.log_softmax(full_logits(tiny_gpt2, ids)[-1], dim=-1).numpy()
        assert np.allclose(answer.logprob, logits[answer.token_ids], atol=1e-3)
    plain = api.run("tiny-gpt2", prompt_ids=prompt, params={"max_new_tokens": 2, "do_sample": False}, dtype="fp32")
    assert plain.sequences_scores is None


def test_guided_beams_add_up_guided_scores_and_replay_them(random_llama: LoadedModel) -> None:
    """The negative prompt's stream follows every beam: scores are those of plain passes over both sequences."""
    rows, negative, scale = [prompt_of(random_llama, n, seed=6) for n in (5, 8)], prompt_of(random_llama, 3), 1.8
    params = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6, "guidance_scale": scale}
    ours = run(random_llama, rows, params, negative_prompt=Prompt(ids=tuple(negative)))
    for number, (ids, score) in enumerate(zip(ours.sequences, ours.finished.scores or (), strict=True)):
        prompt, new = rows[number // 3], ids[len(rows[number // 3]) :]
        with_prompt = torch.log_softmax(full_logits(random_llama, ids), dim=-1)[len(prompt) - 1 :]
        without = torch.log_softmax(full_logits(random_llama, [*negative, *new]), dim=-1)[len(negative) - 1 :]
        guided = scale * (with_prompt - without) + without
        assert score == pytest.approx(sum(float(guided[n, t]) for n, t in enumerate(new)) / len(new), abs=1e-3)
        row, beam, index = ours.finished.places[number]
        for n in (0, 3, 5):
            where: dict[str, Any] = {"row": row, "beam": beam, "index": index, "final": True, "top": 5}
            answer = ours.session.answer(DistributionQuery(1, len(prompt) - 1 + n, **where))
            expected = torch.log_softmax(guided[n], dim=-1).numpy()
            assert np.allclose(answer.logprob, expected[answer.token_ids], atol=1e-3)
