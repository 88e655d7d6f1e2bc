"""Greedy search equals `generate()`, token by token."""

from __future__ import annotations

import pytest

from core.contract import FinishReason
from core.models.loaded import LoadedModel
from tests.parity.reference import generate, prompt_of, run, unpadded

TEXTS = ["Once upon a time there was a little", "The dog", "“Hello,” said Tom. “Where is my 🎈 red ball?”\n"]


@pytest.mark.parametrize("length", [1, 2, 17])
def test_greedy_equals_generate(loaded: LoadedModel, length: int) -> None:
    rows = [prompt_of(loaded, length)]
    expected = generate(loaded, rows, max_new_tokens=32)
    ours = run(loaded, rows, {"max_new_tokens": 32})
    assert ours.sequences == unpadded(rows, expected.sequences)
    assert [step.token_id for step in ours.steps] == ours.sequences[0][length:]
    assert ours.finished.finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize("text", TEXTS)
def test_greedy_on_real_text_equals_generate(tiny_gpt2: LoadedModel, text: str) -> None:
    rows = [tiny_gpt2.text.encode(text)]
    expected = generate(tiny_gpt2, rows, max_new_tokens=60)
    ours = run(tiny_gpt2, rows, {"max_new_tokens": 60})
    assert ours.sequences == unpadded(rows, expected.sequences)
    new = expected.sequences[0][len(rows[0]) :].tolist()
    assert ours.finished.texts[0] == tiny_gpt2.text.decode(rows[0] + new, skip_special_tokens=True).removeprefix(text)


@pytest.mark.parametrize("chunk", [1, 3, 8, 1000])
def test_the_size_of_prefill_chunks_changes_nothing(loaded: LoadedModel, chunk: int) -> None:
    rows = [prompt_of(loaded, 23)]
    expected = unpadded(rows, generate(loaded, rows).sequences)
    ours = run(loaded, rows, prefill_chunk=chunk)
    assert ours.sequences == expected
    assert [p.done for p in ours.progress] == [*range(min(chunk, 23), 23, chunk), 23]
    assert {p.total for p in ours.progress} == {23}


@pytest.mark.parametrize("chunk", [2, 256])
def test_a_batch_with_left_padding_equals_generate_and_each_row_alone(loaded: LoadedModel, chunk: int) -> None:
    rows = [prompt_of(loaded, length, seed=3) for length in (3, 19, 1, 11)]
    expected = unpadded(rows, generate(loaded, rows, max_new_tokens=20).sequences)
    together = run(loaded, rows, {"max_new_tokens": 20}, prefill_chunk=chunk)
    alone = [run(loaded, [row], {"max_new_tokens": 20}).sequences[0] for row in rows]
    assert together.sequences == expected
    assert together.sequences == alone


def test_rows_of_a_batch_end_one_by_one_at_their_own_eos(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length, seed=4) for length in (5, 9, 2)]
    free = run(loaded, rows, {"max_new_tokens": 16})
    # EOS ids that really occur, so that rows end at different steps.
    eos = sorted({free.sequences[0][5 + 3], free.sequences[1][9 + 7]})
    expected = unpadded(rows, generate(loaded, rows, max_new_tokens=16, eos_token_id=eos).sequences, eos)
    ours = run(loaded, rows, {"max_new_tokens": 16, "eos_token_id": eos})
    assert ours.sequences == expected
    for row, sequence in enumerate(ours.sequences):
        steps = ours.of_row(row)
        ended_by_eos = sequence[-1] in eos
        assert steps[-1].finish_reason == (FinishReason.STOP if ended_by_eos else FinishReason.LENGTH)
        assert [s.finish_reason for s in steps[:-1]] == [None] * (len(steps) - 1)
        assert [s.id.index for s in steps] == list(range(len(steps)))
        assert [s.id.position for s in steps] == list(range(len(rows[row]), len(sequence)))
    assert list(ours.finished.finish_reasons) == [ours.of_row(row)[-1].finish_reason for row in range(3)]


def test_greedy_under_penalties_equals_generate(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 9)]
    params = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "max_new_tokens": 30}
    assert run(loaded, rows, params).sequences == unpadded(rows, generate(loaded, rows, **params).sequences)


def test_temperature_zero_is_greedy(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 6)]
    assert run(loaded, rows, {"do_sample": True, "temperature": 0}).sequences == run(loaded, rows).sequences


def test_the_model_s_own_generation_config_is_obeyed(tiny_gpt2: LoadedModel) -> None:
    """No parameter given: mode, temperature, top_k and EOS come from generation_config.json, as in `generate()`."""
    import torch

    from core.contract import Prompt, RunSpec
    from core.decode.session import Session
    from tests.parity.reference import finish

    prompt = tiny_gpt2.text.encode("Once upon a time")
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(7)
        ids = torch.tensor([prompt])
        expected = tiny_gpt2.module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40)[0].tolist()
    spec = RunSpec((Prompt(ids=tuple(prompt)),), {"max_new_tokens": 40}, seed=7, draw_source="torch")
    ours = finish(Session(tiny_gpt2, spec))
    assert ours.session.params.mode == "sample"
    assert ours.sequences[0] == expected
