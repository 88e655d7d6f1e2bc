"""`tokenglass compare`: two runs that differ in one thing, token by token."""

from __future__ import annotations

import json
from typing import Any

import pytest

import core
from core import cli

ARGS = ["compare", "--model", "tiny-gpt2", "--prompt", "Once upon a time", "--dtype", "fp32", "--device", "cpu"]
SETTINGS = ["--set", "max_new_tokens=10", "eos_token_id=[]", "temperature=0.9", "--seed", "4"]


def compared(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    assert cli.main([*ARGS, *SETTINGS, *more, "--json"]) == 0
    *lines, whole = map(json.loads, capsys.readouterr().out.splitlines())
    return lines, whole


def test_a_muted_head_moves_the_models_own_distributions_from_the_first_token_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, whole = compared(capsys, "--other-intervene", "heads 2.0,3")
    settings: dict[str, Any] = {"max_new_tokens": 10, "eos_token_id": [], "temperature": 0.9}
    where: dict[str, Any] = {"device": "cpu", "dtype": "fp32"}
    first = core.run("tiny-gpt2", "Once upon a time", params=settings, seed=4, **where)
    second = core.run("tiny-gpt2", "Once upon a time", params=settings, seed=4, interventions=["heads 2.0,3"], **where)
    said = [[line[side]["token_id"] for line in lines] for side in ("first", "second")]
    start = first.finished.prompt_tokens[0]
    assert said == [list(one.sequences[0][start:]) for one in (first, second)]
    parted = next((n for n, (a, b) in enumerate(zip(*said, strict=True)) if a != b), None)
    assert whole["first_difference"] == parted
    assert whole["texts"] == [first.text, second.text]
    wanted = core.compare(first, second, positions=(start, None))
    assert [line["kl_bits"] for line in lines] == pytest.approx(wanted.kl_bits.tolist(), abs=1e-5)
    assert all(line["kl_bits"] > 0 for line in lines)
    assert lines[0]["probability_of_first"] == pytest.approx(wanted.probability[0, 0].tolist(), abs=1e-6)


def test_a_parameter_moves_only_what_is_after_the_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    lines, whole = compared(capsys, "--other-set", "temperature=0.3", "top_k=2")
    same = whole["compared"] if whole["first_difference"] is None else whole["first_difference"] + 1
    assert max(line["kl_bits"] for line in lines[:same]) < 1e-6
    lines, after = compared(capsys, "--other-set", "temperature=0.3", "top_k=2", "--after-pipeline")
    assert after["texts"] == whole["texts"]
    assert lines[0]["kl_bits"] is None  # the second keeps two tokens: infinite
    assert cli.main([*ARGS, *SETTINGS, "--other-set", "top_k=2", "--after-pipeline"]) == 0
    said = capsys.readouterr().out
    assert "infinite" in said
    assert said.endswith("distributions after the pipeline\n")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "has to differ in something"),
        (["--other-set", "top_q=1"], "the nearest known name"),
        (["--other-intervene", "heads 99.0"], "no layer 99"),
        (["--other-cache", "nonsense"], "nonsense"),
        (["--other-model", "tiny-imagegpt"], "different vocabularies"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str], more: list[str], says: str) -> None:
    assert cli.main([*ARGS, "--set", "max_new_tokens=3", *more]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""
    assert told.err.count("\n") == 1
