"""Raw distributions and the read-out of recorded residuals against plain forward passes without a cache."""

from __future__ import annotations

import pytest
import torch

from core.contract import DistributionAnswer, DistributionQuery, ViewUnavailableError
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, dense, full_logits, plain, prompt_of, run, twin

PROMPT, NEW = 14, 10


@pytest.fixture
def ours(loaded: LoadedModel) -> Ours:
    return run(loaded, [prompt_of(loaded, PROMPT)], {"max_new_tokens": NEW}, prefill_chunk=5, top_logprobs=5000)


def ask(ours: Ours, position: int, **kwargs: object) -> DistributionAnswer:
    answer = ours.session.answer(DistributionQuery(1, position, **{"top": 5000, **kwargs}))
    assert isinstance(answer, DistributionAnswer)
    return answer


def logprobs_of(answer: DistributionAnswer, vocabulary: int) -> torch.Tensor:
    found = torch.full((vocabulary,), torch.nan)
    found[torch.tensor(answer.token_ids)] = torch.tensor(answer.logprob)
    return found


def test_raw_distributions_equal_one_forward_pass_without_cache(ours: Ours, loaded: LoadedModel) -> None:
    expected = full_logits(loaded, ours.sequences[0][:-1]).log_softmax(-1)  # (T, V)
    for step in ours.steps:
        raw, _ = dense(step, loaded.info.output_size)
        torch.testing.assert_close(raw, expected[step.id.position - 1], atol=1e-4, rtol=1e-4)


def test_the_read_out_of_every_recorded_position_equals_the_model_s_logits(ours: Ours, loaded: LoadedModel) -> None:
    expected = full_logits(loaded, ours.sequences[0][:-1]).log_softmax(-1)
    for position in range(PROMPT + NEW - 1):
        answer = ask(ours, position)
        raw = logprobs_of(answer, loaded.info.output_size)
        torch.testing.assert_close(raw, expected[position], atol=1e-4, rtol=1e-4)
        entropy = -(expected[position].exp() * expected[position]).sum() / torch.log(torch.tensor(2.0))
        assert answer.entropy_bits == pytest.approx(float(entropy), abs=1e-3)
        assert (answer.logprob[:-1] >= answer.logprob[1:]).all()
    with pytest.raises(ViewUnavailableError):
        ask(ours, PROMPT + NEW - 1)  # the last token was chosen, not fed


def test_the_derived_distribution_of_a_step_is_the_one_it_reported(loaded: LoadedModel) -> None:
    params = {"do_sample": True, "temperature": 1.2, "top_k": 30, "repetition_penalty": 1.4, "max_new_tokens": NEW}
    ours = run(loaded, [prompt_of(loaded, PROMPT)], params, top_logprobs=5000)
    for step in ours.steps:
        _, reported = dense(step, loaded.info.output_size)
        derived = logprobs_of(ask(ours, step.id.position - 1, final=True), loaded.info.output_size)
        assert torch.equal(derived.isneginf(), reported.isneginf())
        torch.testing.assert_close(derived, reported, atol=1e-5, rtol=1e-5)


def test_the_logit_lens_reads_the_model_s_hidden_states(ours: Ours, loaded: LoadedModel) -> None:
    anatomy = ours.session.forward.anatomy
    with plain(twin(loaded)) as model:
        ids = torch.tensor([ours.sequences[0][:-1]], device=loaded.device)
        hidden = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        expected = [anatomy.read_out(states[0]).log_softmax(-1) for states in hidden[: loaded.info.layers]]
    for layer in range(loaded.info.layers):
        for position in (0, PROMPT - 1, PROMPT, PROMPT + NEW - 2):
            raw = logprobs_of(ask(ours, position, layer=layer), loaded.info.output_size)
            torch.testing.assert_close(raw, expected[layer][position], atol=1e-4, rtol=1e-4)


def test_rows_with_padding_read_out_their_own_positions(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, length, seed=9) for length in (4, 11)]
    ours = run(loaded, rows, {"max_new_tokens": 5})
    for row, sequence in enumerate(ours.sequences):
        expected = full_logits(loaded, sequence[:-1]).log_softmax(-1)
        for position in range(len(sequence) - 1):
            raw = logprobs_of(ask(ours, position, row=row), loaded.info.output_size)
            torch.testing.assert_close(raw, expected[position], atol=1e-4, rtol=1e-4)


def test_a_run_without_a_trace_says_so(tiny_gpt2: LoadedModel) -> None:
    ours = run(tiny_gpt2, [[1, 2]], {"max_new_tokens": 2}, trace=False)
    with pytest.raises(ViewUnavailableError, match="not recorded"):
        ask(ours, 0)
    assert {step.trace_bytes for step in ours.steps} == {0}
