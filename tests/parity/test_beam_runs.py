"""Beam runs beyond the grid: batches, ends of every kind, what is told of each beam, cancelling, changes on the way."""

from __future__ import annotations

from typing import Any

import pytest

from core.contract import (
    BeamDetail,
    FinishReason,
    HypothesisEnded,
    InternalError,
    ParameterError,
    Prompt,
    RunSpec,
    StepSnapshot,
)
from core.decode.pipeline import Stage
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import finish, generate, open_session, prompt_of, run, unpadded

MODES: dict[str, dict[str, Any]] = {
    "beam_search": {"num_beams": 4},
    "beam_sample": {"num_beams": 4, "do_sample": True, "temperature": 1.5},
    "group_beam_search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    "constrained_beam_search": {"num_beams": 4, "force_words_ids": [[21, 22], [[30], [31, 32]]]},
}
EOS = list(range(100, 160))  # of 300 tokens, so that beams end at every step

every_mode = pytest.mark.parametrize("mode", MODES)


def events_of(session: Session, events: list[object] | None = None) -> list[object]:
    events = [] if events is None else events
    with session.attached():
        while not session.finished:
            events += session.advance()
    return events


@pytest.mark.parametrize("copies", [1, 3])
def test_a_padded_batch_equals_generate_and_each_row_alone(loaded: LoadedModel, copies: int) -> None:
    rows = [prompt_of(loaded, length, seed=11) for length in (3, 12, 1, 7)]
    eos = list(range(loaded.info.vocab_size // 3, loaded.info.vocab_size // 2))  # beams end at every step
    params = {"num_beams": 3, "num_return_sequences": copies, "max_new_tokens": 12, "eos_token_id": eos}
    expected = generate(loaded, rows, **params)
    together = run(loaded, rows, params)
    assert together.sequences == unpadded(rows, expected.sequences, eos, copies=copies)
    assert together.finished.scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4)
    alone = [sequence for row in rows for sequence in run(loaded, [row], params).sequences]
    assert together.sequences == alone
    assert [len(ids) for ids in together.finished.sequences] == [len(ids) for ids in alone]


def test_a_sampled_batch_draws_what_generate_draws(random_llama: LoadedModel) -> None:
    rows = [prompt_of(random_llama, length, seed=12) for length in (4, 9, 2)]
    params = {"num_beams": 3, "do_sample": True, "max_new_tokens": 10, "eos_token_id": EOS, "top_k": 0}
    expected = generate(random_llama, rows, seed=5, **params)
    ours = run(random_llama, rows, params, seed=5, draw_source="torch")
    assert ours.sequences == unpadded(rows, expected.sequences, EOS)


@every_mode
def test_rows_of_a_batch_say_what_they_say_alone_even_under_penalties(random_qwen2: LoadedModel, mode: str) -> None:
    rows = [prompt_of(random_qwen2, length, seed=13) for length in (3, 8, 5)]
    params = {**MODES[mode], "max_new_tokens": 9, "eos_token_id": EOS, "repetition_penalty": 1.4}
    together = run(random_qwen2, rows, params)
    alone = run(random_qwen2, rows[:1], params)  # the first one: draws depend on the number of the row
    assert together.sequences[0] == alone.sequences[0]
    if mode != "beam_sample":
        assert together.sequences == [run(random_qwen2, [row], params).sequences[0] for row in rows]


@pytest.mark.parametrize("stop", ["the", "e w", "."])
def test_stop_strings_end_hypotheses_as_in_generate(tiny_gpt2: LoadedModel, stop: str) -> None:
    rows = [tiny_gpt2.text.encode("Once upon a time there was a")]
    params = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 14, "stop_strings": [stop]}
    expected = generate(tiny_gpt2, rows, tokenizer=tiny_gpt2.text.tokenizer, **params)
    ours = run(tiny_gpt2, rows, params)
    width = len(rows[0])
    for mine, theirs in zip(ours.sequences, expected.sequences.tolist(), strict=True):
        assert mine == theirs[: len(mine)]
        assert len(mine) > width
    assert ours.finished.scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4)


def test_the_model_s_positions_end_a_search(random_gpt2: LoadedModel) -> None:
    prompt = prompt_of(random_gpt2, 60)
    ours = run(random_gpt2, [prompt], {"num_beams": 3, "max_new_tokens": 40, "num_return_sequences": 3})
    assert {len(ids) for ids in ours.sequences} == {65}  # 64 positions can be fed, and one more token chosen
    assert set(ours.finished.finish_reasons) == {FinishReason.LENGTH_LIMIT}


def test_time_ends_a_search_with_its_running_beams(random_gpt2: LoadedModel) -> None:
    prompt = prompt_of(random_gpt2, 5)
    ours = run(random_gpt2, [prompt], {"num_beams": 3, "max_time": 0.0, "num_return_sequences": 3})
    assert set(ours.finished.finish_reasons) == {FinishReason.TIME}
    expected = generate(random_gpt2, [prompt], num_beams=3, num_return_sequences=3, max_new_tokens=1)
    assert ours.sequences == unpadded([prompt], expected.sequences, copies=3)


@every_mode
def test_every_beam_and_step_is_told(random_llama: LoadedModel, mode: str) -> None:
    params = {**MODES[mode], "max_new_tokens": 10, "eos_token_id": EOS[:20], "num_return_sequences": 3}
    prompt = prompt_of(random_llama, 6, seed=3)
    session = open_session(random_llama, [prompt], params)
    events = events_of(session)
    steps = {(e.id.beam, e.id.index): e for e in events if isinstance(e, StepSnapshot)}
    ended = [e.hypothesis for e in events if isinstance(e, HypothesisEnded)]
    last = max(index for _, index in steps)
    assert {beam for beam, index in steps if index == 0} >= {0, 1, 2, 3}

    def spoken(beam: int, index: int) -> list[int]:
        """Tokens by the parents that were told."""
        ids: list[int] = []
        for at in range(index, -1, -1):
            step = steps[beam, at]
            assert isinstance(step.detail, BeamDetail)
            ids.append(step.token_id)
            beam = step.detail.parent
        return ids[::-1]

    for (beam, index), step in steps.items():
        detail = step.detail
        assert isinstance(detail, BeamDetail)
        if index and detail.score > -1e8:
            before = steps[detail.parent, index - 1].detail
            assert isinstance(before, BeamDetail)
            gained = step.logprob - detail.penalty
            if mode != "beam_sample":  # there the pipeline changes the log-probabilities
                assert detail.score == pytest.approx(before.score + gained, abs=1e-3)
        assert len(spoken(beam, index)) == index + 1
        assert step.id.position == len(prompt) + index
    for hypothesis in ended:
        assert spoken(hypothesis.beam, hypothesis.index) == list(hypothesis.token_ids)
        assert steps[hypothesis.beam, hypothesis.index].finish_reason in ("stop", "length")
    finished = session.result()
    for ids, score, place in zip(finished.sequences, finished.scores or (), finished.places, strict=True):
        row, beam, index = place
        assert row == 0
        assert index is not None
        assert spoken(beam, index) == list(ids[len(prompt) :])
        same = [h for h in ended if (h.beam, h.index) == (beam, index)]
        assert [h.score for h in same] == [score]
        assert same[0].text == finished.texts[finished.sequences.index(ids)]
    assert list(finished.scores or ()) == sorted(finished.scores or (), reverse=True)
    assert last < 10


@every_mode
def test_stepping_and_chunks_change_nothing(random_gpt2: LoadedModel, mode: str) -> None:
    params = {**MODES[mode], "max_new_tokens": 8, "num_return_sequences": 2}
    prompt = prompt_of(random_gpt2, 11)
    whole = run(random_gpt2, [prompt], params)
    session = open_session(random_gpt2, [prompt], params, prefill_chunk=2, trace=False, top_logprobs=0)
    while not session.finished:
        with session.attached():  # as between two presses of Step
            session.advance()
    assert [list(ids) for ids in session.result().sequences] == whole.sequences
    assert session.result().scores == pytest.approx(whole.finished.scores, abs=1e-5)


@every_mode
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_cancelling_gives_what_there_is(random_llama: LoadedModel, mode: str, tokens: int) -> None:
    params = {**MODES[mode], "max_new_tokens": 20, "num_return_sequences": 3, "eos_token_id": EOS[:5]}
    rows = [prompt_of(random_llama, length, seed=8) for length in (4, 6)]
    session = open_session(random_llama, rows, params)
    with session.attached():
        while session.new_tokens < tokens:
            session.advance()
    session.cancel()
    result = session.result()
    assert len(result.sequences) == 6
    assert set(result.finish_reasons) == {FinishReason.CANCELLED}
    assert (result.scores is not None) == (tokens > 0)
    for number, ids in enumerate(result.sequences):
        prompt = rows[number // 3]
        assert list(ids[: len(prompt)]) == prompt
        assert len(ids) - len(prompt) <= tokens
        if tokens > 0 and result.scores is not None:
            running = [lane.score for lane in session.lanes if lane.index == number // 3]
            ended_early = len(ids) - len(prompt) < tokens or ids[-1] in EOS
            assert ended_early or any(result.scores[number] == pytest.approx(s / tokens) for s in running if s)


@every_mode
def test_what_may_change_and_what_may_not(random_gpt2: LoadedModel, mode: str) -> None:
    params = {**MODES[mode], "max_new_tokens": 8, "eos_token_id": EOS[:10]}
    session = open_session(random_gpt2, [prompt_of(random_gpt2, 4)], params)
    with session.attached():
        while session.new_tokens < 2:
            session.advance()
    for name, value in {
        "num_beams": 8, "num_beam_groups": 4, "force_words_ids": [[1]], "num_return_sequences": 2,
    }.items():  # fmt: skip
        with pytest.raises(ParameterError, match=f"{name} cannot change while a run is in progress"):
            session.set_params({name: value}, 1)
    session.set_params({"length_penalty": 3.0, "repetition_penalty": 1.5, "max_new_tokens": 5}, 2)
    ours = finish(session)
    assert max(map(len, ours.sequences)) <= 4 + 5
    assert ours.session.epoch == 2


def test_a_length_penalty_changed_on_the_way_acts_on_the_scores(random_gpt2: LoadedModel) -> None:
    params = {"num_beams": 3, "max_new_tokens": 6, "num_return_sequences": 3}
    prompt = prompt_of(random_gpt2, 4)
    plain = run(random_gpt2, [prompt], params)
    session = open_session(random_gpt2, [prompt], params)
    with session.attached():
        while session.new_tokens < 3:
            session.advance()
    session.set_params({"length_penalty": 0.0}, 1)
    changed = finish(session)
    assert changed.sequences == plain.sequences
    assert changed.finished.scores == pytest.approx([6 * score for score in plain.finished.scores or ()])


def test_counted_draws_are_the_same_again_and_others_under_another_reroll(tiny_gpt2: LoadedModel) -> None:
    prompt = tiny_gpt2.text.encode("Once upon a time")
    params = {"num_beams": 3, "do_sample": True, "max_new_tokens": 10, "top_k": 0, "num_return_sequences": 3}
    first = run(tiny_gpt2, [prompt], params, seed=4)
    assert run(tiny_gpt2, [prompt], params, seed=4).sequences == first.sequences
    assert run(tiny_gpt2, [prompt], params, seed=4, reroll=1).sequences != first.sequences
    assert run(tiny_gpt2, [prompt], params, seed=5).sequences != first.sequences
    assert all(step.u is not None and 0 <= step.u < 1 for step in first.steps)


def test_groups_are_kept_apart_and_say_what_it_cost(random_llama: LoadedModel) -> None:
    params = {**MODES["group_beam_search"], "diversity_penalty": 50.0, "max_new_tokens": 6}
    ours = run(random_llama, [prompt_of(random_llama, 5)], params)
    for index in range(6):
        said: dict[int, set[int]] = {0: set(), 1: set()}
        for step in ours.steps:
            assert isinstance(step.detail, BeamDetail)
            if step.id.index == index:
                said[step.detail.group].add(step.token_id)
        assert said[0].isdisjoint(said[1])  # 50 nats are more than any token is worth
    gentle = run(random_llama, [prompt_of(random_llama, 5)], {**params, "diversity_penalty": 0.01})
    assert any(step.detail.penalty == pytest.approx(0.01) for step in gentle.steps)
    assert all(step.detail.penalty == 0 for step in gentle.steps if step.id.beam < 2)


def test_constraints_are_said_and_their_progress_is_told(random_llama: LoadedModel) -> None:
    prompt = prompt_of(random_llama, 5)
    ours = run(random_llama, [prompt], {**MODES["constrained_beam_search"], "max_new_tokens": 10})
    said = ours.sequences[0][5:]
    assert any(said[n : n + 2] == [21, 22] for n in range(10))
    assert 30 in said or any(said[n : n + 2] == [31, 32] for n in range(10))
    place = ours.finished.places[0]
    last = next(s for s in ours.steps if (s.id.beam, s.id.index) == place[1:])
    assert last.detail.fulfilled == last.detail.needed == (2, 2)
    assert last.detail.bank == 4
    first = [step.detail for step in ours.steps if step.id.index == 0]
    assert {detail.bank for detail in first} >= {0, 1}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([[5000]], "Token id 5000 in force_words_ids does not exist"),
        ([[5, 6, 7], [8, 9]], "asks for at least 5 tokens, but max_new_tokens is 4"),
        ([[[5], [5, 6]]], "begins with another of its alternatives"),
        ([[100, 3]], "cannot be said"),
        ([[7]], "cannot be said"),
    ],
)
def test_impossible_constraints_are_refused_in_a_sentence(
    random_gpt2: LoadedModel, words: list[Any], sentence: str
) -> None:
    params = {"num_beams": 2, "force_words_ids": words, "max_new_tokens": 4, "eos_token_id": [100]}
    if words == [[7]]:
        params["suppress_tokens"] = [7]
    with pytest.raises(ParameterError, match=sentence):
        open_session(random_gpt2, [prompt_of(random_gpt2, 4)], params)


def test_own_criteria_end_hypotheses_as_in_generate(random_gpt2: LoadedModel) -> None:
    from transformers import StoppingCriteria, StoppingCriteriaList

    from core.decode.extras import Extras

    class Even(StoppingCriteria):
        """Ends after three tokens where the newest one is even."""

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return (input_ids[:, -1] % 2 == 0) & (input_ids.shape[1] >= 4 + 3)

    prompt = prompt_of(random_gpt2, 4)
    params = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9}
    expected = generate(random_gpt2, [prompt], stopping_criteria=StoppingCriteriaList([Even()]), **params)
    spec = RunSpec((Prompt(ids=tuple(prompt)),), {"do_sample": False, "eos_token_id": [], **params})
    ours = finish(Session(random_gpt2, spec, extras=Extras(stopping_criteria=(Even(),))))
    for mine, theirs in zip(ours.sequences, expected.sequences.tolist(), strict=True):
        assert mine == theirs[: len(mine)]
    assert ours.finished.scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("shape", [(2, 2), (4, 2), (6, 3)])
@pytest.mark.parametrize("stop", ["e", "t", " "])
def test_groups_end_one_by_one_at_stop_strings(tiny_gpt2: LoadedModel, shape: tuple[int, int], stop: str) -> None:
    width, groups = shape
    params = {
        "num_beams": width, "num_beam_groups": groups, "diversity_penalty": 1.0, "max_new_tokens": 20,
        "stop_strings": [stop], "num_return_sequences": width, "early_stopping": True,
    }  # fmt: skip
    ours = run(tiny_gpt2, [tiny_gpt2.text.encode("Once upon a time there was a little fox.")], params)
    assert len(ours.sequences) == width
    assert set(ours.finished.finish_reasons) == {"stop"}
    assert all(stop in text for text in ours.finished.texts)
    told = {(step.id.beam, step.id.index) for step in ours.steps}
    assert {place[1:] for place in ours.finished.places} <= told


def test_a_constrained_search_of_which_nothing_goes_on_has_ended(tiny_gpt2: LoadedModel) -> None:
    every = [chr(code) for code in range(32, 127)] + ["\n", "\ufffd"]
    params = {"num_beams": 3, "force_words_ids": [[500]], "stop_strings": every, "max_new_tokens": 9}
    ours = run(tiny_gpt2, [tiny_gpt2.text.encode("Once upon a time")], params)
    assert ours.finished.error is None
    assert ours.sequences[0][-1] == 500


def test_a_step_that_fails_takes_back_what_it_completed(random_llama: LoadedModel) -> None:
    prompt = prompt_of(random_llama, 4)
    params = {**MODES["group_beam_search"], "max_new_tokens": 12, "eos_token_id": EOS, "num_return_sequences": 4}
    session = open_session(random_llama, [prompt], params)

    def fails(rows: Any, scores: Any) -> Any:
        if any(pool.rows for pool in session.mode.searches[0].pools):  # type: ignore[attr-defined]
            raise RuntimeError("on purpose")
        return scores

    # It is called once for all groups, then again for the second one, when the first one has chosen.
    session.stages = (*session.stages, Stage("fails", {}, fails))
    events: list[object] = []
    with pytest.raises(InternalError):
        events_of(session, events)
    told = {(e.id.beam, e.id.index) for e in events if isinstance(e, StepSnapshot)}
    assert session.result().error is not None
    for _, beam, index in session.result().places:
        assert index is None or (beam, index) in told
