"""The parameter table: names of GenerationConfig, types, bounds, and sentences for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import (
    MODES,
    PARAMETERS,
    GenerationParams,
    ParameterError,
    as_generation_config,
    check_together,
    in_mode,
    inactive_reason,
    validate,
)

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
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", True, [1], {}])
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


TAKEN: dict[str, list[tuple[object, object]]] = {
    "early_stopping": [(False, False), (True, True), ("never", "never")],
    "dola_layers": [("low", "low"), ("high", "high"), ([1, 3], (1, 3)), (None, None)],
    "num_assistant_tokens_schedule": [("heuristic", "heuristic")],
    "forced_bos_token_id": [(3, 3), (None, None)],
    "forced_eos_token_id": [(3, (3,)), ([3, 4], (3, 4)), (None, ())],
    "bad_words_ids": [([[1], [2, 3]], ((1,), (2, 3))), (None, ()), ([], ())],
    "force_words_ids": [([[1, 2], [[3], [4, 5]]], ((1, 2), ((3,), (4, 5))))],
    "sequence_bias": [([[[1, 2], -2]], (((1, 2), -2.0),)), ({(1, 2): 0.5}, (((1, 2), 0.5),))],
    "exponential_decay_length_penalty": [([20, 1.05], (20, 1.05)), ([], ()), (None, ())],
    "watermarking_config": [
        ({"bias": 2.5, "seeding_scheme": "selfhash"}, (("bias", 2.5), ("seeding_scheme", "selfhash"))),
        ({"keys": [1, 2], "ngram_len": 5}, (("keys", (1, 2)), ("ngram_len", 5))),
    ],
    "max_time": [(2, 2.0), (None, None)],
    "max_length": [(20, 20), (None, None)],
}
REFUSED: dict[str, list[object]] = {
    "early_stopping": ["always", 1, None],
    "dola_layers": ["middle", [], [-1], [1.5]],
    "num_assistant_tokens_schedule": ["steady"],
    "forced_bos_token_id": [-1, True, "x", [1]],
    "eos_token_id": [-1, [-1]],
    "bad_words_ids": [[1, 2], [[]], [["a"]], "no"],
    "force_words_ids": [[1], [[]], [[[]]], [[1, [2]]]],
    "sequence_bias": [[[1, 2.0]], [[[], 2.0]], [[[1], math.nan]], 3],
    "exponential_decay_length_penalty": [[20], [20, 0], [-1, 1.1], "x"],
    "watermarking_config": [{"bios": 1}, {"seeding_scheme": "x"}, {"greenlist_ratio": 2}, {"keys": [1]}, [1]],
    "suppress_tokens": [[True], {1}],
    "max_time": [-1, math.inf],
}


@pytest.mark.parametrize(("name", "value", "plain"), [(n, *pair) for n, pairs in TAKEN.items() for pair in pairs])
def test_structured_values_become_hashable_data_and_come_back_from_json(name: str, value: object, plain: Any) -> None:
    params = GenerationParams().replace({name: value})
    found = getattr(params, name)
    assert found == plain
    assert type(found) is type(plain)
    hash(params)
    written = json.loads(json.dumps(as_generation_config(params)))
    assert GenerationParams().replace(written) == params
    if found != getattr(GenerationParams(), name):
        assert set(written) == {name}


@pytest.mark.parametrize(("name", "value"), [(n, value) for n, values in REFUSED.items() for value in values])
def test_structured_values_of_another_shape_are_refused_in_a_sentence(name: str, value: object) -> None:
    message = refusal(name, value)
    assert message.startswith(f"{name} cannot be ")
    assert message.endswith(".")
    assert "\n" not in message


def test_huge_values_do_not_make_huge_messages() -> None:
    assert len(refusal("stop_strings", [["x"] * 100_000])) < 500
    assert len(refusal("eos_token_id", [1] * 100_000)) < 500


MODES_OF: list[tuple[str, dict[str, Any]]] = [
    ("greedy_search", {}),
    ("sample", {"do_sample": True}),
    ("greedy_search", {"do_sample": True, "temperature": 0}),
    ("beam_search", {"num_beams": 3}),
    ("beam_search", {"num_beams": 3, "penalty_alpha": 0.6}),
    ("beam_sample", {"num_beams": 3, "do_sample": True}),
    ("beam_search", {"num_beams": 3, "do_sample": True, "temperature": 0}),
    ("group_beam_search", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}),
    ("constrained_beam_search", {"num_beams": 4, "force_words_ids": [[3]]}),
    ("contrastive_search", {"penalty_alpha": 0.6}),
    ("contrastive_search", {"penalty_alpha": 0.6, "top_k": 4}),
    ("dola_generation", {"dola_layers": "low"}),
    ("dola_generation", {"dola_layers": "low", "do_sample": True}),
    ("assisted_generation", {"prompt_lookup_num_tokens": 5}),
    ("assisted_generation", {"assistant_early_exit": 2, "do_sample": True}),
]


@pytest.mark.parametrize(("mode", "values"), MODES_OF)
def test_the_mode_is_the_one_that_generate_infers(mode: str, values: dict[str, Any]) -> None:
    from transformers import GenerationConfig

    params = GenerationParams().replace(values)
    assert params.mode == mode
    check_together(params)
    assert in_mode(params, mode) in (params, dataclasses.replace(params, do_sample=False))
    settings = {"num_beams": 1, "top_k": 50, "do_sample": False, **values}
    if settings.get("temperature") != 0:
        assert GenerationConfig(**settings).get_generation_mode() == mode
    assert mode in MODES


def test_a_draft_model_makes_greedy_search_and_sampling_assisted() -> None:
    for sampling in (False, True):
        assert GenerationParams(do_sample=sampling).infer_mode(assisted=True) == "assisted_generation"
    assert GenerationParams(num_beams=2).infer_mode(assisted=True) == "beam_search"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "cannot be more than num_beams (2)"),
        ({"num_return_sequences": 2}, "needs sampling or beams"),
        ({"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1}, "cannot be divided into 2 groups"),
        ({"num_beams": 4, "num_beam_groups": 2}, "identical"),
        ({"num_beam_groups": 2, "diversity_penalty": 1}, "needs beams"),
        ({"num_beams": 4, "diversity_penalty": 1}, "set num_beam_groups above 1"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1, "do_sample": True}, "do not sample"),
        ({"force_words_ids": [[1]]}, "needs beams"),
        ({"force_words_ids": [[1]], "num_beams": 2, "do_sample": True}, "do not sample"),
        ({"penalty_alpha": 0.6, "do_sample": True}, "does not sample"),
        ({"penalty_alpha": 0.6, "top_k": 1}, "top_k above 1"),
        ({"prompt_lookup_num_tokens": 3, "assistant_early_exit": 2}, "one way only"),
        ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "only with greedy search and sampling"),
        ({"dola_layers": "low", "num_beams": 2}, "only with greedy search and sampling"),
        ({"dola_layers": "low", "prompt_lookup_num_tokens": 3}, "not with assisted_generation"),
        ({"prompt_lookup_num_tokens": 3, "do_sample": True, "num_return_sequences": 2}, "one sequence only"),
        (
            {"force_words_ids": [[1]], "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1},
            "Constrained beams know no groups",
        ),
        ({"suppress_tokens": [3, 4], "forced_eos_token_id": 3}, "also in suppress_tokens"),
        ({"suppress_tokens": [3, 4], "forced_bos_token_id": 4}, "Every token of forced_bos_token_id is also in"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_together(GenerationParams().replace(values))
    assert words in caught.value.message
    assert caught.value.message.endswith(".")


def test_a_mode_by_name_switches_sampling_and_says_what_else_it_needs() -> None:
    assert in_mode(GenerationParams(), "sample").do_sample
    assert not in_mode(GenerationParams(do_sample=True), "greedy_search").do_sample
    assert in_mode(GenerationParams(num_beams=3), "beam_sample").do_sample
    with pytest.raises(ParameterError, match="needs num_beams above 1; these parameters give greedy_search"):
        in_mode(GenerationParams(), "beam_search")
    with pytest.raises(ParameterError, match="not available"):
        in_mode(GenerationParams(), "guessing")


def test_a_parameter_without_effect_says_why() -> None:
    greedy, drawn = GenerationParams(), GenerationParams(do_sample=True)
    assert inactive_reason("top_p", greedy) == "no effect in greedy_search; it needs sampling (do_sample)"
    assert inactive_reason("top_p", drawn) == ""
    assert "temperature is 0" in inactive_reason("top_p", drawn.replace({"temperature": 0}))
    assert inactive_reason("top_k", greedy.replace({"penalty_alpha": 0.6})) == ""
    assert "num_beams above 1" in inactive_reason("length_penalty", drawn)
    assert inactive_reason("length_penalty", greedy.replace({"num_beams": 2})) == ""
    assert inactive_reason("repetition_penalty", greedy) == ""
    assert inactive_reason("num_assistant_tokens", greedy, assisted=True) == ""
    for name in PARAMETERS:
        assert isinstance(inactive_reason(name, greedy), str)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            {"greenlist_ratio": 0},
            "watermarking_config cannot be {'greenlist_ratio': 0}; greenlist_ratio must be above 0 and below 1",
        ),
        ({"greenlist_ratio": 1.0}, "above 0 and below 1"),
        ({"hashing_key": 2**63}, "; hashing_key must be a whole number between -9,223"),
        (
            {"keys": [1, 2**70], "ngram_len": 5},
            "; keys must be a list of up to 1,024 whole numbers of at most 64 bits",
        ),
        ({"keys": [1], "ngram_len": 10**9}, "ngram_len must be a whole number between 2 and 1,024"),
        ({"keys": [1], "ngram_len": 5, "sampling_table_seed": 2**64}, "sampling_table_seed"),
        ({"keys": [1], "ngram_len": 5, "context_history_size": 10**12}, "context_history_size"),
        ({"bias": "much"}, "; bias must be a finite number"),
    ],
)
def test_a_watermark_that_torch_cannot_make_names_the_value(value: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        GenerationParams().replace({"watermarking_config": value})


def test_beams_beside_penalty_alpha_say_that_it_has_no_effect() -> None:
    beside = GenerationParams().replace({"num_beams": 4, "penalty_alpha": 0.6, "top_k": 4})
    assert inactive_reason("penalty_alpha", beside) == "no effect in beam_search; contrastive search needs num_beams 1"
    alone = GenerationParams().replace({"penalty_alpha": 0.6, "top_k": 4})
    assert inactive_reason("penalty_alpha", alone) == inactive_reason("penalty_alpha", GenerationParams()) == ""
