"""Length conflicts, judged by what transformers' own `generate()` prepares."""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import GenerationConfig

from core.contract import GenerationParams, ParameterError
from core.decode.lengths import Lengths, settle_lengths
from core.models.loaded import LoadedModel

PROMPT = 7
VALUES = {
    "max_new_tokens": (None, 3, 30),
    "max_length": (None, 5, 7, 12, 40),
    "min_new_tokens": (None, 4, 50),
    "min_length": (None, 9, 60),
}
CASES = [
    {name: value for name, value in zip(VALUES, case, strict=True) if value is not None}
    for case in itertools.product(*VALUES.values())
]


@contextmanager
def heard() -> Iterator[list[str]]:
    """What transformers warns about, through either of its ways."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.generation.utils")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
        said += [str(w.message) for w in caught]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def theirs(loaded: LoadedModel, given: dict[str, int]) -> tuple[GenerationConfig, list[str]]:
    """The generation config after step 6 of `generate()`. Raises what it raises."""
    model = loaded.module
    own = copy.deepcopy(model.generation_config)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    try:
        with heard() as said:
            config, _ = model._prepare_generation_config(None, **given)
            default = "max_length" not in given
            config = model._prepare_generated_length(
                config, default, "min_length" not in given, "input_ids", PROMPT, torch.zeros(1, PROMPT)
            )
            model._validate_generated_length(config, PROMPT, default)
        return config, said
    finally:
        model.generation_config = own


def ours(given: dict[str, int]) -> Lengths:
    return settle_lengths(GenerationParams().replace(given), frozenset(given), PROMPT)


@pytest.mark.parametrize("given", CASES, ids=str)
def test_every_conflict_is_resolved_as_generate_does(given: dict[str, int], random_gpt2: LoadedModel) -> None:
    if not {"max_new_tokens", "max_length"} & set(given):
        given = {**given, "max_new_tokens": 20}  # the only default that differs, see below
    try:
        config, said = theirs(random_gpt2, given)
    except ValueError:
        with pytest.raises(ParameterError, match=r"max_length is \d+, but the prompt already has 7 tokens"):
            ours(given)
        return
    settled = ours(given)
    params = settled.params
    assert params.max_new_tokens == config.max_length - PROMPT
    assert params.max_length in (None, config.max_length)
    assert max(params.min_length, params.min_new_tokens + PROMPT if params.min_new_tokens else 0) == config.min_length
    # The same complaints, in other words: about two lengths at once, and about what cannot be reached.
    for name in ("max_new_tokens", "min_new_tokens"):
        both = any(f"Both `{name}`" in sentence for sentence in said)
        assert both == any(sentence.startswith(f"Both {name}") for sentence in settled.warnings)
    unreachable = any("Unfeasible" in sentence for sentence in said)
    assert unreachable == any("the run ends there" in sentence for sentence in settled.warnings)
    assert all(sentence.endswith(".") and "`" not in sentence for sentence in settled.warnings)


def test_the_one_default_that_differs_says_so(random_gpt2: LoadedModel) -> None:
    config, _ = theirs(random_gpt2, {})
    settled = ours({})
    assert config.max_length == 20 + PROMPT
    assert (settled.governed_by, settled.params.max_new_tokens) == ("default", 256)


def test_what_the_model_sets_counts_as_chosen() -> None:
    params = GenerationParams(max_new_tokens=200, max_length=12)
    assert settle_lengths(params, frozenset({"max_new_tokens"}), PROMPT).params.max_new_tokens == 200
    assert settle_lengths(params, frozenset({"max_length"}), PROMPT).params.max_new_tokens == 5
