"""A result has what `generate(return_dict_in_generate=True)` returns; a run begins with a cache or with embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import core
from core import api
from core.contract import ParameterError, PromptError, TokenglassError, ViewUnavailableError
from core.decode.embeds import EMBEDDING
from core.models.loaded import LoadedModel
from tests.parity.reference import plain, prompt_of, twin

FAMILIES = ("random_gpt2", "random_llama", "random_qwen2")
GREEDY: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.3}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2}
NEW = 7
CLOSE = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return api_model(request.getfixturevalue(request.param))


@pytest.fixture
def gpt2(random_gpt2: LoadedModel) -> LoadedModel:
    return api_model(random_gpt2)


def api_model(loaded: LoadedModel) -> LoadedModel:
    """The same model as `core.run` knows it."""
    return api.load_model(loaded.info.spec.name, "cpu", "fp32")


def go(loaded: LoadedModel, prompt: object = None, params: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    chosen = {"do_sample": False, "top_k": 0, "max_new_tokens": NEW, "eos_token_id": (), **(params or {})}
    name = loaded.info.spec.name
    return core.run(name, prompt_ids=prompt, params=chosen, device="cpu", dtype="fp32", **kwargs)


@contextmanager
def seeded(loaded: LoadedModel, seed: int) -> Iterator[Any]:
    with plain(twin(loaded), "eager") as model, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield model


def everything(loaded: LoadedModel, ids: Sequence[int], params: dict[str, Any]) -> Any:
    """All that `generate()` can return."""
    with seeded(loaded, 3) as model:
        return model.generate(
            torch.tensor([list(ids)]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            output_attentions=True,
            output_hidden_states=True,
            **({"top_k": 0} | params),
        )


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_it_equals_what_generate_returns_in_this_order(params: dict[str, Any], loaded: LoadedModel) -> None:
    prompt = prompt_of(loaded, 9)
    theirs = everything(loaded, prompt, params)
    ours = go(loaded, prompt, params, seed=3, draw_source="torch", prefill_chunk=4)
    assert ours.sequences == theirs.sequences.tolist()
    assert np.allclose(ours.logits(), torch.cat(theirs.logits).numpy(), **CLOSE)
    scores, expected = ours.scores(), torch.cat(theirs.scores).numpy()
    assert np.array_equal(np.isneginf(scores), np.isneginf(expected))
    assert np.allclose(scores, expected, **CLOSE)
    states = [np.concatenate([s[n][0] for s in theirs.hidden_states]) for n in range(loaded.info.layers + 1)]
    assert ours.hidden_states().shape == (loaded.info.layers + 1, 9 + NEW - 1, loaded.info.hidden_size)
    assert np.allclose(ours.hidden_states(), np.stack(states), **CLOSE)
    for layer in range(loaded.info.layers):
        weights = ours.attention(layer)  # (H, T, T)
        assert np.allclose(weights[:, :9, :9], theirs.attentions[0][layer][0], atol=1e-4)
        for step, parts in enumerate(theirs.attentions[1:]):
            row = parts[layer][0, :, 0]  # (H, 10 + step)
            assert np.allclose(weights[:, 9 + step, : row.shape[1]], row, atol=1e-4)
    cache = ours.past_key_values()
    assert isinstance(cache, DynamicCache)
    for layer, expected_layer in zip(cache.layers, theirs.past_key_values.layers, strict=True):
        assert torch.allclose(layer.keys, expected_layer.keys, **CLOSE)
        assert torch.allclose(layer.values, expected_layer.values, **CLOSE)


def test_it_equals_a_plain_forward_pass(loaded: LoadedModel) -> None:
    result = go(loaded, prompt_of(loaded, 6))
    with plain(twin(loaded)) as model:
        output = model(torch.tensor([result.sequences[0][:-1]]), output_hidden_states=True)
    assert np.allclose(result.hidden_states(), torch.stack(output.hidden_states)[:, 0].numpy(), **CLOSE)
    assert np.allclose(result.logits(), output.logits[0, 5:].numpy(), **CLOSE)
    assert np.array_equal(result.scores(), result.logits())  # greedy search changes nothing


def test_ranges_are_parts_of_the_whole(gpt2: LoadedModel) -> None:
    result = go(gpt2, prompt_of(gpt2, 6), SAMPLED)
    logits, scores, states = result.logits(), result.scores(), result.hidden_states()
    assert np.allclose(result.logits(range(1, 6, 2)), logits[1:6:2], atol=1e-5)
    assert np.allclose(result.scores(-1), scores[-1:], atol=1e-5)
    assert np.array_equal(result.hidden_states(2, (3, 5)), states[2, 3:5])
    whole, part = result.past_key_values(), result.past_key_values(positions=(2, 5))
    assert part.get_seq_length() == 3
    assert torch.equal(part.layers[1].values, whole.layers[1].values[:, :, 2:5])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.logits(NEW),
        lambda r: r.logits([]),
        lambda r: r.scores(range(3, NEW + 1)),
        lambda r: r.scores(row=1),
        lambda r: r.hidden_states(99),
        lambda r: r.hidden_states(positions=(0, 99)),
        lambda r: r.past_key_values(row=-1),
    ],
)
def test_what_does_not_exist_is_told(wrong: Any, gpt2: LoadedModel) -> None:
    result = go(gpt2, prompt_of(gpt2, 6))
    with pytest.raises(ViewUnavailableError, match=r"[0-9]"):
        wrong(result)


def test_without_a_trace_or_after_close_it_says_so(gpt2: LoadedModel) -> None:
    result = go(gpt2, prompt_of(gpt2, 6), trace=False)
    assert result.past_key_values().get_seq_length() == 6 + NEW - 1
    with pytest.raises(ViewUnavailableError, match="not recorded"):
        result.scores()
    result.close()
    with pytest.raises(ViewUnavailableError, match="closed"):
        result.past_key_values()


def test_a_stage_with_a_memory_has_no_past_scores(gpt2: LoadedModel) -> None:
    result = go(gpt2, prompt_of(gpt2, 6), logits_processor=[lambda ids, scores: scores])
    assert result.logits().shape == (NEW, gpt2.info.vocab_size)
    with pytest.raises(ViewUnavailableError, match="may depend on more"):
        result.scores()


def test_rows_of_a_batch_also_those_that_left_equal_rows_run_alone(loaded: LoadedModel) -> None:
    prompts = [prompt_of(loaded, 4), prompt_of(loaded, 9), prompt_of(loaded, 6)]
    ends = go(loaded, prompts).sequences[1][9 + 2]  # a token that some row says early
    batch = go(loaded, prompts, {"eos_token_id": (ends,)})
    lengths = [len(ids) for ids in batch.sequences]
    assert lengths[1] < 9 + NEW
    for row, prompt in enumerate(prompts):
        alone = go(loaded, prompt, {"eos_token_id": (ends,)})
        assert alone.sequences[0] == batch.sequences[row]
        assert np.allclose(batch.logits(row=row), alone.logits(), **CLOSE)
        assert np.allclose(batch.scores(row=row), alone.scores(), **CLOSE)
        assert np.allclose(batch.hidden_states(row=row), alone.hidden_states(), **CLOSE)
        ours, theirs = batch.past_key_values(row), alone.past_key_values()
        assert ours.get_seq_length() == theirs.get_seq_length() == lengths[row] - 1
        for a, b in zip(ours.layers, theirs.layers, strict=True):
            assert torch.allclose(a.keys, b.keys, **CLOSE)
            assert torch.allclose(a.values, b.values, **CLOSE)


@pytest.mark.parametrize(
    "params", [{"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "high"}, {"prompt_lookup_num_tokens": 3}]
)
def test_other_modes_return_the_same_things(params: dict[str, Any], gpt2: LoadedModel) -> None:
    result = go(gpt2, prompt_of(gpt2, 6), params)
    with plain(gpt2) as model:
        logits = model(torch.tensor([result.sequences[0][:-1]])).logits[0, 5:]
    assert np.allclose(result.logits(), logits.numpy(), **CLOSE)
    assert result.past_key_values().get_seq_length() == result.positions()
    if "dola_layers" in params:
        assert np.array_equal(result.scores().argmax(-1), result.sequences[0][6:])


def test_scores_along_a_beam_add_up_to_its_score(loaded: LoadedModel) -> None:
    params = {"num_beams": 4, "num_return_sequences": 3, "repetition_penalty": 1.2, "length_penalty": 0.7}
    ends = go(loaded, prompt_of(loaded, 6)).sequences[0][6 + 2]
    result = go(loaded, prompt_of(loaded, 6), {**params, "eos_token_id": (ends,)})
    for row, (ids, score) in enumerate(zip(result.sequences, result.sequences_scores, strict=True)):
        steps = result.scores(row=row)
        assert np.isclose(sum(steps[i, token] for i, token in enumerate(ids[6:])) / len(steps) ** 0.7, score, atol=1e-3)
        with plain(twin(loaded)) as model:
            output = model(torch.tensor([ids[:-1]]), output_hidden_states=True)
        assert np.allclose(result.hidden_states(row=row), torch.stack(output.hidden_states)[:, 0].numpy(), **CLOSE)
        assert torch.allclose(
            result.past_key_values(row).layers[1].values, output.past_key_values.layers[1].values, **CLOSE
        )


# -- past_key_values


def test_a_run_continues_an_earlier_one(loaded: LoadedModel) -> None:
    first = go(loaded, prompt_of(loaded, 8))
    fed = first.positions()
    for prompt in (None, [*first.sequences[0], 5, 6, 7]):
        ours = go(loaded, prompt, past_key_values=first)
        fresh = go(loaded, prompt or first.sequences[0])
        assert ours.started.reused_positions == fed
        assert ours.sequences == fresh.sequences
        assert np.allclose(ours.logits(), fresh.logits(), **CLOSE)
        assert np.allclose(ours.attention(1), fresh.attention(1), atol=1e-4)
    part = go(loaded, first.sequences[0][:5], past_key_values=first)  # less than the cache holds
    assert part.started.reused_positions == 4
    assert part.sequences == go(loaded, first.sequences[0][:5]).sequences


def test_a_run_begins_with_a_cache_of_transformers(loaded: LoadedModel) -> None:
    ids = prompt_of(loaded, 9)
    with plain(loaded) as model:
        cache = model(torch.tensor([ids[:6]]), past_key_values=DynamicCache(config=model.config)).past_key_values
    ours, fresh = go(loaded, ids, past_key_values=cache), go(loaded, ids)
    assert ours.started.reused_positions == 6
    assert cache.get_seq_length() == 6  # it was copied
    assert ours.sequences == fresh.sequences
    # What was not recorded is fed again where a view needs it.
    assert np.allclose(ours.hidden_states(), fresh.hidden_states(), **CLOSE)
    assert np.allclose(ours.attention(0), fresh.attention(0), atol=1e-4)
    assert np.allclose(ours.logits(), fresh.logits(), **CLOSE)
    with pytest.raises(ViewUnavailableError, match="recompute") as caught:
        ours.distribution(2)
    assert caught.value.can_recompute


def test_the_cache_of_a_run_serves_generate_and_a_run_of_one_row(loaded: LoadedModel) -> None:
    batch = go(loaded, [prompt_of(loaded, 4), prompt_of(loaded, 9)])
    ids = batch.sequences[0]
    again = go(loaded, ids, past_key_values=batch.past_key_values(0))
    assert again.started.reused_positions == len(ids) - 1
    assert again.sequences == go(loaded, ids).sequences
    with plain(loaded) as model:
        theirs = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            past_key_values=batch.past_key_values(0),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
    assert again.sequences == theirs.tolist()


def test_drafts_and_guidance_continue_an_earlier_run(gpt2: LoadedModel) -> None:
    first = go(gpt2, prompt_of(gpt2, 8))
    for params in ({"prompt_lookup_num_tokens": 3}, {"guidance_scale": 1.5}, {"dola_layers": "high"}):
        ours, fresh = go(gpt2, None, params, past_key_values=first), go(gpt2, first.sequences[0], params)
        assert ours.started.reused_positions == first.positions()
        assert ours.sequences == fresh.sequences


@pytest.mark.parametrize(
    ("prompt", "params", "past", "sentence"),
    [
        ([9, 9, 9], {}, "run", "differs from the earlier run at position 0"),
        (None, {"penalty_alpha": 0.6, "top_k": 4}, "run", "Contrastive search"),
        (None, {}, "closed", "was closed"),
        (None, {}, "embeds", "began with embeddings"),
        (None, {}, "llama", "fits no other model"),
        ([1, 2, 3], {}, "cache", "has only 3 tokens"),
        ([1, 2, 3], {}, "empty", "is empty"),
        ([1, 2, 3], {}, "narrow", "layers of"),
        ([1, 2, 3], {}, ((1, 2),), "not a tuple"),
    ],
)
def test_a_past_that_does_not_fit_is_refused_in_a_sentence(
    prompt: Any, params: dict[str, Any], past: Any, sentence: str, gpt2: LoadedModel, random_llama: LoadedModel
) -> None:
    given = past if isinstance(past, tuple) else make_past(past, gpt2, random_llama)
    with pytest.raises((ParameterError, PromptError), match=sentence):
        go(gpt2, prompt, params, past_key_values=given)


def make_past(kind: str, gpt2: LoadedModel, llama: LoadedModel) -> Any:
    if kind == "empty":
        return DynamicCache()
    if kind == "narrow":
        return DynamicCache([(torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))])
    if kind == "llama":
        return go(llama, prompt_of(llama, 4))
    if kind == "embeds":
        return go(gpt2, inputs_embeds=torch.zeros(1, 3, gpt2.info.hidden_size))
    first = prompt_of(gpt2, 5)
    result = go(gpt2, first)
    if kind == "closed":
        result.close()
    return result.past_key_values() if kind == "cache" else result


# -- inputs_embeds


def embedded(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Embeddings of tokens, moved a little, so that they are none."""
    with torch.inference_mode():
        embeds = loaded.module.get_input_embeddings()(torch.tensor([list(ids)]))
    return embeds + 0.1 * torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Passing `:UserWarning")  # what generate() says about penalties here
@pytest.mark.parametrize(
    "params",
    [
        {"do_sample": False},
        GREEDY,
        SAMPLED,
        {"do_sample": False, "no_repeat_ngram_size": 2, "min_length": 12, "eos_token_id": [7, 8, 9, 10]},
        {"do_sample": False, "forced_bos_token_id": 5, "begin_suppress_tokens": [1, 2], "forced_eos_token_id": 4},
    ],
    ids=["greedy", "penalty", "sampled", "lengths", "forced"],
)
def test_embeddings_give_the_tokens_of_generate(params: dict[str, Any], loaded: LoadedModel) -> None:
    embeds = embedded(loaded, prompt_of(loaded, 9))
    theirs_params = {"top_k": 0} | params
    if "min_length" in params:
        theirs_params |= {"max_length": 9 + NEW}
    else:
        theirs_params |= {"max_new_tokens": NEW}
    with seeded(loaded, 3) as model:
        theirs = model.generate(
            inputs_embeds=embeds, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **theirs_params
        )
    ours = go(loaded, None, params, inputs_embeds=embeds, seed=3, draw_source="torch", prefill_chunk=4)
    assert ours.sequences == theirs.sequences.tolist()
    assert np.allclose(ours.scores(), torch.cat(theirs.scores).numpy(), **CLOSE)
    assert ours.started.rows[0].pieces == (EMBEDDING,) * 9
    assert ours.started.plan.inputs.kind == "embeddings"


def test_embeddings_of_tokens_are_those_tokens(loaded: LoadedModel) -> None:
    ids = prompt_of(loaded, 9)
    with torch.inference_mode():
        embeds = loaded.module.get_input_embeddings()(torch.tensor([ids])).numpy()
    ours, tokens = go(loaded, inputs_embeds=embeds), go(loaded, ids)
    assert ours.sequences[0] == tokens.sequences[0][9:]
    assert ours.positions() == tokens.positions()
    assert np.allclose(ours.hidden_states(), tokens.hidden_states(), **CLOSE)
    assert np.allclose(ours.attention(1), tokens.attention(1), atol=1e-4)
    assert np.allclose(ours.distribution(3).logprob, tokens.distribution(3).logprob, atol=1e-3)


def test_dropped_records_of_embeddings_are_fed_again_as_embeddings(gpt2: LoadedModel) -> None:
    result = go(gpt2, inputs_embeds=embedded(gpt2, prompt_of(gpt2, 9)))
    states, run = result.hidden_states(), result.session
    cache, trace, strand = run.feed_again(run.rows[0].strand(), 3, result.positions())
    assert torch.allclose(trace.residuals(1, 3, 14, strand.path), torch.tensor(states[1, 3:14]), **CLOSE)
    assert cache.get_seq_length() == result.positions()


def test_several_continuations_of_embeddings(gpt2: LoadedModel) -> None:
    embeds = embedded(gpt2, prompt_of(gpt2, 5))
    result = go(gpt2, None, {**SAMPLED, "num_return_sequences": 3}, inputs_embeds=embeds)
    assert len({tuple(ids) for ids in result.sequences}) == 3
    assert result.past_key_values(2).get_seq_length() == 5 + NEW - 1


@pytest.mark.parametrize(
    ("shape", "kwargs", "sentence"),
    [
        ((3, 48), {}, "takes B × T × 48"),
        ((0, 3, 48), {}, "0 × 3 × 48"),
        ((1, 3, 47), {}, "1 × 3 × 47"),
        ((1, 0, 48), {}, "1 × 0 × 48"),
        ((1, 65, 48), {}, "only 64"),
        ((1, 3, 48), {"prompt": [1, 2]}, "Prompt 1 of 1 has 2 tokens, but inputs_embeds 3 positions"),
        ((1, 3, 48), {"prompt": [[1, 2, 3], [4]]}, "is for a batch of 1, but the prompts are one of 2"),
    ],
)
def test_embeddings_that_cannot_run_are_refused(
    shape: tuple[int, ...], kwargs: dict[str, Any], sentence: str, gpt2: LoadedModel
) -> None:
    with pytest.raises(TokenglassError, match=sentence):
        go(gpt2, inputs_embeds=torch.zeros(shape), **kwargs)


@pytest.mark.parametrize("value", [torch.full((1, 2, 48), torch.nan), np.zeros((1, 2, 48), int), "text"])
def test_values_that_are_no_embeddings_are_refused(value: Any, gpt2: LoadedModel) -> None:
    with pytest.raises(PromptError, match="inputs_embeds"):
        go(gpt2, inputs_embeds=value)


def test_a_model_of_pictures_takes_no_embeddings_and_returns_the_rest(random_imagegpt: LoadedModel) -> None:
    loaded = api_model(random_imagegpt)
    result = go(loaded, prompt_of(loaded, 5))
    assert result.logits().shape == (NEW, loaded.info.output_size)
    assert np.array_equal(result.scores().argmax(-1), result.sequences[0][5:])
    assert go(loaded, None, past_key_values=result).started.reused_positions == result.positions()
    with pytest.raises(ParameterError, match="give it an image"):
        go(loaded, inputs_embeds=torch.zeros(1, 3, loaded.info.hidden_size))
