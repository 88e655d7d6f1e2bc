"""What Python brings to a run: own processors, stopping criteria, allowed tokens. And who left no token."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from transformers import (
    EosTokenCriteria,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation import ConfidenceCriteria

import core
from core.contract import (
    DistributionQuery,
    FinishReason,
    NonFiniteLogitsError,
    ParameterError,
    ViewUnavailableError,
)
from core.decode.extras import Extras
from core.decode.session import Session
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, finish, generate, open_session, prompt_of, unpadded
from tests.parity.test_pipeline import assert_equal_distributions


class Reverse(LogitsProcessor):
    """Turns the ranking of every other step around; remembers nothing."""

    replayable = True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return -scores if input_ids.shape[1] % 2 else scores


class Odd(StoppingCriteria):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: tuple[torch.Tensor, ...], **kwargs: object) -> torch.Tensor:
        self.calls += 1
        assert scores[-1].shape[0] == input_ids.shape[0]
        return torch.full((input_ids.shape[0],), bool(input_ids[0, -1] % 2))


def run_with(loaded: LoadedModel, rows: Any, params: dict[str, Any], extras: Extras, **spec: Any) -> Ours:
    plain = open_session(loaded, rows, params, **spec)
    return finish(Session(loaded, plain.spec, run_id=1, extras=extras))


def test_own_processors_come_after_the_parameters_and_before_the_filters(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 7)]
    params = {"do_sample": True, "temperature": 1.4, "top_k": 12, "repetition_penalty": 1.5, "max_new_tokens": 6}
    expected = generate(loaded, rows, seed=1, logits_processor=LogitsProcessorList([Reverse()]), **params)
    ours = run_with(
        loaded, rows, params, Extras((Reverse(),)), seed=1, draw_source="torch", top_logprobs=loaded.info.output_size
    )
    assert [stage.name for stage in ours.session.stages] == ["repetition_penalty", "Reverse", "temperature", "top_k"]
    assert ours.sequences == expected.sequences.tolist()
    assert_equal_distributions(ours, expected, 0)


def test_an_own_processor_of_a_class_takes_the_place_of_the_default(loaded: LoadedModel) -> None:
    own = RepetitionPenaltyLogitsProcessor(3.0)
    params = {"repetition_penalty": 1.1, "suppress_tokens": [4], "max_new_tokens": 6}
    rows = [prompt_of(loaded, 7)]
    expected = generate(loaded, rows, logits_processor=LogitsProcessorList([own]), **params)
    ours = run_with(loaded, rows, params, Extras((own,)))
    assert [stage.name for stage in ours.session.stages] == ["RepetitionPenaltyLogitsProcessor", "suppress_tokens"]
    assert ours.sequences == expected.sequences.tolist()


def test_a_view_of_a_past_step_refuses_a_stage_that_may_remember(tiny_gpt2: LoadedModel) -> None:
    def steady(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores - 1

    ours = run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 3}, Extras((steady,)))
    assert ours.session.answer(DistributionQuery(1, 1)) is not None
    with pytest.raises(ViewUnavailableError, match="steady"):
        ours.session.answer(DistributionQuery(1, 1, final=True))
    ours = run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 3}, Extras((Reverse(),)))
    assert ours.session.answer(DistributionQuery(1, 1, final=True)) is not None


def test_own_criteria_end_rows_and_see_every_step(loaded: LoadedModel) -> None:
    rows = [prompt_of(loaded, 7)]
    params = {"do_sample": True, "top_k": 0, "temperature": 3.0, "max_new_tokens": 12}
    criterion = Odd()
    expected = generate(loaded, rows, seed=4, stopping_criteria=StoppingCriteriaList([Odd()]), **params)
    ours = run_with(loaded, rows, params, Extras((), (criterion, criterion)), seed=4, draw_source="torch")
    assert ours.sequences == expected.sequences.tolist()
    assert criterion.calls == 2 * len(ours.steps)
    assert ours.finished.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


# generate() has no room for more than max_new_tokens with beams
@pytest.mark.parametrize(("beams", "new", "longest"), [(1, 5, 14), (1, 9, 10), (3, 9, 10)])
def test_a_criterion_of_a_class_takes_the_place_of_the_default(
    random_llama: LoadedModel, beams: int, new: int, longest: int
) -> None:
    rows = [prompt_of(random_llama, 7), prompt_of(random_llama, 4)]
    params = {"max_new_tokens": new, "num_beams": beams}
    criterion = MaxLengthCriteria(longest)
    expected = generate(random_llama, rows, stopping_criteria=StoppingCriteriaList([criterion]), **params)
    ours = run_with(random_llama, rows, params, Extras((), (criterion,)))
    assert ours.sequences == unpadded(rows, expected.sequences)
    plan = ours.session.started.plan
    assert (plan.length.governed_by, plan.length.max_new_tokens) == ("MaxLengthCriteria", longest - 7)
    assert any("MaxLengthCriteria ends the run" in text for _, text in plan.warnings)
    ours.session.set_params({"max_new_tokens": 3}, epoch=1)
    assert ours.session.params.max_new_tokens == longest - 7


def test_an_own_end_takes_the_place_of_eos(random_llama: LoadedModel) -> None:
    rows = [prompt_of(random_llama, 7)]
    said = run_with(random_llama, rows, {}, Extras()).sequences[0][7:]
    eos, other = said[2], next(token for token in said[3:] if token not in said[:3])
    params = {"eos_token_id": [eos], "max_new_tokens": 12}
    criterion = EosTokenCriteria(other)
    expected = generate(random_llama, rows, stopping_criteria=StoppingCriteriaList([criterion]), **params)
    ours = run_with(random_llama, rows, params, Extras((), (criterion,)))
    assert ours.sequences == expected.sequences.tolist()
    assert len(ours.steps) > 3
    lines = {line.name: line.reason for line in ours.session.started.plan.stopping}
    assert lines["EosTokenCriteria"] == "in the place of eos_token_id"
    assert "eos_token_id" not in lines


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("kind", ["time is over", "time is left", "eos", "two lengths", "strings"])
def test_each_class_of_generate_ends_a_run_as_there(
    kind: str, sampled: bool, beams: int, tiny_gpt2: LoadedModel
) -> None:
    tokenizer = tiny_gpt2.text.tokenizer
    rows = [tiny_gpt2.text.encode("Once upon a time there was")]
    params: dict[str, Any] = {"max_new_tokens": 9, "do_sample": sampled, "top_k": 0, "num_beams": beams}
    plain_run = run_with(tiny_gpt2, rows, params, Extras(), seed=6, draw_source="torch").sequences[0][len(rows[0]) :]
    theirs: dict[str, Any] = {}
    own: list[StoppingCriteria] = []
    replaced, line = "", ""
    if kind == "time is over":
        own, params["max_time"] = [MaxTimeCriteria(1.0, initial_timestamp=time.time() - 100)], 1000.0
        replaced, line = "max_time", "MaxTimeCriteria"
    elif kind == "time is left":
        own, params["max_time"] = [MaxTimeCriteria(1000.0)], 1e-9
        replaced, line = "max_time", "MaxTimeCriteria"
    elif kind == "eos":
        own, params["eos_token_id"] = [EosTokenCriteria([plain_run[4], plain_run[6]])], [plain_run[1]]
        replaced, line = "eos_token_id", "EosTokenCriteria"
    elif kind == "two lengths":
        own = [MaxLengthCriteria(len(rows[0]) + 7), MaxLengthCriteria(len(rows[0]) + 4)]
    else:
        wanted, other = tokenizer.decode(plain_run[3:5]), tokenizer.decode(plain_run[1:2])
        own = [StopStringCriteria(tokenizer, [wanted])]
        params["stop_strings"], theirs["tokenizer"] = [other], tokenizer
        replaced, line = "stop_strings", "StopStringCriteria"
    expected = generate(tiny_gpt2, rows, seed=6, stopping_criteria=StoppingCriteriaList(own), **params, **theirs)
    ours = run_with(tiny_gpt2, rows, params, Extras((), tuple(own)), seed=6, draw_source="torch")
    assert ours.sequences == unpadded(rows, expected.sequences, () if kind != "eos" else own[0].eos_token_id.tolist())
    length = len(ours.sequences[0]) - len(rows[0])
    # Of beams that end early, one that went on may still be the best.
    assert {"time is over": length == 1, "time is left": length == 9}.get(kind, length < 9 or beams > 1)
    reasons = {line.name: line.reason for line in ours.session.started.plan.stopping}
    assert replaced not in reasons
    assert not line or reasons[line] == f"in the place of {replaced}"


@pytest.mark.parametrize("sampled", [False, True])
def test_a_criterion_of_confidence_is_asked_about_the_final_scores(sampled: bool, tiny_gpt2: LoadedModel) -> None:
    """`generate()` makes one for drafts alone, so that it takes nobody's place; it judges the token just chosen."""
    rows = [tiny_gpt2.text.encode("Once upon a time there was")]
    params = {"max_new_tokens": 12, "do_sample": sampled, "temperature": 1.5, "top_k": 0, "eos_token_id": []}
    steps = run_with(tiny_gpt2, rows, params, Extras(), seed=6, draw_source="torch").steps
    least = sorted(math.exp(step.final_logprob) for step in steps)
    own = ConfidenceCriteria((least[0] + least[1]) / 2)
    expected = generate(tiny_gpt2, rows, seed=6, stopping_criteria=StoppingCriteriaList([own]), **params)
    ours = run_with(tiny_gpt2, rows, params, Extras((), (own,)), seed=6, draw_source="torch")
    assert ours.sequences == expected.sequences.tolist()
    assert math.exp(ours.steps[-1].final_logprob) == pytest.approx(least[0])
    assert ours.finished.finish_reason == FinishReason.STOP or ours.finished.new_tokens == 12
    lines = {line.name: line.reason for line in ours.session.started.plan.stopping}
    assert lines["ConfidenceCriteria"] == "asked after each token of a row"


def test_the_rows_of_a_batch_are_confident_each_for_itself(tiny_gpt2: LoadedModel) -> None:
    """`generate()` asks the criterion about the first row only."""
    rows = [tiny_gpt2.text.encode(text) for text in ("Once upon a time there was", "The fox said", "One day")]
    own = ConfidenceCriteria(0.5)
    alone = [run_with(tiny_gpt2, [row], {}, Extras((), (own,))).sequences[0] for row in rows]
    assert run_with(tiny_gpt2, rows, {}, Extras((), (own,))).sequences == alone
    assert len({len(ids) - len(row) for ids, row in zip(alone, rows, strict=True)}) > 1


def halved(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores / 2


def test_the_plan_tells_own_criteria_beforehand(tiny_gpt2: LoadedModel) -> None:
    arguments: dict[str, Any] = {
        "prompt_ids": [1, 2, 3],
        "params": {"max_new_tokens": 5, "eos_token_id": []},
        "dtype": "fp32",
        "device": "cpu",
    }
    without = core.plan("tiny-gpt2", **arguments)
    assert any("only the length ends the run" in text for _, text in without.warnings)
    own: dict[str, Any] = {
        "stopping_criteria": [Odd()],
        "logits_processor": [halved],
        "prefix_allowed_tokens_fn": lambda prompt, ids: [20, 22, 31],
    }
    plan = core.plan("tiny-gpt2", **arguments, **own)
    assert plan == core.run("tiny-gpt2", **arguments, **own).started.plan
    assert [line.name for line in plan.stopping][-1] == "Odd"
    assert not any("only the length ends the run" in text for _, text in plan.warnings)
    assert [stage.name for stage in plan.processors][:2] == ["prefix_allowed_tokens_fn", "halved"]
    before = core.run("tiny-gpt2", **arguments)
    assert core.plan("tiny-gpt2", past_key_values=before, dtype="fp32", device="cpu").inputs.reused_positions == 7


def test_only_allowed_tokens_follow_and_each_row_knows_its_prompt(loaded: LoadedModel) -> None:
    def allowed(prompt: int, ids: torch.Tensor) -> list[int]:
        return [10 + prompt, 20 + int(ids[-1]) % 5]

    rows = [prompt_of(loaded, 6), prompt_of(loaded, 6, seed=1)]
    params = {"do_sample": True, "top_k": 0, "max_new_tokens": 6}
    expected = generate(loaded, rows, seed=2, prefix_allowed_tokens_fn=allowed, **params)
    ours = run_with(loaded, rows, params, Extras(prefix_allowed_tokens_fn=allowed), seed=2, draw_source="torch")
    assert ours.sequences == expected.sequences.tolist()


def test_a_function_that_allows_nothing_says_so(tiny_gpt2: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="allows no token"):
        run_with(tiny_gpt2, [[1, 2]], {}, Extras(prefix_allowed_tokens_fn=lambda prompt, ids: []))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_stage_that_left_no_token_is_named(tiny_gpt2: LoadedModel, sampled: bool) -> None:
    everything = list(range(tiny_gpt2.info.vocab_size))
    params = {"do_sample": sampled, "repetition_penalty": 1.2, "suppress_tokens": everything}
    with pytest.raises(NonFiniteLogitsError, match="The stage suppress_tokens of the pipeline left no token"):
        run_with(tiny_gpt2, [[1, 2]], params, Extras())


def test_a_processor_may_write_into_the_scores_it_is_given(tiny_gpt2: LoadedModel) -> None:
    best = run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 1}, Extras()).steps[0]

    def in_place(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, best.token_id] = -torch.inf
        return scores

    step = run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 1}, Extras((in_place,))).steps[0]
    assert step.token_id != best.token_id
    assert step.rank == 1
    assert step.entropy_bits == best.entropy_bits
    assert step.top.logprob[0] == best.top.logprob[0] > -10


def failing(*args: object) -> Any:
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("extras", "sentence"),
    [
        (Extras((failing,)), "failing, given as logits_processor, failed with KeyError: 'mine'"),
        (
            Extras((lambda ids, scores: None,)),
            r"given as logits_processor, returned None; it has to return scores \([12],",
        ),
        (Extras((lambda ids, scores: scores[:, :3],)), r"returned a tensor \([12], 3\)"),
        (Extras((), (failing,)), "failing, given as stopping_criteria, failed with KeyError"),
        (Extras((), (lambda ids, scores: None,)), "returned None; it has to return true or false"),
        (Extras(prefix_allowed_tokens_fn=failing), "failing, given as prefix_allowed_tokens_fn, failed"),
        (Extras(prefix_allowed_tokens_fn=lambda p, ids: None), "returned None; it has to return a list of token ids"),
        (Extras(prefix_allowed_tokens_fn=lambda p, ids: [10**6]), "allows the token id 1000000, but this model knows"),
    ],
)
@pytest.mark.parametrize("beams", [1, 2])
def test_what_goes_wrong_in_own_code_is_said_of_it(
    tiny_gpt2: LoadedModel, extras: Extras, sentence: str, beams: int
) -> None:
    with pytest.raises(ParameterError, match=sentence):
        run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 3, "num_beams": beams}, extras)


def test_one_function_that_is_no_list_is_refused(tiny_gpt2: LoadedModel) -> None:
    with pytest.raises(ParameterError, match="logits_processor is a list; put Reverse in brackets"):
        core.run("tiny-gpt2", "x", logits_processor=Reverse())  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="stopping_criteria takes functions, not None"):
        core.run("tiny-gpt2", "x", stopping_criteria=[None])  # type: ignore[list-item]


def test_ids_that_the_model_does_not_know_are_refused(tiny_gpt2: LoadedModel) -> None:
    beyond = tiny_gpt2.info.vocab_size
    for params in ({"suppress_tokens": [beyond]}, {"bad_words_ids": [[1, beyond]]}, {"sequence_bias": [[[beyond], 1]]}):
        with pytest.raises(ParameterError, match=f"token id {beyond}, but this model knows ids 0 to {beyond - 1}"):
            run_with(tiny_gpt2, [[1]], params, Extras())


def test_invalid_values_are_repaired_where_asked(tiny_gpt2: LoadedModel) -> None:
    def spoil(module: Any, args: Any, output: Any) -> Any:
        logits = output.clone()
        logits[..., 3], logits[..., 4], logits[..., 5] = torch.nan, torch.inf, -torch.inf
        return logits

    handle = tiny_gpt2.module.get_output_embeddings().register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteLogitsError):
            run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 2}, Extras())
        ours = run_with(tiny_gpt2, [[1, 2]], {"max_new_tokens": 2, "remove_invalid_values": True}, Extras())
    finally:
        handle.remove()
    assert ours.sequences == [[1, 2, 4, 4]]
    for step in ours.steps:
        assert step.logprob == step.final_logprob == 0.0
        assert step.entropy_bits == 0.0


def test_core_run_and_stream_take_them() -> None:
    criterion = Odd()
    arguments: dict[str, Any] = {
        "prompt_ids": [1, 2, 3],
        "params": {"max_new_tokens": 5, "eos_token_id": [], "do_sample": False},
        "logits_processor": [halved],
        "prefix_allowed_tokens_fn": lambda prompt, ids: [20, 22, 31],
        "dtype": "fp32",
        "device": "cpu",
    }
    result = core.run("tiny-gpt2", stopping_criteria=[criterion], **arguments)
    assert set(result.sequences[0][3:]) <= {20, 22, 31}
    assert criterion.calls == len(result.steps)
    streamed = [step.token_id for step in core.stream("tiny-gpt2", stopping_criteria=[Odd()], **arguments)]
    assert streamed == result.sequences[0][3:]
