"""Beams of which nothing is left: `generate()` goes on with the others. What is impossible is no result."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from core.contract import Grammar, NonFiniteLogitsError, ParameterError, Prompt, RunSpec
from core.decode.extras import Extras
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import finish, generate, prompt_of, run, unpadded

FAMILIES = ("random_gpt2", "random_llama", "random_qwen2")
LEAVES = 24  # of each of these tests


@pytest.mark.parametrize("number", range(LEAVES))
def test_a_beam_that_has_no_token_left_does_not_end_the_others(number: int, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(FAMILIES[number % 3])
    draw = random.Random(number)
    kept = draw.sample(range(1, 300), 3)
    params = {
        "num_beams": 4, "num_return_sequences": draw.choice([1, 4]), "max_new_tokens": draw.choice([6, 8, 9]),
        "suppress_tokens": [token for token in range(300) if token not in kept], "no_repeat_ngram_size": 2,
        "do_sample": number % 4 == 3,
    }  # fmt: skip
    prompt = [kept[0], *prompt_of(loaded, 1)]
    expected = generate(loaded, [prompt], seed=number, **params)
    ours = run(loaded, [prompt], params, seed=number, draw_source="torch")
    scores = expected.sequences_scores.tolist()
    assert ours.finished.scores == pytest.approx(scores, rel=1e-5, abs=1e-4)
    theirs = unpadded([prompt], expected.sequences, copies=params["num_return_sequences"])
    for mine, their, score in zip(ours.sequences, theirs, scores, strict=True):
        # Where too few were found, `generate()` gives what it has not finished, by chance; we give the prompt alone.
        assert mine == (their if score > -1e8 else prompt)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("width", [2, 4])
def test_one_way_alone_is_what_generate_makes_of_it(
    random_gpt2: LoadedModel, width: int, early_stopping: bool | str
) -> None:
    def one_way(row: int, ids: Any) -> list[int]:
        return [20] if len(ids) < 8 else [0]

    params: dict[str, Any] = {
        "num_beams": width, "num_return_sequences": 2, "early_stopping": early_stopping, "max_new_tokens": 10,
        "eos_token_id": [0, 1, 2, 3],
    }  # fmt: skip
    prompt = [5, 6, 7]
    expected = generate(random_gpt2, [prompt], prefix_allowed_tokens_fn=one_way, **params)
    spec = RunSpec((Prompt(ids=tuple(prompt)),), {"do_sample": False, **params})
    ours = finish(Session(random_gpt2, spec, extras=Extras(prefix_allowed_tokens_fn=one_way)))
    assert ours.sequences[0] == [5, 6, 7, 20, 20, 20, 20, 20, 0]
    for mine, theirs in zip(ours.sequences, expected.sequences.tolist(), strict=True):
        assert mine == theirs[: len(mine)]
    assert ours.finished.scores == pytest.approx(expected.sequences_scores.tolist(), rel=1e-5)


@pytest.mark.parametrize("number", range(LEAVES))
def test_nothing_that_was_ruled_out_is_drawn_and_kept(number: int, request: pytest.FixtureRequest) -> None:
    loaded: LoadedModel = request.getfixturevalue(FAMILIES[number % 3])
    params = {
        "num_beams": 5, "num_return_sequences": 2, "early_stopping": number % 2 == 0, "max_new_tokens": 12,
        "do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.3, "eos_token_id": list(range(100, 160)),
    }  # fmt: skip
    prompt = prompt_of(loaded, 3, seed=number)
    expected = generate(loaded, [prompt], seed=number, **params)
    ours = run(loaded, [prompt], params, seed=number, draw_source="torch", trace=False)
    assert ours.sequences == unpadded([prompt], expected.sequences, params["eos_token_id"], copies=2)
    counted = run(loaded, [prompt], params, seed=number, trace=False)
    assert all(math.isfinite(score) for score in counted.finished.scores or ())
    assert all(math.isfinite(event.final_logprob) for event in counted.steps if event.finish_reason == "stop")


def test_who_ruled_the_tokens_out_together_is_named(random_gpt2: LoadedModel) -> None:
    kept = [7, 8]
    rest = [token for token in range(300) if token not in kept]
    params: dict[str, Any] = {"suppress_tokens": rest, "no_repeat_ngram_size": 1, "max_new_tokens": 5}
    for more in ({}, {"num_beams": 2}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0}):
        with pytest.raises(
            NonFiniteLogitsError, match="The stages no_repeat_ngram_size and suppress_tokens of the pipeline together"
        ):
            run(random_gpt2, [[7, 8]], {**params, **more})


def test_forced_words_that_are_forbidden_are_refused(random_gpt2: LoadedModel) -> None:
    params = {"num_beams": 3, "max_new_tokens": 6}
    for bad in ([[21]], [[9], [20, 21]]):
        with pytest.raises(ParameterError, match="suppress_tokens or bad_words_ids forbids"):
            run(random_gpt2, [[5]], {**params, "force_words_ids": [[20, 21, 22]], "bad_words_ids": bad})
    allowed = {**params, "force_words_ids": [[[20, 21], [30, 31]]], "bad_words_ids": [[20]]}
    assert {30, 31} <= set(run(random_gpt2, [[5]], allowed).sequences[0])


def test_forced_words_that_the_rest_of_the_pipeline_forbids_end_the_run_with_a_sentence(tiny_gpt2: LoadedModel) -> None:
    prompt = Prompt("The dog was")
    params = {"do_sample": False, "num_beams": 4, "max_new_tokens": 20, "num_return_sequences": 4}
    grammar = Grammar("choice", " very big.\n very small and lazy.")
    the = tiny_gpt2.text.encode(" the")
    session = Session(tiny_gpt2, RunSpec((prompt,), {**params, "force_words_ids": [the]}, grammar=grammar))
    with pytest.raises(ParameterError, match=r"No beam could say what force_words_ids asks for.* rule out ' the'"):
        finish(session)
    assert session.result().error is not None
    very = tiny_gpt2.text.encode(" lazy")
    ours = finish(Session(tiny_gpt2, RunSpec((prompt,), {**params, "force_words_ids": [very]}, grammar=grammar)))
    assert ours.finished.texts[0] == " very small and lazy."
    assert all(math.isfinite(score) for score in ours.finished.scores or ())
