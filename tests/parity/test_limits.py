"""Where a run ends: positions, asked length, EOS sets, stop strings across token borders; and what cannot begin."""

from __future__ import annotations

import pytest
import torch
from transformers import StopStringCriteria

from core.contract import FinishReason, Prompt, PromptError, RunSpec
from core.decode import prepare
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, finish, full_logits, generate, open_session, prompt_of, run, unpadded


def test_a_run_ends_at_the_model_s_last_position(loaded: LoadedModel) -> None:
    """All N positions are fed, so a sequence may hold N + 1 tokens, the last one unfed."""
    positions = loaded.info.max_positions
    ours = run(loaded, [prompt_of(loaded, positions - 3)], {"max_new_tokens": 50}, prefill_chunk=positions)
    assert ours.finished.finish_reason == FinishReason.LENGTH_LIMIT
    assert len(ours.sequences[0]) == positions + 1
    assert ours.steps[-1].cache.length == positions
    assert [step.finish_reason for step in ours.steps] == [None, None, None, FinishReason.LENGTH_LIMIT]
    expected = full_logits(loaded, ours.sequences[0][:-1])[-4:].argmax(-1).tolist()
    assert ours.sequences[0][-4:] == expected


def test_a_prompt_that_fills_all_positions_gives_one_token(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    ours = run(loaded, [prompt_of(loaded, positions)], {"max_new_tokens": 5})
    assert len(ours.steps) == 1
    assert ours.finished.finish_reason == FinishReason.LENGTH_LIMIT


def test_a_longer_prompt_is_refused_with_both_numbers(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    for length in (positions + 1, 10 * positions):
        with pytest.raises(PromptError) as refused:
            open_session(loaded, [[1], prompt_of(loaded, length)])
        started = loaded.info.image is not None  # a picture begins with a token that is no pixel
        assert f"{length - started:,}" in refused.value.message
        assert f"{positions:,}" in refused.value.message
        assert refused.value.message.startswith("Prompt 2 of 2: ")


def test_the_asked_length_comes_before_the_limit(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    ours = run(loaded, [prompt_of(loaded, positions - 4)], {"max_new_tokens": 5})
    assert ours.finished.finish_reason == FinishReason.LENGTH
    assert len(ours.steps) == 5


def test_each_row_of_a_batch_has_its_own_limit(loaded: LoadedModel) -> None:
    """A row that is full is fed padding while shorter ones go on; positions beyond the table must not be looked up."""
    positions = loaded.info.max_positions
    rows = [prompt_of(loaded, positions - 2, seed=1), prompt_of(loaded, positions - 12, seed=2)]
    ours = run(loaded, rows, {"max_new_tokens": 30}, prefill_chunk=positions)
    assert set(ours.finished.finish_reasons) == {FinishReason.LENGTH_LIMIT}
    assert [len(ids) for ids in ours.sequences] == [positions + 1] * 2
    for row, ids in enumerate(rows):
        assert ours.sequences[row] == run(loaded, [ids], {"max_new_tokens": 30}).sequences[0]


def test_max_length_says_where_the_run_will_end(loaded: LoadedModel) -> None:
    positions = loaded.info.max_positions
    assert open_session(loaded, [[1, 2, 3]], {"max_new_tokens": 10}).started.max_length == 13
    assert open_session(loaded, [[1, 2, 3]], {"max_new_tokens": 10_000}).started.max_length == positions


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_prompt_begins_with_bos(tiny_gpt2: LoadedModel, text: str | None) -> None:
    prompt = Prompt(text=text) if text is not None else Prompt(ids=())
    ours = finish(Session(tiny_gpt2, RunSpec((prompt,), {"do_sample": False, "max_new_tokens": 5})))
    bos = tiny_gpt2.info.bos_token_id
    assert ours.sequences[0][0] == bos
    expected = generate(tiny_gpt2, [[bos]], max_new_tokens=5, eos_token_id=list(tiny_gpt2.info.eos_token_ids))
    assert ours.sequences == unpadded([[bos]], expected.sequences, tiny_gpt2.info.eos_token_ids)


@pytest.mark.parametrize("wrong", [[-1], [5, 10**9]])
def test_ids_that_do_not_exist_are_refused(loaded: LoadedModel, wrong: list[int]) -> None:
    with pytest.raises(PromptError) as refused:
        open_session(loaded, [wrong])
    assert str(wrong[-1]) in refused.value.message


def test_a_run_without_prompts_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(PromptError):
        open_session(loaded, [])


def said(ours: Ours) -> str:
    return ours.finished.texts[0]


@pytest.fixture
def free(tiny_gpt2: LoadedModel) -> Ours:
    """What the model says when nothing stops it."""
    return run(tiny_gpt2, [tiny_gpt2.text.encode("Once upon a time")], {"max_new_tokens": 48})


@pytest.mark.parametrize("start", range(3, 40, 4))
@pytest.mark.parametrize("length", [1, 2, 7, 23])
def test_a_stop_string_is_found_wherever_its_borders_lie(
    tiny_gpt2: LoadedModel, free: Ours, start: int, length: int
) -> None:
    prompt = list(free.sequences[0][: -len(free.steps)])
    stop = said(free)[start : start + length]
    ours = run(tiny_gpt2, [prompt], {"max_new_tokens": 48, "stop_strings": ["never said", stop]})
    first = said(free).find(stop) + len(stop)  # characters up to the end of its first occurrence
    assert ours.finished.finish_reason == FinishReason.STOP
    assert len(said(ours)) >= first
    # The run ends with the very token that completes it: without that token it is not there.
    before = said(ours)[: len(said(ours)) - len(ours.steps[-1].text)]
    assert stop not in before
    assert stop in said(ours)
    assert said(free).startswith(said(ours))


@pytest.mark.parametrize("stop", ["day", " was", "a time, t", "e,", "."])
def test_stop_strings_stop_where_those_of_generate_do(tiny_gpt2: LoadedModel, free: Ours, stop: str) -> None:
    prompt = list(free.sequences[0][: -len(free.steps)])
    criteria = StopStringCriteria(tiny_gpt2.text.tokenizer, [stop])
    sequence = torch.tensor([free.sequences[0]])
    ends = (n for n in range(len(prompt) + 1, sequence.shape[1] + 1) if bool(criteria(sequence[:, :n], None)[0]))
    end = next(ends, sequence.shape[1])
    ours = run(tiny_gpt2, [prompt], {"max_new_tokens": 48, "stop_strings": stop})
    assert ours.sequences[0] == free.sequences[0][:end]


def test_without_stop_strings_nothing_stops(free: Ours) -> None:
    assert free.finished.finish_reason == FinishReason.LENGTH
    assert said(free) == "".join(step.text for step in free.steps)


def test_any_id_of_an_eos_set_ends_a_row(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 6, seed=11)]
    new = run(loaded, rows, {"max_new_tokens": 20}).sequences[0][6:]
    for target in (new[0], new[9], new[-1]):
        eos = [299, target]
        end = min(new.index(token) for token in eos if token in new) + 1
        ours = run(loaded, rows, {"max_new_tokens": 20, "eos_token_id": eos})
        assert ours.sequences[0] == rows[0] + new[:end]
        assert ours.finished.finish_reason == FinishReason.STOP


def test_min_new_tokens_holds_eos_back(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 6, seed=12)]
    first = run(loaded, rows).sequences[0][6]
    params = {"eos_token_id": [first], "min_new_tokens": 6, "max_new_tokens": 12}
    ours = run(loaded, rows, params)
    assert len(ours.steps) >= 7 or ours.finished.finish_reason == FinishReason.LENGTH
    assert first not in ours.sequences[0][6:12]
    assert ours.sequences == unpadded(rows, generate(loaded, rows, **params).sequences, [first])


def test_too_many_sequences_are_refused_before_a_prompt_is_read(
    random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("ten thousand prompts, 64 times each, take half a minute")

    monkeypatch.setattr(prepare, "tokenize", read)
    many = RunSpec(tuple(Prompt(text="a") for _ in range(9)), {"do_sample": True, "num_return_sequences": 64})
    with pytest.raises(PromptError, match="576 sequences at once, but 512 is the most"):
        Session(random_llama, many)
    beams = RunSpec(many.prompts, {"do_sample": False, "num_beams": 64})
    with pytest.raises(PromptError, match="576 sequences"):
        Session(random_llama, beams)
