"""The pipeline of past steps, stage by stage: what ran, and what would have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import core
from core.contract import (
    NonFiniteLogitsError,
    ParameterError,
    StepSnapshot,
    ViewUnavailableError,
    WaterfallAnswer,
    WaterfallQuery,
)
from core.decode.pipeline import run_pipeline
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, dense, finish, generate, open_session, prompt_of, run

PROMPT = 9
ALL: dict[str, Any] = {
    "do_sample": True,
    "sequence_bias": [[[7], 2.0], [[11, 4], -5.0]],
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[3], [8, 12]],
    "min_new_tokens": 3,
    "eos_token_id": [5],
    "suppress_tokens": [1, 2],
    "temperature": 1.3,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.95,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
    "watermarking_config": {"bias": 1.5},
    "renormalize_logits": True,
    "max_new_tokens": 8,
}


def ask(ours: Ours, position: int, changes: dict[str, Any] | None = None, **kwargs: Any) -> WaterfallAnswer:
    answer = ours.session.answer(WaterfallQuery(1, position, changes or {}, **{"top": 5000, **kwargs}))
    assert isinstance(answer, WaterfallAnswer)
    return answer


def dense_of(answer: WaterfallAnswer, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    raw, final = torch.full((vocabulary,), torch.nan), torch.full((vocabulary,), torch.nan)
    ids = torch.tensor(answer.token_ids)
    raw[ids], final[ids] = torch.tensor(answer.logprob), torch.tensor(answer.final_logprob)
    return raw, final


def test_replaying_all_stages_on_the_engine_s_logits_gives_its_scores_bit_for_bit(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, PROMPT), prompt_of(loaded, 5, seed=1)]
    session = open_session(loaded, rows, ALL, seed=3)
    seen: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    choose = session.mode.choose

    def spy(run: Any, processed: Any, place: int) -> Any:
        seen.append((run.pipeline_rows(), processed.raw.clone(), processed.final.clone()))
        return choose(run, processed, place)

    session.mode.choose = spy  # type: ignore[method-assign]
    finish(session)
    assert len(seen) > 3
    for pipeline_rows, raw, final in seen:
        assert torch.equal(run_pipeline(session.stages, pipeline_rows, raw), final)


@pytest.mark.parametrize("params", [ALL, {"max_new_tokens": 6, "repetition_penalty": 1.4}])
def test_the_waterfall_of_a_past_step_ends_at_what_the_step_reported(
    loaded: LoadedModel, params: dict[str, Any]
) -> None:
    ours = run(loaded, [prompt_of(loaded, PROMPT)], params, seed=2, top_logprobs=5000)
    vocabulary = loaded.info.output_size
    for step in ours.steps:
        answer = ask(ours, step.id.position - 1)
        raw, final = dense_of(answer, vocabulary)
        reported_raw, reported_final = dense(step, vocabulary)
        assert torch.equal(final.isneginf(), reported_final.isneginf())
        torch.testing.assert_close(raw, reported_raw, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(final, reported_final, atol=1e-5, rtol=1e-5)
        assert [stage.name for stage in answer.stages] == [stage.name for stage in ours.session.stages]
        assert (answer.token_id, answer.u) == (step.token_id, step.u)
        assert answer.piece == step.piece
        assert answer.replayable
        assert answer.reason == ""
        assert answer.entropy_bits == pytest.approx(step.entropy_bits, abs=1e-3)
        assert answer.final_entropy_bits == pytest.approx(step.final_entropy_bits, abs=1e-3)
        check_chain(answer, vocabulary)


def check_chain(answer: WaterfallAnswer, vocabulary: int) -> None:
    """Each stage begins where the one before ended, and its numbers agree with one another."""
    entropy, alive = answer.entropy_bits, vocabulary
    for stage in answer.stages:
        assert stage.entropy_before_bits == entropy
        assert stage.killed == alive - stage.survivors
        assert len(stage.killed_ids) == len(stage.killed_pieces) == min(stage.killed, answer.query.top)
        assert (np.diff(stage.killed_probability) <= 0).all()
        assert not stage.killed_ids.flags.writeable
        if stage.killed <= answer.query.top:
            assert stage.mass_kept == pytest.approx(1.0 - float(stage.killed_probability.sum()), abs=1e-4)
        assert 0.0 <= stage.mass_kept <= 1.0
        entropy, alive = stage.entropy_after_bits, stage.survivors
    assert (answer.final_entropy_bits, answer.survivors) == (entropy, alive)


def test_in_float32_the_recorded_residual_gives_the_engine_s_logits_bit_for_bit(tiny_gpt2: LoadedModel) -> None:
    ours = run(tiny_gpt2, [prompt_of(tiny_gpt2, PROMPT)], ALL, prefill_chunk=4, top_logprobs=5000)
    for step in ours.steps[1:]:  # the first one's logits came with a chunk of the prompt
        raw, final = dense_of(ask(ours, step.id.position - 1), tiny_gpt2.info.vocab_size)
        reported_raw, reported_final = dense(step, tiny_gpt2.info.vocab_size)
        assert torch.equal(raw, reported_raw)
        assert torch.equal(final, reported_final)


def test_what_if_shows_another_temperature_and_the_token_of_the_same_draw(loaded: LoadedModel) -> None:
    """A run of one token under the other parameters draws the same number and is the judge."""
    params = {"do_sample": True, "top_k": 0, "temperature": 1.0, "max_new_tokens": 6}
    ours = run(loaded, [prompt_of(loaded, PROMPT)], params, seed=7)
    for changes in ({"temperature": 0.3}, {"top_k": 3}, {"temperature": 2.5, "top_p": 0.5}, {"temperature": 0}):
        for index, step in enumerate(ours.steps):
            answer = ask(ours, step.id.position - 1, changes)
            prefix = ours.sequences[0][: PROMPT + index]
            alone = run(loaded, [prefix], {**params, **changes, "max_new_tokens": 1}, seed=7)
            assert answer.token_id == alone.steps[0].token_id
            assert answer.u == alone.steps[0].u
            assert answer.params == ours.session.params.replace(changes)
    assert ours.session.params.temperature == 1.0


def test_a_past_step_is_shown_under_the_parameters_it_had(tiny_gpt2: LoadedModel) -> None:
    params = {"do_sample": True, "top_k": 0, "max_new_tokens": 6}
    session = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, PROMPT)], params)
    steps: list[StepSnapshot] = []
    with session.attached():
        while len(steps) < 3:
            steps += [event for event in session.advance() if isinstance(event, StepSnapshot)]
        session.set_params({"top_k": 5}, epoch=1)
    ours = finish(session)
    for position, names in ((PROMPT - 1, []), (PROMPT + 1, []), (PROMPT + 2, ["top_k"]), (0, [])):
        assert [stage.name for stage in ask(ours, position).stages] == names
    for step in (*steps, *ours.steps):
        assert ask(ours, step.id.position - 1).token_id == step.token_id


def test_rows_have_their_own(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length, seed=4) for length in (4, 11, 7)]
    ours = run(loaded, rows, {**ALL, "min_length": 9}, seed=5, top_logprobs=5000)
    for step in ours.steps:
        answer = ask(ours, step.id.position - 1, row=step.id.row)
        assert answer.token_id == step.token_id
        _, final = dense_of(answer, loaded.info.output_size)
        torch.testing.assert_close(final, dense(step, loaded.info.output_size)[1], atol=1e-5, rtol=1e-5)


def test_the_named_tokens_are_the_likeliest_before_and_after(tiny_gpt2: LoadedModel) -> None:
    ours = run(tiny_gpt2, [prompt_of(tiny_gpt2, PROMPT)], {"suppress_tokens": list(range(200)), "max_new_tokens": 3})
    answer = ask(ours, PROMPT, top=6)
    assert 6 <= len(answer.token_ids) <= 12
    assert (np.diff(answer.logprob) <= 0).all()
    assert int((answer.final_logprob > -np.inf).sum()) >= 6
    (stage,) = answer.stages
    assert stage.killed == 200
    assert len(stage.killed_ids) == 6
    assert stage.params == {"suppress_tokens": tuple(range(200))}
    assert stage.killed_pieces[0] == tiny_gpt2.text.piece(int(stage.killed_ids[0]))


def test_what_cannot_be_replayed_or_drawn_says_why(tiny_gpt2: LoadedModel) -> None:
    ours = run(tiny_gpt2, [[1, 2]], {"do_sample": True, "max_new_tokens": 3}, draw_source="torch")
    answer = ask(ours, 1)
    assert answer.replayable
    assert answer.token_id is None
    assert "torch" in answer.reason
    beams = ask(ours, 1, {"num_beams": 3})
    assert beams.token_id is None
    assert "beams are drawn together" in beams.reason

    killed = ask(ours, 1, {"suppress_tokens": list(range(tiny_gpt2.info.vocab_size)), "repetition_penalty": 1.2})
    assert [stage.name for stage in killed.stages] == ["repetition_penalty", "suppress_tokens"]
    assert (killed.survivors, killed.token_id, killed.final_entropy_bits) == (0, None, 0.0)
    assert killed.reason == "The stage suppress_tokens leaves no token."

    with pytest.raises(ParameterError, match="at least 0"):
        ask(ours, 1, {"temperature": -1})
    with pytest.raises(ViewUnavailableError):
        ask(ours, 99)


def test_stages_behind_one_that_may_remember_are_not_shown(tiny_gpt2: LoadedModel) -> None:
    def custom(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores

    result = core.run(
        "tiny-gpt2", prompt_ids=[1, 2, 3], params={"repetition_penalty": 1.2, "top_k": 3, "max_new_tokens": 3},
        mode="sample", logits_processor=[custom], device="cpu", dtype="fp32",
    )  # fmt: skip
    answer = result.waterfall(-1)
    assert not answer.replayable
    assert [stage.name for stage in answer.stages] == ["repetition_penalty"]
    assert answer.token_id is None
    assert "custom" in answer.reason


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0.05, 0.7, 1.0, 40.0]),
        "top_k": st.sampled_from([0, 1, 7]),
        "top_p": st.sampled_from([0.0, 0.4, 0.99]),
        "min_p": st.sampled_from([0.0, 0.2, 1.0]),
        "typical_p": st.sampled_from([0.0, 0.3, 0.99]),
        "top_h": st.sampled_from([0.0, 0.1, 1.0]),
        "epsilon_cutoff": st.sampled_from([0.0, 0.3, 0.9]),
        "eta_cutoff": st.sampled_from([0.0, 0.3, 0.9]),
        "repetition_penalty": st.sampled_from([0.01, 1.5, 100.0]),
        "suppress_tokens": st.sampled_from([[], [0, 1], list(range(299)), list(range(300))]),
        "bad_words_ids": st.sampled_from([[[i] for i in range(300)], [[1]]]),
        "sequence_bias": st.sampled_from([[[[4], 3e38]], [[[4], -3e38]], [[[5], 1.0]]]),
        "encoder_repetition_penalty": st.sampled_from([0.01, 100.0]),
        "forced_eos_token_id": st.sampled_from([[], [3]]),
        "remove_invalid_values": st.booleans(),
        "renormalize_logits": st.booleans(),
        "exponential_decay_length_penalty": st.sampled_from([[], [0, 1e30]]),
        "watermarking_config": st.sampled_from([None, {"bias": 1e38}]),
        "eos_token_id": st.sampled_from([[], [3]]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES)
def test_the_final_distribution_sums_to_1_or_the_error_names_the_stage(
    random_llama: LoadedModel, values: dict[str, Any]
) -> None:
    if set(values.get("forced_eos_token_id", ())) <= set(values.get("suppress_tokens", ())):
        values.pop("forced_eos_token_id", None)  # refused before the run
    session = open_session(random_llama, [[7, 8, 9]], {"max_new_tokens": 3, **values}, top_logprobs=5000)
    try:
        ours = finish(session)
    except NonFiniteLogitsError as error:
        message = error.message
    else:
        message = ""
    if message:
        assert any(f"The stage {stage.name} of the pipeline" in message for stage in session.stages)
        return
    for step in ours.steps:
        assert float(np.exp(step.top.final_logprob.astype(np.float64)).sum()) == pytest.approx(1.0, abs=1e-4)


def test_nothing_is_computed_when_nobody_asks(tiny_gpt2: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr("core.trace.waterfall._report", never)
    assert run(tiny_gpt2, [[1, 2]], ALL).steps


def test_the_reference_agrees(random_qwen2: LoadedModel) -> None:
    """Entropy and mass of each stage against `generate()`'s own scores, at both ends of the chain."""
    params = {"do_sample": True, "temperature": 0.8, "top_k": 12, "top_p": 0.9, "max_new_tokens": 4}
    rows = [prompt_of(random_qwen2, 6)]
    expected = generate(random_qwen2, rows, seed=1, **params)
    ours = run(random_qwen2, rows, params, seed=1, draw_source="torch")
    for index, step in enumerate(ours.steps):
        answer = ask(ours, step.id.position - 1)
        for scores, bits in ((expected.logits, answer.entropy_bits), (expected.scores, answer.final_entropy_bits)):
            p = scores[index][0].double().softmax(-1)
            wanted = float(torch.special.entr(p).sum() / np.log(2))
            assert bits == pytest.approx(wanted, abs=1e-3)
        assert answer.survivors == int(expected.scores[index][0].isfinite().sum())


def test_asking_again_reads_the_head_once_and_another_place_reads_its_own(tiny_gpt2: LoadedModel) -> None:
    rows = [prompt_of(tiny_gpt2, length, seed=6) for length in (5, 5)]
    ours = run(tiny_gpt2, rows, {"do_sample": True, "max_new_tokens": 4})
    reads: list[int] = []
    head = tiny_gpt2.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: reads.append(1))
    try:
        first = ask(ours, 5)
        again = ask(ours, 5, {"temperature": 0.5})
        assert len(reads) == 1
        assert np.array_equal(np.sort(first.logprob), np.sort(again.logprob))
        for row, position in ((1, 5), (0, 6), (0, 5)):
            assert ask(ours, position, row=row).query.position == position
        assert len(reads) == 4
    finally:
        handle.remove()


def test_in_bfloat16_the_read_out_is_within_its_tolerance() -> None:
    params = {"temperature": 0.8, "top_k": 0, "max_new_tokens": 5, "eos_token_id": []}
    result = core.run(
        "tiny-gpt2", prompt_ids=[1, 2, 3], params=params, mode="sample", device="cpu", dtype="bf16", top_logprobs=5000
    )
    vocabulary = result.model.vocab_size
    for step in result.steps:
        _, final = dense_of(result.waterfall(step.id.position - 1, top=5000), vocabulary)
        torch.testing.assert_close(final, dense(step, vocabulary)[1], atol=0.1, rtol=0.02)
    core.unload("tiny-gpt2")


def test_a_step_of_a_group_of_beams_is_replayed_with_what_the_groups_before_said(random_llama: LoadedModel) -> None:
    params = {
        "num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 2.5, "max_new_tokens": 7, "repetition_penalty": 1.2,
        "eos_token_id": list(range(100, 140)),
    }  # fmt: skip
    prompt = prompt_of(random_llama, PROMPT)
    ours = run(random_llama, [prompt], params)
    penalised = 0
    for step in ours.steps:
        at = PROMPT - 1 + step.id.index
        answer = ask(ours, at, beam=step.id.beam, index=step.id.index)
        assert [stage.name for stage in answer.stages] == ["diversity_penalty", "repetition_penalty"]
        assert answer.replayable
        final = dict(zip(answer.token_ids.tolist(), answer.final_logprob.tolist(), strict=True))
        assert final[step.token_id] == pytest.approx(step.final_logprob, abs=1e-4)
        penalised += answer.stages[0].entropy_after_bits != answer.stages[0].entropy_before_bits
    assert penalised
    first = ask(ours, PROMPT - 1, beam=0, index=0)
    gentle = ask(ours, PROMPT - 1, {"diversity_penalty": 0.0}, beam=5, index=0)
    assert gentle.stages[0].params == {"diversity_penalty": 0.0}
    assert gentle.final_entropy_bits == pytest.approx(first.final_entropy_bits, abs=1e-4)
