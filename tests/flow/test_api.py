"""`core.run` and `core.stream`: the engine from a script or a notebook."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import core
from core import api
from core.contract import (
    ChatMessage,
    FinishReason,
    ModelLoadError,
    NonFiniteLogitsError,
    OutOfMemoryError,
    ParameterError,
    PromptError,
    StepSnapshot,
    ViewUnavailableError,
)
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.reference import eager_attention, full_logits, generate, unpadded

HERE = {"device": "cpu", "dtype": "fp32"}
PROMPT = "Once upon a time there was"


def go(model: str = "tiny-gpt2", prompt: object = PROMPT, **kwargs: object) -> core.RunResult:
    params = {"max_new_tokens": 8, **kwargs.pop("params", {})}
    return core.run(model, prompt, params=params, **HERE, **kwargs)


@pytest.fixture(autouse=True)
def no_hook_is_left(tiny_gpt2: LoadedModel) -> Iterator[None]:
    yield
    for loaded in api._loaded.values():
        assert_no_hooks(loaded.module)


def test_a_run_equals_generate(tiny_gpt2: LoadedModel) -> None:
    rows = [tiny_gpt2.text.encode(PROMPT)]
    result = go(mode="greedy_search")
    expected = generate(tiny_gpt2, rows, max_new_tokens=8)
    assert result.sequences == unpadded(rows, expected.sequences, tiny_gpt2.info.eos_token_ids)
    assert result.sequences_scores is None
    assert result.finish_reason == FinishReason.LENGTH
    assert result.text == "".join(step.text for step in result.steps)
    assert PROMPT + result.text == tiny_gpt2.text.decode(result.sequences[0])
    assert [step.token_id for step in result.steps] == result.sequences[0][len(rows[0]) :]
    assert result.text[:20] in repr(result)


def test_ids_text_and_a_folder_lead_to_the_same_run(tiny_gpt2: LoadedModel) -> None:
    ids = tiny_gpt2.text.encode(PROMPT)
    folder = Path(__file__).parents[2] / "resources" / "models" / "tiny-gpt2"
    expected = go(seed=3).sequences
    for given in (ids, np.array(ids), torch.tensor(ids), [ids]):
        assert go(prompt=None, prompt_ids=given, seed=3).sequences == expected
    assert go(str(folder), seed=3).sequences == go(folder, seed=3).sequences == expected


def test_the_model_s_own_config_decides_what_was_not_given() -> None:
    sampled = go(seed=1)
    assert sampled.started.params.mode == "sample"  # generation_config.json of tiny-gpt2 says so
    assert go(seed=1).sequences == sampled.sequences != go(seed=2).sequences
    assert go(seed=1, params={"do_sample": False}).started.params.mode == "greedy_search"


def test_torch_draws_equal_generate(tiny_gpt2: LoadedModel) -> None:
    rows = [tiny_gpt2.text.encode(PROMPT)]
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 0, "num_return_sequences": 3}
    expected = generate(tiny_gpt2, rows, seed=11, max_new_tokens=8, **settings)
    result = go(seed=11, draw_source="torch", params={**settings, "eos_token_id": []})
    assert result.sequences == unpadded(rows, expected.sequences, copies=3)
    assert len(result.texts) == 3


def test_several_prompts_are_one_batch(tiny_gpt2: LoadedModel) -> None:
    prompts = [PROMPT, "The cat", "“Look!” said Anna. She saw a big"]
    result = go(prompt=prompts, mode="greedy_search")
    assert result.sequences == [go(prompt=prompt, mode="greedy_search").sequences[0] for prompt in prompts]
    ids = [tiny_gpt2.text.encode(prompt) for prompt in prompts]
    assert go(prompt=None, prompt_ids=ids, mode="greedy_search").sequences == result.sequences
    assert [row.token_ids for row in result.started.rows] == [tuple(row) for row in ids]
    assert result.text == result.texts[0]


def test_attention_spans_all_positions_fed(tiny_gpt2: LoadedModel) -> None:
    result = go()
    total = len(result.sequences[0]) - 1
    assert result.positions() == total
    expected = eager_attention(tiny_gpt2, result.sequences[0][:-1])[3].numpy()
    whole = result.attention(3)
    assert whole.shape == (8, total, total)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    np.testing.assert_allclose(result.attention(3, rows=(2, 5)), expected[:, 2:5], atol=1e-5)
    np.testing.assert_allclose(result.attention(3, rows=4, heads=[1, 6]), expected[[1, 6], 4:5], atol=1e-5)
    np.testing.assert_allclose(result.attention(3, rows=-1), expected[:, -1:], atol=1e-5)
    np.testing.assert_allclose(result.attention(3, rows=(total - 2, None)), expected[:, -2:], atol=1e-5)


def test_attention_of_a_row_that_ended_early_spans_its_own_tokens(tiny_gpt2: LoadedModel) -> None:
    prompts = [PROMPT, "The cat and the"]
    free = go(prompt=prompts, mode="greedy_search")
    eos = next(token for token in free.sequences[0][8:-1] if token not in free.sequences[1])
    result = go(prompt=prompts, mode="greedy_search", params={"eos_token_id": eos})
    assert list(result.finished.finish_reasons) == [FinishReason.STOP, FinishReason.LENGTH]
    assert len(result.steps) < len(free.steps)
    for row, sequence in enumerate(result.sequences):
        expected = eager_attention(tiny_gpt2, sequence[:-1])[0].numpy()
        np.testing.assert_allclose(result.attention(0, row=row), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [(3, 3), (-2, None), (0, 1000), 500, -500])
def test_positions_that_do_not_exist_are_refused(rows: int | tuple[int, int | None]) -> None:
    with pytest.raises(ViewUnavailableError, match="fed to the model"):
        go().attention(0, rows=rows)


def test_distributions_of_any_fed_position(tiny_gpt2: LoadedModel) -> None:
    result = go(mode="greedy_search", params={"repetition_penalty": 1.5})
    logprobs = full_logits(tiny_gpt2, result.sequences[0][:-1]).log_softmax(-1)
    for position in (0, 3, -1):
        answer = result.distribution(position, top=5)
        np.testing.assert_allclose(answer.logprob, logprobs[position].topk(5).values, atol=1e-4)
    last = result.distribution(-1, final=True, top=1)
    assert last.token_ids[0] == result.sequences[0][-1]
    assert last.logprob[0] == pytest.approx(result.steps[-1].final_logprob, abs=1e-4)
    assert result.distribution(2, layer=1).logprob.shape == (50,)


def test_a_closed_result_keeps_its_text_but_has_no_views() -> None:
    result = go()
    result.close()
    assert result.text
    assert result.steps
    with pytest.raises(ViewUnavailableError):
        result.attention(0)


def test_a_result_outlives_the_model_s_next_runs() -> None:
    first = go(seed=1)
    before = first.attention(2)
    go(seed=2, prompt="Something else entirely")
    np.testing.assert_array_equal(first.attention(2), before)


def test_the_model_stays_loaded_until_it_is_unloaded(random_llama: LoadedModel, tmp_path: Path) -> None:
    from tests.models import build_gpt2

    folder = build_gpt2(tmp_path / "own")
    one, two = (go(str(folder), prompt=None, prompt_ids=[1, 2]) for _ in range(2))
    assert one.model.model_id == two.model.model_id
    assert api.load_model(tmp_path / "." / "own", "cpu", "fp32").info.model_id == one.model.model_id
    core.unload(folder)
    assert not [key for key in api._loaded if key[0] == str(folder)]
    assert go(folder, prompt=None, prompt_ids=[1, 2]).model.model_id != one.model.model_id
    core.unload(str(folder))
    assert api._loaded  # the others stay


def test_one_device_under_two_names_loads_once() -> None:
    auto = api.load_model("tiny-gpt2", "auto", "fp32")
    assert api.load_model("tiny-gpt2", str(auto.device), "fp32") is auto


def test_streaming_yields_the_steps_of_the_same_run() -> None:
    params = {"max_new_tokens": 8}
    streamed = list(core.stream("tiny-gpt2", PROMPT, params=params, seed=5, **HERE))
    assert all(isinstance(step, StepSnapshot) for step in streamed)
    assert [step.token_id for step in streamed] == [step.token_id for step in go(seed=5).steps]
    assert streamed[-1].finish_reason == FinishReason.LENGTH


def test_between_two_yields_the_caller_has_a_model_without_hooks(tiny_gpt2: LoadedModel) -> None:
    steps = core.stream("tiny-gpt2", PROMPT, params={"max_new_tokens": 4}, **HERE)
    for _ in steps:
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        for loaded in api._loaded.values():
            assert_no_hooks(loaded.module)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_a_stream_early_ends_the_run(taken: int) -> None:
    steps = core.stream("tiny-gpt2", PROMPT, params={"max_new_tokens": 400}, **HERE)
    assert len(list(itertools.islice(steps, taken))) == taken
    steps.close()
    assert list(steps) == []
    assert not torch.is_inference_mode_enabled()


def test_streams_and_runs_may_interleave() -> None:
    def stream(seed: int) -> Iterator[StepSnapshot]:
        return core.stream("tiny-gpt2", PROMPT, params={"max_new_tokens": 8}, seed=seed, **HERE)

    expected = [[step.token_id for step in stream(seed)] for seed in (1, 2)]
    both = []
    for pair in zip(stream(1), stream(2), strict=True):
        both.append([step.token_id for step in pair])
        go(seed=9)
    assert [list(column) for column in zip(*both, strict=True)] == expected


def test_a_stream_refuses_bad_input_when_it_is_called_not_when_it_is_read() -> None:
    with pytest.raises(ParameterError, match="nearest known name is “temperature”"):
        core.stream("tiny-gpt2", PROMPT, params={"temperatur": 1}, **HERE)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (PromptError, {"prompt": None}),
        (PromptError, {"prompt": "x", "prompt_ids": [1]}),
        (PromptError, {"prompt": None, "prompt_ids": ["a"]}),
        (PromptError, {"prompt": None, "prompt_ids": [1.5]}),
        (PromptError, {"prompt": None, "prompt_ids": [10**6]}),
        (PromptError, {"prompt": None, "messages": ["hello"]}),
        (PromptError, {"prompt": None, "messages": [{"role": "user", "content": "hi"}]}),  # no chat template
        (PromptError, {"prompt": []}),
        (PromptError, {"prompt": "dog " * 2000}),
        (ParameterError, {"params": {"top_k": -1}}),
        (ParameterError, {"mode": "beam_search"}),
        (ModelLoadError, {"model": "tiny-gpt3"}),
        (ModelLoadError, {"model": "/no/such/folder"}),
    ],
)
def test_rude_input_ends_in_one_sentence(error: type[Exception], arguments: dict[str, object]) -> None:
    with pytest.raises(error) as refused:
        go(**arguments)
    message = refused.value.message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 250


def test_a_mode_that_the_parameters_do_not_give_is_answered_with_what_it_needs() -> None:
    with pytest.raises(ParameterError, match=r"beam_search.*num_beams above 1"):
        go(mode="beam_search")


def test_an_unavailable_mode_is_answered_with_those_there_are() -> None:
    with pytest.raises(ParameterError, match=r"beam_seek.*greedy_search.*assisted_generation"):
        go(mode="beam_seek")


def test_a_chat_goes_through_the_template(tmp_path: Path) -> None:
    from tests.models import CHAT_TEMPLATE, build_llama, build_tokenizer

    folder = build_llama(tmp_path / "chat")
    build_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    one = go(folder, prompt=None, messages=chat)
    assert one.started.rows[0].rendered == "<|system|>Be kind.\n<|user|>Hello\n<|assistant|>"
    two = go(folder, prompt=None, messages=[[ChatMessage(**turn) for turn in chat], chat[1:]])
    assert two.started.rows[0] == one.started.rows[0]
    assert two.started.rows[1].rendered == "<|user|>Hello\n<|assistant|>"
    core.unload(folder)


def test_a_run_that_fails_raises_and_leaves_the_model_usable(tiny_gpt2: LoadedModel) -> None:
    table = api.load_model("tiny-gpt2", "cpu", "fp32").module.transformer.wpe.weight
    before, saved = go(seed=1).sequences, table[12].clone()
    try:
        table[12] = torch.nan
        with pytest.raises(NonFiniteLogitsError):
            go(params={"max_new_tokens": 30, "eos_token_id": []})
    finally:
        table[12] = saved
    assert go(seed=1).sequences == before


def test_candidates_and_recording_can_be_left_out() -> None:
    assert {len(step.top.token_ids) for step in go(top_logprobs=3, mode="greedy_search").steps} == {3}
    assert {len(step.top.token_ids) for step in go(top_logprobs=0).steps} <= {0, 1}
    with pytest.raises(ViewUnavailableError, match="not recorded"):
        go(trace=False).attention(0)


def test_a_batch_that_is_too_large_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match=r"1,000 sequences.*split the batch"):
        go(prompt=["a fox"] * 1000)
    monkeypatch.setattr("core.decode.room.available_bytes", lambda _device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"KV cache.*free"):
        go()


def test_interventions_act_from_the_beginning_and_are_part_of_the_record() -> None:
    plain, changed = go(), go(interventions=["heads 0.0-7", core.contract.SkipPart(2, "mlp")])
    assert changed.interventions == (
        core.contract.ScaleHeads(0, tuple(range(8))),
        core.contract.SkipPart(2, "mlp"),
    )
    assert changed.started.plan.interventions == (
        "heads 0-7 of layer 0 muted",
        "MLP of layer 2 skipped",
    )
    assert plain.interventions == ()
    assert abs(plain.logits(0) - changed.logits(0)).max() > 0.1
    answer = plain.preview(-1, ["mute 0-2"])
    assert answer.query.position == plain.positions() - 1
    assert answer.kl_bits > 0
    with pytest.raises(ParameterError, match="no layer 77"):
        plain.preview(0, ["heads 77.0"])
    with pytest.raises(ParameterError, match="is no intervention"):
        go(interventions=["nonsense"])


def test_a_stream_ends_at_a_breakpoint() -> None:
    steps = list(core.stream("tiny-gpt2", PROMPT, params={"max_new_tokens": 20}, breakpoints="every=3", **HERE))
    assert len(steps) == 3
    assert steps[-1].finish_reason is None  # the run has ended there, not the text
