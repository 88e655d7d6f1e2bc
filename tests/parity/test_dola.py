"""DoLa: the tokens of transformers 4.51, while the snapshot still shows the model's own distribution."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.contract import (
    DistributionQuery,
    DolaDetail,
    FinishReason,
    Grammar,
    NonFiniteLogitsError,
    ParameterError,
    WaterfallQuery,
)
from core.decode.modes.dola import candidate_layers
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.leaks import assert_no_hooks
from tests.parity.expected import cases, label, model, run_case
from tests.parity.reference import Ours, dense, finish, full_logits, open_session, plain, prompt_of, run, twin

DOLA = {"dola_layers": "high", "max_new_tokens": 10}


@pytest.mark.parametrize("case", cases("dola_generation"), ids=label)
def test_tokens_are_those_of_transformers_4_51(case: dict[str, Any]) -> None:
    assert run_case(case, trace=False).sequences == case["sequences"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    ("asked", "tied", "untied"),
    [("low", [2], [0, 2]), ("high", [3, 5], [3, 5]), ([4, 9, 1], [4, 1], [4, 1])],
)
def test_low_and_high_are_the_layers_of_transformers(
    name: str, asked: object, tied: list[int], untied: list[int]
) -> None:
    loaded = model(name)
    session = open_session(loaded, [[5, 6]], {"dola_layers": asked})
    assert candidate_layers(session, session.params) == (untied if name == "llama" else tied)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, [0], [0]), (2, [1], [1]), (5, [2], [2, 4]), (44, list(range(2, 20, 2)), list(range(24, 44, 2)))],
)
def test_layers_of_tied_models_by_their_number(count: int, low: list[int], high: list[int]) -> None:
    session = open_session(model("gpt2"), [[5, 6]])
    session.loaded = replace(session.loaded, info=replace(session.loaded.info, layers=count))
    assert candidate_layers(session, session.params.replace({"dola_layers": "low"})) == low
    assert candidate_layers(session, session.params.replace({"dola_layers": "high"})) == high


def test_no_layer_left_says_so(random_qwen2: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="layers 0 to 2"):
        open_session(random_qwen2, [[5]], {"dola_layers": [3, 4]})


def early_logits(loaded: LoadedModel, ids: list[int], layer: int) -> torch.Tensor:
    """The head on what enters a layer, (T, V), of one pass without any cache."""
    with plain(twin(loaded)) as own:
        states = own(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[layer]
        logits: torch.Tensor = own.get_output_embeddings()(states)[0].float()
        return logits


def test_raw_is_the_model_s_own_and_final_the_contrast(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 9)], DOLA, top_logprobs=loaded.info.output_size, prefill_chunk=4)
    ids, logits = ours.sequences[0][:-1], full_logits(loaded, ours.sequences[0][:-1])
    for index, step in enumerate(ours.steps):
        detail, (raw, final) = step.detail, dense(step, loaded.info.output_size)
        assert isinstance(detail, DolaDetail)
        own = torch.log_softmax(logits[8 + index], -1)
        torch.testing.assert_close(raw, own, atol=1e-3, rtol=1e-4)
        assert detail.layer == detail.layers[detail.divergence_bits.index(max(detail.divergence_bits))]
        scores = own - torch.log_softmax(early_logits(loaded, ids, detail.layer)[8 + index], -1)
        alive = own >= own.max() + torch.log(torch.tensor(0.1))
        expected = torch.log_softmax(scores.masked_fill(~alive, -torch.inf), -1)
        torch.testing.assert_close(final.exp(), expected.exp(), atol=2e-3, rtol=0)
        assert step.top.stages == ("dola_layers",)
        assert step.token_id == int(expected.argmax())


def test_a_past_step_is_contrasted_again_from_its_records(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 9), prompt_of(loaded, 5)], DOLA, top_logprobs=loaded.info.output_size)
    for row, length in enumerate((9, 5)):
        for index, step in enumerate(ours.of_row(row)[:-1]):
            answer = ours.session.answer(DistributionQuery(1, length - 1 + index, final=True, top=5, row=row))
            _, final = dense(step, loaded.info.output_size)
            again = torch.tensor(answer.logprob).exp()
            torch.testing.assert_close(again, final[torch.tensor(answer.token_ids)].exp(), atol=1e-3, rtol=0)
            assert answer.token_ids[0] == step.token_id


@pytest.mark.parametrize("draw_source", ["counter", "torch"])
def test_rows_of_a_batch_choose_their_own_layers(loaded: LoadedModel, draw_source: Any) -> None:
    prompts = [prompt_of(loaded, n) for n in (9, 4, 12)]
    alone = [run(loaded, [prompt], DOLA).sequences[0][len(prompt) :] for prompt in prompts]
    params = {**DOLA, "eos_token_id": [alone[1][3], alone[2][6]]}
    together = run(loaded, prompts, params, draw_source=draw_source)
    assert together.sequences == [run(loaded, [prompt], params).sequences[0] for prompt in prompts]


def test_sampling_draws_from_the_contrasted_scores(loaded: LoadedModel) -> None:
    params = {**DOLA, "do_sample": True, "temperature": 1.5, "num_return_sequences": 3}
    ours = run(loaded, [prompt_of(loaded, 6)], params, seed=3)
    assert len(ours.sequences) == 3
    assert len({tuple(ids) for ids in ours.sequences}) > 1
    assert all(step.u is not None and isinstance(step.detail, DolaDetail) for step in ours.steps)
    assert all(step.final_logprob > -30 for step in ours.steps)


def test_layers_change_between_steps(loaded: LoadedModel) -> None:
    session = open_session(loaded, [prompt_of(loaded, 6)], DOLA)
    with session.attached():
        while session.new_tokens < 3:
            session.advance()
        session.set_params({"dola_layers": [1]}, epoch=1)
        [step] = session.advance()
        assert step.detail.layers == (1,)
        for wrong, message in (({"dola_layers": [99]}, "no layer"), ({"dola_layers": None}, "cannot change")):
            with pytest.raises(ParameterError, match=message):
                session.set_params(wrong, epoch=2)
        assert session.params.dola_layers == (1,)
    session.cancel()


def test_the_prompt_may_come_from_the_run_before(loaded: LoadedModel) -> None:
    prompt = prompt_of(loaded, 12)
    before = run(loaded, [prompt], {"max_new_tokens": 4}).session
    spec = replace(open_session(loaded, [prompt], DOLA).spec, reuse_prefix=True)
    session = Session(loaded, spec, before=before)
    assert session.started.reused_positions == 11
    assert finish(session).sequences == run(loaded, [prompt], DOLA).sequences


def test_a_view_between_prompt_and_first_token_disturbs_nothing(loaded: LoadedModel) -> None:
    expected = run(loaded, [prompt_of(loaded, 8)], DOLA).sequences
    session = open_session(loaded, [prompt_of(loaded, 8)], DOLA)
    with session.attached():
        session.advance()
        session.feed_again(session.rows[0].strand(), 0, 5)
        session.answer(DistributionQuery(1, 4, final=True))
    assert finish(session).sequences == expected


def test_positions_end_as_in_other_modes_and_early_ends_leave_no_trace(loaded: LoadedModel) -> None:
    positions, config = loaded.info.max_positions, copy.deepcopy(loaded.module.config.to_dict())
    ours = run(loaded, [prompt_of(loaded, positions - 3)], {**DOLA, "max_new_tokens": 20}, prefill_chunk=positions)
    assert ours.finished.finish_reason == FinishReason.LENGTH_LIMIT
    assert len(ours.sequences[0]) == positions + 1
    session = open_session(loaded, [prompt_of(loaded, 6)], DOLA)
    left = iter(range(3 * loaded.info.layers + 1))
    stopped: Ours = finish(Session(loaded, session.spec, cancelled=lambda: next(left, None) is None))
    assert stopped.finished.finish_reason == FinishReason.CANCELLED
    assert stopped.finished.new_tokens == 3
    assert_no_hooks(loaded.module)
    assert loaded.module.config.to_dict() == config


def test_bf16_runs(random_qwen2: LoadedModel) -> None:
    loaded = replace(twin(random_qwen2), dtype=torch.bfloat16)
    loaded.module.to(torch.bfloat16)
    found = run(loaded, [prompt_of(loaded, 9), prompt_of(loaded, 5)], DOLA, trace=False)
    assert [len(ids) for ids in found.sequences] == [19, 15]


def test_the_waterfall_shows_the_contrast_of_any_greedy_step(loaded: LoadedModel) -> None:
    ours = run(loaded, [prompt_of(loaded, 9)], {**DOLA, "repetition_penalty": 1.2})
    shown = ours.session.answer(WaterfallQuery(1, 12))
    assert [stage.name for stage in shown.stages] == ["dola_layers", "repetition_penalty"]
    assert shown.token_id == ours.steps[4].token_id
    assert shown.stages[0].killed > 0
    greedy = run(loaded, [prompt_of(loaded, 9)], {"max_new_tokens": 3, "repetition_penalty": 1.2}).session
    assert greedy.answer(WaterfallQuery(1, 8, {"dola_layers": "high"})).token_id == ours.steps[0].token_id
    assert ours.session.answer(WaterfallQuery(1, 8, {"dola_layers": None})).token_id == greedy.rows[0].token_ids[0]


def test_a_grammar_that_dola_leaves_nothing_of_names_both_and_what_dola_keeps(tiny_gpt2: LoadedModel) -> None:
    params, digits = {"dola_layers": "high", "max_new_tokens": 5}, Grammar("regex", "[0-9]{3}")
    said = "stages dola_layers and grammar .* together left no token .* at least a tenth as likely as the likeliest"
    with pytest.raises(NonFiniteLogitsError, match=said):
        run(tiny_gpt2, [tiny_gpt2.text.encode("Once upon a time")], params, grammar=digits)
