"""The plan says what the engine does: read off the session, asked for before a run, printed by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import MaxLengthCriteria

import core
from core import api, cli
from core.contract import (
    CommandRefused,
    GenerationPlan,
    Grammar,
    ModelReady,
    ParameterError,
    ParamsApplied,
    PauseRun,
    Planned,
    PreviewPlan,
    Prompt,
    PromptError,
    ResumeRun,
    RunFinished,
    RunSpec,
    RunStarted,
    SetParams,
    StartRun,
    StepSnapshot,
    plan_steps,
    plan_summary,
)
from core.models.loaded import LoadedModel
from tests.flow.test_lab import MODEL, PROMPT, Desk

HERE = {"device": "cpu", "dtype": "fp32"}
TEXT = "Once upon a time there was"
TITLES = [
    "Parameters", "Prompt", "Batch", "Length", "Mode",
    "Cache", "Logits processors", "Stopping criteria", "Draws", "Outputs",
]  # fmt: skip
SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": False, "repetition_penalty": 1.3, "min_new_tokens": 4},
    {"temperature": 0.0, "top_k": 0},
    {"temperature": 0.5, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95, "no_repeat_ngram_size": 2},
    {"max_length": 20, "min_length": 12, "stop_strings": ["The end"], "eos_token_id": []},
    {"num_return_sequences": 3},
    {"prompt_lookup_num_tokens": 3, "do_sample": False},
]


def session(loaded: LoadedModel, grammar: Grammar | None = None, **params: object) -> Any:
    spec = RunSpec((Prompt(text=TEXT),), params={"max_new_tokens": 6, **params}, seed=5, grammar=grammar)
    return api.open_session(loaded, spec)


def plan_of(loaded: LoadedModel, **params: object) -> GenerationPlan:
    one = session(loaded, **params)
    one.close()
    return one.started.plan


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_the_plan_is_what_the_engine_executes(params: dict[str, Any], tiny_gpt2: LoadedModel) -> None:
    run = session(tiny_gpt2, **params)
    plan: GenerationPlan = run.started.plan
    assert [(s.name, s.params) for s in plan.processors] == [(s.name, s.params) for s in run.stages]
    assert plan.mode == run.mode.name
    assert (plan.cache.limit, plan.cache.layers) == (run.started.max_length, tiny_gpt2.info.layers)
    steps = [event for event in api.events(run) if isinstance(event, StepSnapshot)]
    for row in run.rows:
        assert len(row.token_ids) <= plan.length.max_new_tokens
        if str(row.finish_reason) == "length":
            assert len(row.token_ids) == plan.length.max_new_tokens
    assert (plan.draws.seed is not None) == any(step.u is not None for step in steps)
    assert steps[0].top.stages == tuple(stage.name for stage in plan.processors)
    held = steps[-1].cache
    assert held.used_bytes == plan.cache.bytes_per_token * held.length * len(run.lanes)
    run.close()


@pytest.mark.parametrize("params", SETTINGS, ids=str)
def test_mode_length_and_criteria_are_those_of_generate(params: dict[str, Any], tiny_gpt2: LoadedModel) -> None:
    plan = plan_of(tiny_gpt2, **params)
    given = {**tiny_gpt2.module.generation_config.to_diff_dict(), "max_new_tokens": 6, **params}
    if given.get("temperature") == 0.0:
        given |= {"temperature": 1.0, "do_sample": False}  # which generate() refuses, and people mean
    eos = given.pop("eos_token_id")
    config = GenerationConfig(**given, eos_token_id=None if eos == [] else eos)
    assert plan.mode == config.get_generation_mode().value
    config._eos_token_tensor = None if eos == [] else torch.tensor([eos])
    config.max_length = plan.length.max_length
    theirs = tiny_gpt2.module._get_stopping_criteria(config, [], tokenizer=tiny_gpt2.text.tokenizer)
    longest = next(c for c in theirs if isinstance(c, MaxLengthCriteria))
    assert longest.max_length == plan.length.max_length
    kinds = {type(criterion).__name__ for criterion in theirs}
    names = {line.name for line in plan.stopping}
    assert ("EosTokenCriteria" in kinds) == ("eos_token_id" in names)
    assert ("StopStringCriteria" in kinds) == ("stop_strings" in names)


def test_ten_numbered_steps_in_the_order_of_generate(tiny_gpt2: LoadedModel) -> None:
    steps = plan_steps(plan_of(tiny_gpt2))
    assert [step.title for step in steps] == TITLES
    assert [step.number for step in steps] == list(range(1, 11))
    assert all(step.lines and step.summary for step in steps)
    words = [text for step in steps for line in step.lines for text in (line.name, line.value, line.reason)]
    assert not any("\n" in text for text in words)


def test_every_value_says_who_chose_it(tiny_gpt2: LoadedModel) -> None:
    chosen = {"top_p": 0.9, "typical_p": 0.8}
    spec = RunSpec((Prompt(text=TEXT),), params=chosen, host_defaults={"top_k": 7}, preset=frozenset({"typical_p"}))
    run = api.open_session(tiny_gpt2, spec)
    plan = run.started.plan
    run.close()
    origins = {name: plan.value(name).origin for name in ("top_p", "typical_p", "top_k", "temperature", "min_p")}
    assert origins == {
        "top_p": "user", "typical_p": "preset", "top_k": "host", "temperature": "model", "min_p": "default"
    }  # fmt: skip
    assert {p.name for p in plan.parameters} == set(core.contract.PARAMETERS)
    assert plan.value("temperature").value == tiny_gpt2.info.defaults.temperature


@pytest.mark.parametrize(
    "params", [{"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 2}, {"num_beams": 2}, {"dola_layers": "high"}]
)
def test_the_mode_is_put_down_to_who_asked_for_it(tiny_gpt2: LoadedModel, params: dict[str, object]) -> None:
    assert tiny_gpt2.info.defaults.do_sample  # which the model's own config says
    assert plan_of(tiny_gpt2, **params).mode_origin == "yours"


def test_a_value_that_another_replaced_says_which(tiny_gpt2: LoadedModel) -> None:
    plan = plan_of(tiny_gpt2, max_length=300, min_length=8, min_new_tokens=3)
    assert plan.value("max_length").value == 300
    assert "max_new_tokens decides" in plan.value("max_length").note
    assert "min_new_tokens decides" in plan.value("min_length").note
    assert [sentence for step, sentence in plan.warnings if step == 4] == [
        "Both max_new_tokens (6) and max_length (300) are set; max_new_tokens takes precedence.",
        "Both min_new_tokens (3) and min_length (8) are set; min_new_tokens takes precedence.",
    ]


@pytest.mark.parametrize(
    ("params", "step", "says"),
    [
        ({"do_sample": False, "top_p": 0.9}, 1, "top_p = 0.9 has no effect in greedy_search"),
        ({"temperature": 0.0, "top_p": 0.9}, 1, "temperature is 0, which means greedy"),
        ({"length_penalty": 2.0}, 1, "length_penalty = 2 has no effect"),
        ({"eos_token_id": [], "min_new_tokens": 2}, 1, "min_new_tokens has no effect, because no EOS token is set"),
        ({"max_new_tokens": 5000}, 4, "The model's 512 positions end the run after 507 new tokens"),
        ({"min_new_tokens": 50}, 4, "min_new_tokens (50) is more than the 6 tokens"),
        ({"eos_token_id": []}, 8, "only the length ends the run"),
    ],
    ids=str,
)
def test_warnings_in_plain_words(params: dict[str, Any], step: int, says: str, tiny_gpt2: LoadedModel) -> None:
    plan = plan_of(tiny_gpt2, **params)
    found = [sentence for number, sentence in plan.warnings if number == step]
    assert any(says in sentence for sentence in found), plan.warnings
    assert all(sentence.endswith(".") for sentence in found)


def test_model_defaults_without_effect_are_no_warning(tiny_gpt2: LoadedModel) -> None:
    assert plan_of(tiny_gpt2, do_sample=False).warnings == ()


def test_padding_positions_and_copies(tiny_gpt2: LoadedModel) -> None:
    plan = core.plan("tiny-gpt2", ["Once", TEXT], params={"num_return_sequences": 2}, **HERE)
    inputs = plan.inputs
    assert (inputs.copies, len(inputs.prompt_tokens), inputs.slots) == (2, 4, max(inputs.prompt_tokens))
    assert [t + p for t, p in zip(inputs.prompt_tokens, inputs.padding, strict=True)] == [inputs.slots] * 4
    batch = {line.name: line.value for line in plan_steps(plan)[2].lines}
    assert (batch["padding"], batch["attention_mask"], batch["position_ids"]) == ("left", "given", "explicit")


def test_a_plan_from_python_is_the_plan_of_the_run(tiny_gpt2: LoadedModel) -> None:
    settings: dict[str, Any] = {"params": {"max_new_tokens": 4, "top_p": 0.8}, "seed": 9, **HERE}
    plan = core.plan("tiny-gpt2", TEXT, **settings)
    assert plan == core.run("tiny-gpt2", TEXT, **settings).started.plan
    with pytest.raises(ParameterError, match=r"top_q.*top_"):
        core.plan("tiny-gpt2", TEXT, params={"top_q": 1}, **HERE)
    with pytest.raises(PromptError, match="512"):
        core.plan("tiny-gpt2", "dog " * 600, **HERE)


def test_changes_during_a_run_change_its_plan(tiny_gpt2: LoadedModel) -> None:
    run = session(tiny_gpt2)
    for _ in range(3):
        with run.attached():
            run.advance()
    applied = run.set_params({"top_p": 0.5, "max_new_tokens": 9}, epoch=1)
    assert applied.plan is not None
    assert [s.name for s in applied.plan.processors] == [s.name for s in run.stages]
    assert applied.plan.value("top_p").origin == "user"
    assert applied.plan.length.max_new_tokens == 9
    with pytest.raises(ParameterError, match="cannot change"):
        run.set_params({"max_new_tokens": 8, "num_beams": 3}, epoch=2)
    assert (run.params.max_new_tokens, run.asked.num_beams) == (9, 1)
    run.close()


def test_max_length_rules_a_run_and_counts_the_prompt(random_llama: LoadedModel) -> None:
    ids = tuple(range(3, 10))
    spec = RunSpec((Prompt(ids=ids),), params={"max_length": 12, "eos_token_id": []})
    run = api.open_session(random_llama, spec)
    assert run.started.plan.length.governed_by == "max_length"
    list(api.events(run))
    assert [len(s) for s in run.result().sequences] == [12]
    assert run.result().finish_reason == "length"
    run.close()
    with pytest.raises(ParameterError, match="the prompt already has 7 tokens"):
        api.open_session(random_llama, RunSpec((Prompt(ids=ids),), params={"max_length": 7}))


def test_max_time_ends_a_run_with_its_own_reason(tiny_gpt2: LoadedModel) -> None:
    run = session(tiny_gpt2, max_new_tokens=400, max_time=0.0, eos_token_id=[])
    list(api.events(run))
    assert (run.result().finish_reason, run.result().new_tokens) == ("time", 1)
    run.close()


# -- the worker


@pytest.fixture
def desk() -> Iterator[Desk]:
    from core.contract import LoadModel

    one = Desk()
    one.submit(LoadModel(MODEL, 1))
    one.until_type(ModelReady)
    yield one
    assert one.lab.close(10.0)


def spec_of(**params: object) -> RunSpec:
    return RunSpec(PROMPT, {"eos_token_id": (), "max_new_tokens": 30, **params})


def test_a_preview_is_the_plan_that_the_run_reports(desk: Desk) -> None:
    spec = spec_of(top_p=0.7)
    desk.submit(PreviewPlan(1, spec))
    previewed = desk.until_type(Planned)
    assert previewed.plan is not None
    desk.submit(StartRun(1, spec))
    assert desk.until_type(RunStarted).plan == previewed.plan
    desk.until_type(RunFinished)


def test_a_run_that_could_not_begin_is_previewed_with_the_reason(desk: Desk) -> None:
    for generation, (spec, code) in enumerate(
        [
            (spec_of(num_return_sequences=2, do_sample=False), "parameter"),
            (RunSpec((Prompt(text="dog " * 600),)), "prompt"),
            (RunSpec(PROMPT, grammar=Grammar("regex", "(")), "grammar"),
        ]
    ):
        desk.submit(PreviewPlan(generation, spec))
        answer = desk.until(lambda e, g=generation: isinstance(e, Planned) and e.generation == g)
        assert answer.plan is None
        assert answer.error.code == code
        desk.submit(StartRun(9, spec))
        refused = desk.until_type(CommandRefused)
        assert refused.error.message == answer.error.message


def test_previews_wait_while_tokens_are_produced_and_only_the_newest_is_answered(desk: Desk) -> None:
    desk.submit(StartRun(1, spec_of(max_new_tokens=60)))
    desk.until_type(StepSnapshot)
    for generation in range(5):
        desk.submit(PreviewPlan(generation, spec_of(top_k=generation + 1)))
    answer = desk.until_type(Planned)
    assert answer.generation == 4
    assert answer.plan.value("top_k").value == 5
    kinds = [type(event) for event in desk.events]
    assert kinds.count(Planned) == 1
    assert RunFinished in kinds[: kinds.index(Planned)]


def test_a_pause_is_time_enough_for_a_preview(desk: Desk) -> None:
    desk.submit(StartRun(1, spec_of(max_new_tokens=400)))
    desk.until_type(StepSnapshot)
    desk.submit(PauseRun(), PreviewPlan(1, spec_of()))
    desk.until_type(Planned)
    desk.submit(SetParams({"top_k": 3}, 1), ResumeRun(1))
    applied = desk.until_type(ParamsApplied)
    assert applied.plan.value("top_k").value == 3


# -- the command line


def printed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["plan", "--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_command_line_prints_ten_steps(capsys: pytest.CaptureFixture[str], tiny_gpt2: LoadedModel) -> None:
    out = printed("--prompt", TEXT, "--set", "top_p=0.9", "max_new_tokens=5000", capsys=capsys)
    heads = [line for line in out.splitlines() if line[:1].isdigit()]
    assert [head.split(". ")[1].split(":")[0] for head in heads] == TITLES
    assert "! The model's 512 positions" in out
    assert "temperature → top_k → top_p" in out
    assert cli.main(["plan", "--model", "tiny-gpt2", "--prompt", "x", "--set", "top_q=1"]) == 2
    assert "the nearest known name" in capsys.readouterr().err


def test_json_is_the_plan_as_data(capsys: pytest.CaptureFixture[str], tiny_gpt2: LoadedModel) -> None:
    plan = json.loads(printed("--prompt", TEXT, "--json", "--mode", "greedy_search", capsys=capsys))
    assert (plan["mode"], plan["draws"]["seed"]) == ("greedy_search", None)
    assert [step["title"] for step in plan["steps"]] == TITLES
    assert {p["name"]: p["origin"] for p in plan["parameters"]}["do_sample"] == "user"


def test_the_summary_fits_beside_the_parameters(tiny_gpt2: LoadedModel, tmp_path: Path) -> None:
    lines = {line.name: (line.value, line.reason) for line in plan_summary(plan_of(tiny_gpt2, temperature=0.5))}
    assert lines["mode"] == ("sample", "model")
    assert lines["length"] == ("12", "6 + 6")
    assert lines["stop"] == ("eos 0", "model")
    assert lines["draws"] == ("seed 5", "counter-based")


@pytest.mark.parametrize(
    ("params", "more"),
    [
        ({"num_beams": 8}, {}),
        ({"penalty_alpha": 0.6, "top_k": 5}, {}),
        ({"guidance_scale": 2.0}, {"negative_prompt": "It was sad"}),
        ({"num_return_sequences": 3, "do_sample": True}, {}),
    ],
    ids=str,
)
def test_the_caches_hold_what_the_plan_says_at_most(params: dict[str, Any], more: dict[str, Any]) -> None:
    settings = {"do_sample": False, **params, "max_new_tokens": 40, "eos_token_id": []}
    result = core.run("tiny-gpt2", TEXT, params=settings, trace=False, **more, **HERE)
    cache, last = result.started.plan.cache, result.steps[-1]
    most = cache.bytes_per_token * cache.limit * cache.rows
    slot = cache.bytes_per_token * cache.rows
    assert most - slot <= last.cache.used_bytes <= most
    assert cache.rows == params.get("num_beams", params.get("top_k", params.get("num_return_sequences", 1)))
    beside = result.started.plan.beside
    assert bool(beside) == (last.second_cache is not None) == bool(more)
    if last.second_cache is not None:
        assert beside[0].value == f"{(last.second_cache.used_bytes + slot) / 1e6:.3g} MB"
    assert all(line in plan_steps(result.started.plan)[5].lines for line in beside)


def test_min_length_says_what_each_row_must_have() -> None:
    prompts = ["Once upon a time there was a dog and", "Hi"]
    settings = {"do_sample": False, "min_length": 12, "max_new_tokens": 20, "eos_token_id": list(range(4000))}
    result = core.run("tiny-gpt2", prompts, params=settings, trace=False, **HERE)
    length = result.started.plan.length
    said = [len(ids) - own for ids, own in zip(result.sequences, result.finished.prompt_tokens, strict=True)]
    assert length.min_new_by_row == (12 - result.finished.prompt_tokens[0], 12 - result.finished.prompt_tokens[1])
    assert all(new > least for new, least in zip(said, length.min_new_by_row, strict=True))
    line = next(line for line in plan_steps(result.started.plan)[3].lines if line.name == "EOS")
    least, most = sorted(length.min_new_by_row)
    assert line.value == f"not before {least} to {most} new tokens"
    assert "each row's own prompt" in line.reason
