"""Beam modes against what transformers 4.51.3 returned, which had all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.api import load_model
from core.models.loaded import LoadedModel
from tests.parity.reference import Ours, run

DATA = Path(__file__).parents[1] / "data" / "reference"
EOS = 2
MODES = {"beam_search", "group_beam_search", "constrained_beam_search"}
_loaded: dict[str, LoadedModel] = {}


def cases(name: str) -> list[Any]:
    found = [case for case in json.loads((DATA / name).read_text())["cases"] if case["mode"] in MODES]
    return [pytest.param(case, id=f"{n}-{case['model']}-{case['mode']}") for n, case in enumerate(found)]


def model(name: str) -> LoadedModel:
    if name not in _loaded:
        _loaded[name] = load_model(DATA / name, device="cpu", dtype="fp32")
    return _loaded[name]


def spoken(sequence: list[int], prompt: list[int], eos: list[int]) -> list[int]:
    """What was generated, up to EOS; all EOS tokens are as one."""
    new = sequence[len(prompt) :]
    end = next((n for n, token in enumerate(new) if token in eos), None)
    return new if end is None else [*new[:end], -1]


def ours_for(case: dict[str, Any], **spec: Any) -> Ours:
    params = {"max_new_tokens": case.get("max_new_tokens", 0) or 20, "eos_token_id": [EOS], **case["params"]}
    return run(model(case["model"]), [case["prompt"]], params, top_logprobs=0, trace=False, **spec)


def assert_equal(case: dict[str, Any], ours: Ours) -> None:
    eos = case["params"].get("eos_token_id", [EOS])
    prompt = case["prompt"]
    assert [spoken(s, prompt, eos) for s in ours.sequences] == [spoken(s, prompt, eos) for s in case["sequences"]]
    assert ours.finished.scores == pytest.approx(case["sequences_scores"], rel=1e-5, abs=1e-4)
    assert ours.session.mode.name == case["mode"]


@pytest.mark.parametrize("case", cases("expected.json"))
def test_tokens_and_scores_are_those_of_the_reference(case: dict[str, Any]) -> None:
    ours = ours_for(case)
    assert_equal(case, ours)
    if case["params"].get("eos_token_id") is None:  # a single EOS token: the very ids
        width = max(map(len, case["sequences"]))
        for mine, theirs in zip(ours.sequences, case["sequences"], strict=True):
            assert mine == theirs[: len(mine)]
            assert set(theirs[len(mine) : width]) <= {0, EOS}


@pytest.mark.parametrize("case", cases("beams.json"))
def test_with_eos_sets_penalties_and_alternatives_too(case: dict[str, Any]) -> None:
    assert_equal(case, ours_for(case))
