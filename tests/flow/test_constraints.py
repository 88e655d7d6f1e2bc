"""Runs under a grammar: in every draw, in batches, with drafts, from Python, the worker and the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import core
from core import cli
from core.contract import Grammar, GrammarError, NonFiniteLogitsError
from core.models.loaded import LoadedModel

HERE = {"device": "cpu", "dtype": "fp32"}
TEXT = "Once upon a time there was"
PATTERN = r" a (big|small|little) (dog|cat|bird) named [A-Z][a-z]{2,7}\."
SCHEMA = '{"type":"object","properties":{"dog":{"type":"boolean"}},"required":["dog"],"additionalProperties":false}'


def go(grammar: Grammar, prompt: object = TEXT, **kwargs: object) -> core.RunResult:
    params = {"max_new_tokens": 60, **kwargs.pop("params", {})}
    return core.run("tiny-gpt2", prompt, params=params, grammar=grammar, **HERE, **kwargs)


@pytest.mark.parametrize("source", ["counter", "torch"])
@pytest.mark.parametrize("params", [{"do_sample": False}, {}, {"temperature": 2.0, "top_k": 0}], ids=str)
def test_every_text_fits(params: dict[str, object], source: str, tiny_gpt2: LoadedModel) -> None:
    result = go(Grammar("regex", PATTERN), params=params, draw_source=source, seed=3)
    assert re.fullmatch(PATTERN, result.text)
    assert result.finish_reason == "stop"
    assert result.sequences[0][-1] in tiny_gpt2.info.eos_token_ids
    assert [step.allowed_tokens for step in result.steps][-1] == 1
    assert all(step.allowed_tokens and step.allowed_tokens < 4096 for step in result.steps)
    assert "grammar" in result.steps[0].top.stages
    assert result.steps[0].to_json()["allowed_tokens"] == result.started.plan.allowed_first


def test_without_a_constraint_nothing_is_counted(tiny_gpt2: LoadedModel) -> None:
    result = core.run("tiny-gpt2", TEXT, params={"max_new_tokens": 2}, **HERE)
    assert [step.allowed_tokens for step in result.steps] == [None, None]
    assert "allowed_tokens" not in result.steps[0].to_json()


def test_json_and_choices(tiny_gpt2: LoadedModel) -> None:
    assert set(json.loads(go(Grammar("json_schema", SCHEMA), params={"do_sample": False}).text)) == {"dog"}
    texts = {
        go(Grammar("choice", " red\n blue\n blue sky"), seed=seed, params={"temperature": 3.0}).text
        for seed in range(8)
    }
    assert texts <= {" red", " blue", " blue sky"}
    assert len(texts) > 1


def test_a_complete_text_ends_without_any_eos_token(tiny_gpt2: LoadedModel) -> None:
    result = go(Grammar("regex", PATTERN), params={"eos_token_id": []})
    assert re.fullmatch(PATTERN, result.text)
    assert result.finish_reason == "stop"


def test_rows_of_different_lengths_follow_it_each_for_itself(tiny_gpt2: LoadedModel) -> None:
    result = go(
        Grammar("regex", PATTERN), ["Once", TEXT, "The"], params={"num_return_sequences": 3, "temperature": 1.5}
    )
    assert len(result.texts) == 9
    assert all(re.fullmatch(PATTERN, text) for text in result.texts)
    assert len(set(result.texts)) > 3


def test_drafted_tokens_are_checked_against_it(tiny_gpt2: LoadedModel) -> None:
    greedy = go(Grammar("regex", PATTERN), params={"do_sample": False})
    drafted = go(Grammar("regex", PATTERN), params={"do_sample": False, "prompt_lookup_num_tokens": 4})
    assert drafted.sequences == greedy.sequences


def test_a_past_step_is_derived_under_its_constraint(tiny_gpt2: LoadedModel) -> None:
    result = go(Grammar("regex", PATTERN), params={"do_sample": False})
    start = len(tiny_gpt2.text.encode(TEXT))
    for step in result.steps[:6]:
        answer = result.distribution(start - 1 + step.id.index, final=True, top=1)
        assert int(answer.token_ids[0]) == step.token_id


def test_what_contradicts_the_constraint_says_so(tiny_gpt2: LoadedModel) -> None:
    with pytest.raises(NonFiniteLogitsError, match=r"stages min_new_tokens and grammar.*left no token"):
        go(Grammar("choice", " red"), params={"min_new_tokens": 40})
    with pytest.raises(GrammarError, match="unclosed group"):
        go(Grammar("regex", "("))


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        (["--regex", PATTERN], PATTERN),
        (["--choice", " red", "--choice", " a blue one"], " red| a blue one"),
        (["--json-schema", "SCHEMA"], r"\{.*dog.*\}"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_line(
    arguments: list[str], fits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_gpt2: LoadedModel
) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    given = [str(tmp_path / "schema.json") if a == "SCHEMA" else a for a in arguments]
    base = ["--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--prompt", TEXT]
    assert cli.main(["generate", *base, *given]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(fits, out.removesuffix("\n"), re.DOTALL)
    assert cli.main(["plan", *base, *given]) == 0
    assert "grammar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--regex", "("], "unclosed group"),
        (["--json-schema", "no/such/file"], "“no/such/file” cannot be read"),
        (["--choice", ""], "empty"),
        (["--regex", "a", "--choice", "b"], "not allowed with"),
    ],
)
def test_rude_constraints_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tiny_gpt2: LoadedModel
) -> None:
    base = ["--model", "tiny-gpt2", "--device", "cpu", "--dtype", "fp32", "--prompt", TEXT]
    assert cli.main(["generate", *base, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_draft_ends_where_the_pipeline_leaves_nothing() -> None:
    grammar, drafts = Grammar("regex", " (big|small) dog"), {"assistant_early_exit": 3, "max_new_tokens": 20}
    drafts["assistant_confidence_threshold"] = 0
    for top_h in (0.0, 0.5):
        params = {**drafts, "min_new_tokens": 5, "top_h": top_h}
        with pytest.raises(NonFiniteLogitsError, match=r"stages min_new_tokens and grammar.*together left no token"):
            go(grammar, "Hello", seed=1, params=params)
    assert go(grammar, "Hello", params=drafts).text in (" big dog", " small dog")


def test_dola_and_a_grammar_that_leave_nothing_together_are_both_named() -> None:
    with pytest.raises(NonFiniteLogitsError, match=r"stages dola_layers and grammar.*together left no token"):
        go(
            Grammar("choice", " very big.\n very small and lazy."),
            "The dog was very small.",
            params={"dola_layers": "high", "do_sample": False},
        )
