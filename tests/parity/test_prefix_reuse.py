"""A run that continues the run before it equals a fresh one, and its views reach back into the shared records."""

from __future__ import annotations

import numpy as np
import pytest

from core.contract import AttentionQuery, Prompt, RunSpec, StepSnapshot
from core.decode.kv import cache_length
from core.decode.session import Session
from core.models.loaded import LoadedModel

MODELS = ["random_gpt2", "random_llama", "random_qwen2_sliding"]
FIRST = (3, 5, 7, 9, 11, 13, 15, 17)


def session(loaded: LoadedModel, ids: tuple[int, ...], before: Session | None = None, reuse: bool = True) -> Session:
    params = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": ()}
    spec = RunSpec(prompts=(Prompt(ids=ids),), params=params, reuse_prefix=reuse, prefill_chunk=3)
    return Session(loaded, spec, before=before)


def run(it: Session) -> list[StepSnapshot]:
    steps: list[StepSnapshot] = []
    with it.attached():
        while not it.finished:
            steps += [event for event in it.advance() if isinstance(event, StepSnapshot)]
    return steps


@pytest.mark.parametrize("name", MODELS)
def test_the_next_turn_equals_a_fresh_run_and_reuses_what_was_fed(name: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    first = session(loaded, FIRST)
    run(first)
    fed = cache_length(first.cache)
    turn = (*first.result().sequences[0], 21, 22, 23)
    second, fresh = session(loaded, turn, before=first), session(loaded, turn)
    assert second.started.reused_positions == fed == len(turn) - 4
    ours, theirs = run(second), run(fresh)
    assert [s.token_id for s in ours] == [s.token_id for s in theirs]
    assert np.allclose([s.entropy_bits for s in ours], [s.entropy_bits for s in theirs], atol=1e-3)
    query = AttentionQuery(0, layer=1)
    assert np.allclose(second.answer(query).weights, fresh.answer(query).weights, atol=1e-5)


def test_the_run_before_keeps_its_own_cache(random_gpt2: LoadedModel) -> None:
    first = session(random_gpt2, FIRST)
    run(first)
    weights = first.answer(AttentionQuery(0, layer=0)).weights.copy()
    run(session(random_gpt2, (*FIRST[:4], 40, 41, 42), before=first))
    assert np.array_equal(first.answer(AttentionQuery(0, layer=0)).weights, weights)


def test_the_same_prompt_again_feeds_its_last_position(random_gpt2: LoadedModel) -> None:
    first = session(random_gpt2, FIRST)
    run(first)
    again = session(random_gpt2, FIRST, before=first)
    assert again.started.reused_positions == len(FIRST) - 1
    assert [s.token_id for s in run(again)] == list(first.result().sequences[0][len(FIRST) :])


@pytest.mark.parametrize("ids", [(99, *FIRST), (4, 5)])
def test_nothing_is_reused_where_nothing_is_the_same(random_gpt2: LoadedModel, ids: tuple[int, ...]) -> None:
    first = session(random_gpt2, FIRST)
    run(first)
    assert session(random_gpt2, ids, before=first).started.reused_positions == 0


def test_without_the_wish_a_run_never_depends_on_the_one_before(random_gpt2: LoadedModel) -> None:
    first = session(random_gpt2, FIRST)
    run(first)
    assert session(random_gpt2, (*FIRST, 1), before=first, reuse=False).started.reused_positions == 0
