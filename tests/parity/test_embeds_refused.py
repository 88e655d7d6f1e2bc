"""Which arrays can be the beginning of a run, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import core
from core.contract import ParameterError, PromptError
from core.decode import embeds as embeds_module
from core.models.loaded import LoadedModel
from tests.parity.reference import prompt_of
from tests.parity.test_results import api_model, embedded, go


@pytest.fixture
def llama(random_llama: LoadedModel) -> LoadedModel:
    return api_model(random_llama)


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_layout_are_taken(llama: LoadedModel) -> None:
    plain_one = embedded(llama, prompt_of(llama, 6)).numpy()
    reversed_one, fixed = np.ascontiguousarray(plain_one[:, ::-1])[:, ::-1], plain_one.copy()
    fixed.flags.writeable = False
    expected = go(llama, inputs_embeds=plain_one).sequences
    for given in (reversed_one, fixed, plain_one.astype(np.longdouble), plain_one.astype(">f4")):
        assert go(llama, inputs_embeds=given).sequences == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (np.full((1, 2, 1), None), "of floats, not one of the type ndarray object"),
        (torch.zeros(1, 2, 1, dtype=torch.long), "of floats, not one of the type Tensor torch.int64"),
        (torch.zeros(1, 2, 1).to_sparse(), "is a dense tensor"),
        (torch.zeros(1, 2, 1, device="meta"), "is a dense tensor"),
        ([[[0.0]]], "not one of the type list"),
        (np.full((1, 2, 48), np.nan), "values that are not finite in fp32"),
        (np.full((1, 2, 48), 1e300), "values that are not finite in fp32"),
    ],
    ids=["objects", "whole", "sparse", "meta", "list", "nan", "1e300"],
)
def test_embeddings_that_are_no_numbers_are_refused(given: object, sentence: str, llama: LoadedModel) -> None:
    if isinstance(given, np.ndarray) and given.shape[2] == 48:
        given = given[:, :, :1].repeat(llama.info.hidden_size, axis=2)
    with pytest.raises(PromptError, match=sentence):
        go(llama, inputs_embeds=given)


def test_too_many_embeddings_are_counted_before_rows_are_made(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeds_module.Embeds, "prompts", lambda self: pytest.fail("rows were made"))
    with pytest.raises(PromptError, match="would have 520 sequences at once"):
        go(
            llama, None, {"do_sample": True, "num_return_sequences": 40},
            inputs_embeds=torch.zeros(13, 1, llama.info.hidden_size),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ([[1, 1, 1]], "has to be 2 × 3"),
        ([[1, 1, 1], [1, 2, 1]], "has to be 2 × 3"),
        ("left", "has to be 2 × 3"),
        (torch.ones(2, 3).to_sparse(), "has to be 2 × 3"),
        ([[1, 1, 1], [0, 0, 0]], "leaves nothing of row 1"),
        ([[1, 1, 0], [1, 1, 1]], "after the first one of row 0; pad on the left"),
        ([[1, 1, 1], [1, 0, 1]], "after the first one of row 1; pad on the left"),
    ],
)
def test_a_mask_that_is_none_is_refused(mask: object, sentence: str, llama: LoadedModel) -> None:
    with pytest.raises(PromptError, match=sentence):
        go(llama, inputs_embeds=torch.zeros(2, 3, llama.info.hidden_size), attention_mask=mask)


def test_what_needs_the_tokens_of_a_prompt_is_refused(llama: LoadedModel) -> None:
    zeros = torch.zeros(1, 3, llama.info.hidden_size)
    with pytest.raises(PromptError, match="attention_mask goes with inputs_embeds alone"):
        go(llama, [1, 2], attention_mask=[[1, 1]])
    with pytest.raises(ParameterError, match="A draft model reads tokens"):
        go(llama, inputs_embeds=zeros, assistant_model=llama.info.spec.name)
    with pytest.raises(ParameterError, match="give a negative_prompt"):
        go(llama, None, {"guidance_scale": 1.5}, inputs_embeds=zeros)
    with pytest.raises(ParameterError, match="assisted_generation takes one prompt at a time, not 2"):
        go(llama, None, {"prompt_lookup_num_tokens": 3}, inputs_embeds=torch.zeros(2, 3, llama.info.hidden_size))
    with pytest.raises(PromptError, match="without an earlier run"):
        go(llama, inputs_embeds=zeros, past_key_values=go(llama, [1, 2]))
    soft = go(llama, [1, 2, 3], inputs_embeds=zeros)
    with pytest.raises(ParameterError, match="began with embeddings"):
        go(llama, None, past_key_values=soft)
    with pytest.raises(PromptError, match="began with embeddings has no branches"):
        core.branch(soft, 4, token_ids=[3])
    drafted = go(llama, [1, 2, 3], inputs_embeds=zeros, assistant_model=llama.info.spec.name)
    assert drafted.sequences == soft.sequences
