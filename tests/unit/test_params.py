"""The parameter table: names of GenerationConfig, types, bounds, and sentences for what is wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import PARAMETERS, GenerationParams, ParameterError, validate

NUMBERS = [name for name, parameter in PARAMETERS.items() if parameter.kind in ("int", "float")]


def refusal(name: str, value: object) -> str:
    with pytest.raises(ParameterError) as caught:
        validate({name: value})
    return caught.value.message


def test_names_and_defaults_are_those_of_generation_config() -> None:
    from transformers import GenerationConfig

    config = GenerationConfig()
    for name in PARAMETERS:
        assert hasattr(config, name), name
    # Where transformers says None it means the neutral value; top_k is 50 as soon as it samples.
    neutral = {"top_k": 50, "top_p": 1.0, "temperature": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "min_p": 0.0}
    for name, value in neutral.items():
        assert getattr(GenerationParams(), name) == value
        assert getattr(config, name) in (None, value)


def test_every_parameter_is_explained_and_its_default_is_valid() -> None:
    defaults = GenerationParams()
    for name, parameter in PARAMETERS.items():
        assert parameter.name == name
        assert len(parameter.doc) > 20
        assert parameter.doc.endswith(".")
        assert validate({name: getattr(defaults, name)}) == {name: getattr(defaults, name)}


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("temprature", "temperature"), ("max_tokens", "max_new_tokens"), ("topk", "top_k"), ("top-p", "top_p")],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    assert refusal(wrong, 1) == f"Unknown parameter “{wrong}”; the nearest known name is “{near}”."


def test_even_a_name_like_no_other_gets_an_answer() -> None:
    assert "nearest known name" in refusal("", 1)
    assert "nearest known name" in refusal("物", 1)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True, [1], {}])
def test_a_number_must_be_a_finite_number(name: str, value: object) -> None:
    message = refusal(name, value)
    assert message.startswith(f"{name} cannot be {value!r}; it takes a ")
    assert message.count("\n") == 0


@pytest.mark.parametrize("name", [n for n in NUMBERS if PARAMETERS[n].minimum is not None])
def test_bounds_are_inclusive(name: str) -> None:
    parameter = PARAMETERS[name]
    low, high = parameter.minimum, parameter.maximum
    assert validate({name: low}) == {name: low}
    assert f"{name} cannot be" in refusal(name, low - 1)
    if high is not None:
        assert validate({name: high}) == {name: high}
        assert f"between {low:g} and {high:g}" in refusal(name, high + 1)


def test_a_whole_number_may_be_written_as_a_float_but_not_a_fraction() -> None:
    assert validate({"top_k": 40.0}) == {"top_k": 40}
    assert type(validate({"top_k": 40.0})["top_k"]) is int
    assert "whole number" in refusal("top_k", 40.5)


def test_a_float_may_be_written_as_a_whole_number() -> None:
    clean = validate({"temperature": 1})["temperature"]
    assert clean == 1.0
    assert type(clean) is float


def test_temperature_zero_is_greedy_and_tiny_ones_are_refused() -> None:
    assert GenerationParams(do_sample=True).replace({"temperature": 0}).mode == "greedy_search"
    assert GenerationParams(do_sample=True).mode == "sample"
    assert GenerationParams().mode == "greedy_search"
    assert "0 for greedy" in refusal("temperature", 1e-9)
    assert "at least 0" in refusal("temperature", -1)


def test_eos_takes_one_id_several_or_none() -> None:
    assert validate({"eos_token_id": 2}) == {"eos_token_id": (2,)}
    assert validate({"eos_token_id": [2, 3]}) == {"eos_token_id": (2, 3)}
    assert validate({"eos_token_id": None}) == {"eos_token_id": ()}
    for wrong in ([1.5], ["2"], [True], "2", {2}):
        assert "token ids" in refusal("eos_token_id", wrong)


def test_stop_strings_take_one_text_several_or_none_but_no_empty_one() -> None:
    assert validate({"stop_strings": "END"}) == {"stop_strings": ("END",)}
    assert validate({"stop_strings": ["a", "b"]}) == {"stop_strings": ("a", "b")}
    assert validate({"stop_strings": []}) == {"stop_strings": ()}
    for wrong in ("", [""], [1], 5):
        assert "texts that are not empty" in refusal("stop_strings", wrong)


def test_switches_take_true_or_false_only() -> None:
    for wrong in (1, "true", None):
        assert "true or false" in refusal("do_sample", wrong)


def test_a_refused_change_changes_nothing() -> None:
    before = GenerationParams(temperature=0.5)
    with pytest.raises(ParameterError):
        before.replace({"top_k": 3, "top_p": 7})
    assert before == GenerationParams(temperature=0.5)


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), st.floats() | st.integers() | st.text() | st.booleans()))
def test_what_is_accepted_is_clean_and_stays_accepted(changes: dict[str, Any]) -> None:
    try:
        clean = validate(changes)
    except ParameterError:
        return
    assert validate(clean) == clean
    assert dataclasses.asdict(GenerationParams().replace(changes)).items() >= clean.items()
