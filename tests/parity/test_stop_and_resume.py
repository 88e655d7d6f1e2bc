"""A run that is broken off inside a layer, fails, pauses or changes its parameters stays consistent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch

from core.contract import AttentionQuery, FinishReason, NonFiniteLogitsError, ParameterError
from core.decode.kv import cache_length
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.reference import full_logits, open_session, prompt_of, run


class StopAfter:
    """A stop flag that goes up after so many looks (one look a layer)."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def drive(session: Session) -> Session:
    with session.attached():
        while not session.finished:
            session.advance()
    return session


def session_with(loaded: LoadedModel, stop: StopAfter, rows: list[list[int]], **spec: int) -> Session:
    session = open_session(loaded, rows, {"max_new_tokens": 8}, **spec)
    return Session(loaded, session.spec, run_id=1, cancelled=stop)


@pytest.mark.parametrize("looks", range(0, 20, 3))
def test_stopping_inside_a_layer_leaves_whole_steps_only(loaded: LoadedModel, looks: int) -> None:
    rows = [prompt_of(loaded, 10)]
    whole = run(loaded, rows, {"max_new_tokens": 8}, prefill_chunk=4)
    session = drive(session_with(loaded, StopAfter(looks), rows, prefill_chunk=4))
    finished = session.result()
    passes = looks // loaded.info.layers  # complete forward passes
    fed = [4, 8, 10][passes - 1] if 1 <= passes <= 3 else 0 if passes == 0 else 10 + passes - 3
    assert finished.finish_reason == FinishReason.CANCELLED
    assert finished.error is None
    assert {layer.get_seq_length() for layer in session.cache.layers} == {fed}
    assert list(finished.sequences[0]) == whole.sequences[0][: 10 + finished.new_tokens]
    assert finished.new_tokens == max(0, passes - 2)
    if fed:
        answer = session.answer(AttentionQuery(1, 0))
        assert answer.rows == (0, fed)
    assert_no_hooks(loaded.module)


def test_a_pass_that_was_broken_off_can_be_done_again(loaded: LoadedModel) -> None:
    """Cache and records are level again, so feeding the same chunk gives the same logits."""
    rows = [prompt_of(loaded, 12)]
    stop = StopAfter(loaded.info.layers + 1)  # within the second chunk
    session = drive(session_with(loaded, stop, rows, prefill_chunk=6))
    assert cache_length(session.cache) == 6
    stop.looks = 10**6
    with torch.inference_mode(), session.attached():
        logits = session.forward(session.ids[:, 6:12], session.cache, session.trace)
    torch.testing.assert_close(logits[0], full_logits(loaded, rows[0])[-1], atol=1e-3, rtol=1e-4)
    assert session.answer(AttentionQuery(1, 0)).rows == (0, 12)


def test_the_stop_flag_works_from_another_thread(tiny_gpt2: LoadedModel) -> None:
    flag, begun = threading.Event(), threading.Event()
    session = open_session(tiny_gpt2, [prompt_of(tiny_gpt2, 4)], {"max_new_tokens": 500})
    session = Session(tiny_gpt2, session.spec, cancelled=lambda: begun.set() or flag.is_set())
    stopper = threading.Thread(target=lambda: (begun.wait(), flag.set()))
    stopper.start()
    drive(session)
    stopper.join()
    assert session.result().finish_reason == FinishReason.CANCELLED
    assert session.new_tokens < 500


def test_cancel_ends_only_rows_that_still_run(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 5, seed=4), prompt_of(loaded, 3, seed=4)]
    first = run(loaded, rows, {"max_new_tokens": 4}).sequences[0][5]
    session = open_session(loaded, rows, {"eos_token_id": [first], "max_new_tokens": 10})
    with session.attached():
        session.advance()
        session.advance()
    session.cancel()
    assert session.finished
    assert session.result().finish_reasons[0] == FinishReason.STOP


@pytest.fixture
def poisoned(random_gpt2: LoadedModel) -> Iterator[LoadedModel]:
    """The last position's embedding is NaN, as with damaged weights: the run fails when it gets there."""
    table = random_gpt2.module.transformer.wpe.weight
    saved = table[9].clone()
    table[9] = torch.nan
    yield random_gpt2
    table[9] = saved


def test_logits_that_are_not_finite_say_at_which_token(poisoned: LoadedModel) -> None:
    session = open_session(poisoned, [prompt_of(poisoned, 6)], {"max_new_tokens": 20})
    with pytest.raises(NonFiniteLogitsError) as failed:
        drive(session)
    # Positions 6, 7, 8 hold tokens 0, 1, 2; feeding token 3 at position 9 fails, so there is no token 4.
    assert "token 4" in failed.value.message
    finished = session.result()
    assert finished.new_tokens == 4
    assert finished.error is not None
    assert finished.error.code == "non_finite_logits"
    assert session.finished
    assert_no_hooks(poisoned.module)


def test_a_pipeline_that_leaves_nothing_says_so(loaded: LoadedModel) -> None:
    vocabulary = loaded.info.vocab_size
    params = {"eos_token_id": list(range(vocabulary)), "min_new_tokens": 3, "max_new_tokens": 5}
    with pytest.raises(NonFiniteLogitsError, match="min_new_tokens"):
        drive(open_session(loaded, [[1]], params))


def test_parameters_change_between_tokens_and_the_step_says_which_it_ran_under(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 6)]
    greedy = run(loaded, rows, {"max_new_tokens": 10})
    session = open_session(loaded, rows, {"max_new_tokens": 10}, seed=4)
    steps = []
    with session.attached():
        while not session.finished:
            if session.new_tokens == 4 and session.epoch == 0 and not session.in_prefill:
                applied = session.set_params({"do_sample": True, "temperature": 2.0, "top_k": 0}, epoch=1)
            steps += [event for event in session.advance() if hasattr(event, "token_id")]
    assert (applied.index, applied.epoch) == (4, 1)
    assert set(applied.changed) == {"do_sample", "temperature", "top_k"}
    assert [step.id.epoch for step in steps] == [0] * 4 + [1] * 6
    assert [step.u is None for step in steps] == [True] * 4 + [False] * 6
    assert [step.token_id for step in steps[:4]] == [step.token_id for step in greedy.steps[:4]]
    assert session.params.mode == "sample"


def test_a_refused_change_leaves_the_run_as_it_was(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 6)], {"max_new_tokens": 6})
    before = session.params
    for wrong in ({"temperature": -1}, {"tempo": 1}, {"num_return_sequences": 2}, {"top_k": 3, "top_p": 5}):
        with pytest.raises(ParameterError):
            session.set_params(wrong, epoch=7)
    assert (session.params, session.epoch) == (before, 0)
    assert (
        drive(session).result().sequences
        == run(loaded, [prompt_of(loaded, 6)], {"max_new_tokens": 6}).finished.sequences
    )


def test_a_length_shortened_below_what_there_is_ends_the_run_at_the_next_token(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 3)], {"max_new_tokens": 50})
    with session.attached():
        while session.new_tokens < 5:
            session.advance()
        session.set_params({"max_new_tokens": 2}, epoch=1)
        while not session.finished:
            session.advance()
    assert session.result().new_tokens == 6
    assert session.result().finish_reason == FinishReason.LENGTH


def test_a_length_extended_while_it_runs_goes_on(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 3)], {"max_new_tokens": 4})
    with session.attached():
        while session.new_tokens < 3:
            session.advance()
        session.set_params({"max_new_tokens": 40}, epoch=1)
        while not session.finished:
            session.advance()
    expected = run(loaded, [prompt_of(loaded, 3)], {"max_new_tokens": 40})
    assert list(session.result().sequences[0]) == expected.sequences[0]


def test_the_model_is_as_before_when_the_hooks_are_gone(loaded: LoadedModel) -> None:
    before = full_logits(loaded, [1, 2, 3])
    session = open_session(loaded, [[1, 2, 3]])
    assert_no_hooks(loaded.module)
    with contextlib.suppress(RuntimeError), session.attached():
        session.advance()
        raise RuntimeError("from outside")
    assert_no_hooks(loaded.module)
    assert torch.equal(full_logits(loaded, [1, 2, 3]), before)
    assert loaded.module.training is False
    assert not torch.is_inference_mode_enabled()
