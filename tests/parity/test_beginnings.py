"""Several rows, and beams, begin with embeddings or with an earlier run's cache, as `generate()` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import core
from core.contract import ParameterError, PromptError
from core.models.loaded import LoadedModel
from tests.parity.reference import generate, pad_left, plain, prompt_of, unpadded
from tests.parity.test_results import FAMILIES, NEW, api_model, embedded, go, seeded

EOS = list(range(7, 40))
LENGTHS = (9, 4, 6)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
BEAMS: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.6}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"eos_token_id": EOS},
    "sampled": {"do_sample": True, "top_p": 0.9, "temperature": 1.2, "num_return_sequences": 2},
    "lengths": {"min_length": 13, "eos_token_id": EOS, "no_repeat_ngram_size": 2},
    "beams": {**BEAMS, "eos_token_id": EOS},
    "beam-sample": {"num_beams": 3, "do_sample": True, "temperature": 1.3, "eos_token_id": EOS},
    "never": {"num_beams": 4, "early_stopping": "never", "eos_token_id": EOS},
}


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return api_model(request.getfixturevalue(request.param))


@pytest.fixture
def llama(random_llama: LoadedModel) -> LoadedModel:
    return api_model(random_llama)


def prompts_of(loaded: LoadedModel, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    return [prompt_of(loaded, length, seed=n) for n, length in enumerate(lengths)]


def embeds_of(loaded: LoadedModel, lengths: Sequence[int] = LENGTHS, extra: int = 0) -> tuple[torch.Tensor, Any]:
    """(B, T, E) and the mask (B, T); what is in the padding must not matter. extra: slots of it before every row."""
    width = max(lengths) + extra
    rows = torch.full((len(lengths), width, loaded.info.hidden_size), 3.0)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for n, (ids, length) in enumerate(zip(prompts_of(loaded, lengths), lengths, strict=True)):
        rows[n, width - length :] = embedded(loaded, ids)[0]
        mask[n, width - length :] = 1
    return rows, mask


def ended(sequences: torch.Tensor, eos: Sequence[int]) -> list[list[int]]:
    """Continuations up to their first EOS."""
    return unpadded([[]] * len(sequences), sequences, eos)


@pytest.mark.filterwarnings("ignore:Passing `:UserWarning")  # what generate() says about penalties here
@pytest.mark.parametrize("params", MODES.values(), ids=MODES)
def test_rows_of_embeddings_give_the_tokens_and_scores_of_generate(params: dict[str, Any], loaded: LoadedModel) -> None:
    embeds, mask = embeds_of(loaded)
    with seeded(loaded, 3) as model:
        theirs = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            return_dict_in_generate=True,
            output_scores=True,
            **{"max_new_tokens": NEW, "pad_token_id": 0, "do_sample": False, "top_k": 0, **params},
        )
    ours = go(loaded, None, params, inputs_embeds=embeds, attention_mask=mask, seed=3, draw_source="torch")
    expected = ended(theirs.sequences, params.get("eos_token_id", ()))
    assert ours.sequences == expected
    plan = ours.started.plan.inputs
    assert (plan.kind, plan.padding[:: plan.copies]) == ("embeddings", (0, 5, 3))
    if params.get("num_beams", 1) > 1:
        assert ours.sequences_scores == pytest.approx(theirs.sequences_scores.tolist(), rel=1e-5, abs=1e-4)
        return
    for row, ids in enumerate(expected):
        scores = torch.stack([step[row] for step in theirs.scores])[: len(ids)].numpy()
        assert np.allclose(ours.scores(row=row), scores, **CLOSE)


@pytest.mark.filterwarnings("ignore:Passing `:UserWarning")
@pytest.mark.parametrize("beams", [1, 3])
def test_each_row_of_embeddings_is_penalised_as_generate_does_it_alone(beams: int, loaded: LoadedModel) -> None:
    """In a batch `generate()` counts as many generated tokens as a row has padding for its padding."""
    params = {"repetition_penalty": 1.6, "num_beams": beams, "top_k": 0}
    embeds, mask = embeds_of(loaded)
    ours = go(loaded, None, params, inputs_embeds=embeds, attention_mask=mask)
    for row, padding in enumerate((0, 5, 3)):
        with plain(loaded) as model:
            theirs = model.generate(
                inputs_embeds=embeds[row : row + 1, padding:], max_new_tokens=NEW, pad_token_id=0, **params
            )
        assert ours.sequences[row] == theirs[0].tolist()


def test_one_prompt_of_embeddings_and_beams_in_chunks(loaded: LoadedModel) -> None:
    embeds = embedded(loaded, prompt_of(loaded, 9))
    with plain(loaded) as model:
        theirs = model.generate(
            inputs_embeds=embeds, max_new_tokens=NEW, pad_token_id=0, return_dict_in_generate=True, output_scores=True,
            **BEAMS,
        )  # fmt: skip
    ours = go(loaded, None, BEAMS, inputs_embeds=embeds.numpy(), prefill_chunk=4)
    assert ours.sequences == theirs.sequences.tolist()
    assert ours.sequences_scores == pytest.approx(theirs.sequences_scores.tolist(), rel=1e-5, abs=1e-4)


OTHERS: dict[str, dict[str, Any]] = {
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "num_return_sequences": 2},
    "constrained": {"num_beams": 3, "force_words_ids": [[5, 6], [[8], [9, 10]]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "dola": {"dola_layers": "high"},
    "guided": {"guidance_scale": 1.7},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "early-exit": {"assistant_early_exit": 1},
}


@pytest.mark.parametrize("params", OTHERS.values(), ids=OTHERS)
def test_embeddings_of_tokens_are_those_tokens_in_every_mode(params: dict[str, Any], loaded: LoadedModel) -> None:
    """`generate()` has these modes no more, or only for a row, so the run on the tokens themselves is the oracle."""
    alone = {"prompt_lookup_num_tokens", "assistant_early_exit"} & set(params)
    rows = prompts_of(loaded, LENGTHS[:1] if alone else LENGTHS)
    ids, mask = pad_left(loaded, rows)
    with torch.inference_mode():
        embeds = loaded.module.get_input_embeddings()(ids)
    more: dict[str, Any] = {"negative_prompt": [3, 4, 5]} if "guidance_scale" in params else {}
    ours = go(loaded, None, params, inputs_embeds=embeds, attention_mask=mask, **more)
    tokens = go(loaded, rows, params, **more)
    copies = params.get("num_return_sequences", 1)
    assert ours.sequences == [ids[len(rows[n // copies]) :] for n, ids in enumerate(tokens.sequences)]
    if tokens.sequences_scores is not None:
        assert ours.sequences_scores == pytest.approx(tokens.sequences_scores, abs=1e-4)
    for row in {0, len(ours.sequences) - 1}:
        assert np.allclose(ours.hidden_states(row=row), tokens.hidden_states(row=row), **CLOSE)
        assert np.allclose(ours.attention(1, row=row), tokens.attention(1, row=row), atol=1e-4)
        assert np.allclose(ours.logits(row=row), tokens.logits(row=row), **CLOSE)


def test_a_walk_over_embeddings_is_that_over_their_tokens_without_looking_them_up(loaded: LoadedModel) -> None:
    rows = prompts_of(loaded)
    ids, mask = pad_left(loaded, rows)
    with torch.inference_mode():
        embeds = loaded.module.get_input_embeddings()(ids)
    ours, tokens = go(loaded, inputs_embeds=embeds, attention_mask=mask), go(loaded, rows)
    for span, missing in (((0, 3), 1), ((6, 9), 0)):  # within the prompt of the second row, and after it
        walked = {node.key: node for node in ours.walk(span, row=1).nodes}
        expected = {node.key: node for node in tokens.walk(span, row=1).nodes}
        assert len(set(expected) - set(walked)) == missing
        assert not set(walked) - set(expected)
        for key, node in walked.items():
            assert [one.shape for one in node.made] == [one.shape for one in expected[key].made]
            if key.endswith(":scores"):  # before the mask, so of what is in the padding, too
                continue
            means = [[one.mean for one in n.made] for n in (node, expected[key])]
            assert np.allclose(*(np.array(m, dtype=float) for m in means), atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("beams", [1, 3])
def test_own_criteria_see_what_follows_the_embeddings(beams: int, loaded: LoadedModel) -> None:
    embeds, mask = embeds_of(loaded)
    seen: list[list[int]] = []

    def never(ids: torch.Tensor, scores: object) -> bool:
        seen.append(ids[0].tolist())
        return False

    ours = go(
        loaded, None, {"num_beams": beams}, inputs_embeds=embeds, attention_mask=mask, stopping_criteria=[never]
    )  # fmt: skip
    assert all(ids in seen for ids in ours.sequences)
    assert {len(ids) for ids in seen} == set(range(1, NEW + 1))


@pytest.mark.parametrize("params", ["penalties", "sampled", "beams", "lengths"])
def test_embeddings_of_known_tokens_are_fed_and_the_tokens_are_seen(params: str, loaded: LoadedModel) -> None:
    """What `generate()` makes of `input_ids` and `inputs_embeds` together."""
    asked = {**MODES, "penalties": {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2}}[params]
    rows = prompts_of(loaded)
    ids, mask = pad_left(loaded, rows)
    embeds, _ = embeds_of(loaded)
    with seeded(loaded, 3) as model:
        theirs = model.generate(
            ids,
            inputs_embeds=embeds,
            attention_mask=mask,
            return_dict_in_generate=True,
            output_scores=True,
            **{"max_new_tokens": NEW, "pad_token_id": 0, "do_sample": False, "top_k": 0, **asked},
        )
    ours = go(loaded, rows, asked, inputs_embeds=embeds, attention_mask=mask, seed=3, draw_source="torch")
    copies = asked.get("num_return_sequences", 1)
    assert ours.sequences == unpadded(rows, theirs.sequences, asked.get("eos_token_id", ()), copies)
    assert ours.sequences != go(loaded, rows, asked, seed=3, draw_source="torch").sequences
    if ours.sequences_scores is not None:
        assert ours.sequences_scores == pytest.approx(theirs.sequences_scores.tolist(), rel=1e-5, abs=1e-4)
        return
    unseen = go(loaded, None, {}, inputs_embeds=embeds, attention_mask=mask)  # the same was fed
    assert np.allclose(ours.hidden_states(0, (0, 3), row=copies), unseen.hidden_states(0, (0, 3), row=1), **CLOSE)
    assert ours.started.plan.inputs.kind == "embeddings"
    assert ours.started.rows[0].token_ids == tuple(rows[0])


def test_padding_before_all_rows_counts_as_generate_counts_it(llama: LoadedModel) -> None:
    embeds, mask = embeds_of(llama, (4, 2), extra=3)
    for params in ({"max_length": 12}, {"min_length": 11, "eos_token_id": EOS}):
        with plain(llama) as model:
            more = {"max_new_tokens": NEW} if "min_length" in params else {}
            theirs = model.generate(inputs_embeds=embeds, attention_mask=mask, pad_token_id=0, **params, **more)
        ours = core.run(
            llama.info.spec.name, inputs_embeds=embeds, attention_mask=mask.bool(), device="cpu", dtype="fp32",
            params={"do_sample": False, "top_k": 0, "eos_token_id": (), **more, **params},
        )  # fmt: skip
        assert ours.sequences == ended(theirs, params.get("eos_token_id", ()))


def test_plan_and_stream_take_them_too(llama: LoadedModel) -> None:
    embeds, mask = embeds_of(llama)
    past = go(llama, prompts_of(llama))
    given: dict[str, Any] = {
        "params": {"do_sample": False, "top_k": 0, "max_new_tokens": NEW, "eos_token_id": ()},
        "device": "cpu",
        "dtype": "fp32",
    }
    for more in ({"inputs_embeds": embeds, "attention_mask": mask}, {"past_key_values": past}):
        ours = core.run(llama.info.spec.name, **given, **more)
        assert core.plan(llama.info.spec.name, **given, **more) == ours.started.plan
        steps = list(core.stream(llama.info.spec.name, **given, **more))
        assert [s.token_id for s in steps if s.id.row == 2] == ours.sequences[2][-NEW:]


# -- past_key_values


@pytest.mark.parametrize(
    "params",
    [{}, MODES["sampled"] | {"num_return_sequences": 1}, MODES["beams"], MODES["beam-sample"], {"guidance_scale": 1.4}],
    ids=["greedy", "sampled", "beams", "beam-sample", "guided"],
)
def test_the_rows_of_an_earlier_run_go_on(params: dict[str, Any], loaded: LoadedModel) -> None:
    first = go(loaded, prompts_of(loaded))
    fed = max(first.positions(row) for row in range(3))
    longer = [[*ids, *range(3, 3 + n)] for n, ids in enumerate(first.sequences)]  # unequal, so that rows move
    for prompts, reused in ((None, fed), (longer, fed - 2)):
        ours = go(loaded, prompts, params, past_key_values=first, seed=5, draw_source="torch")
        assert ours.started.reused_positions == reused
        rows = prompts or first.sequences
        copies = params.get("num_return_sequences", 1)
        theirs = generate(
            loaded, rows, seed=5, **({"top_k": 0, "max_new_tokens": NEW} | params),
        )  # fmt: skip
        assert ours.sequences == unpadded(rows, theirs.sequences, params.get("eos_token_id", ()), copies)
        if ours.sequences_scores is not None:
            assert ours.sequences_scores == pytest.approx(theirs.sequences_scores.tolist(), rel=1e-5, abs=1e-4)
            continue
        for row in range(3):
            scores = torch.stack([step[row] for step in theirs.scores]).numpy()
            assert np.allclose(ours.scores(row=row), scores, **CLOSE)


def test_views_of_continued_rows_are_those_of_a_fresh_run(loaded: LoadedModel) -> None:
    first = go(loaded, prompts_of(loaded))
    for params in ({}, BEAMS):
        ours, fresh = go(loaded, None, params, past_key_values=first), go(loaded, first.sequences, params)
        assert ours.sequences == fresh.sequences
        for row in (0, len(ours.sequences) - 1):
            assert np.allclose(ours.hidden_states(row=row), fresh.hidden_states(row=row), **CLOSE)
            assert np.allclose(ours.attention(1, row=row), fresh.attention(1, row=row), atol=1e-4)
            assert np.allclose(ours.scores(row=row), fresh.scores(row=row), **CLOSE)
            ours_keys, keys = (r.past_key_values(row).layers[1].keys for r in (ours, fresh))
            assert torch.allclose(ours_keys, keys, **CLOSE)


@pytest.mark.parametrize("family", ["random_imagegpt", "random_qwen2_sliding"])
def test_rows_of_pictures_and_of_models_with_a_window_go_on(family: str, request: pytest.FixtureRequest) -> None:
    loaded = api_model(request.getfixturevalue(family))
    first = go(loaded, prompts_of(loaded))
    for params in ({}, BEAMS):
        ours, fresh = go(loaded, None, params, past_key_values=first), go(loaded, first.sequences, params)
        assert ours.started.reused_positions == 9 + NEW - 1
        assert ours.sequences == fresh.sequences
        assert np.allclose(ours.attention(0, row=1), fresh.attention(0, row=1), atol=1e-4)


def test_rows_and_beams_go_on_with_the_only_one_there_is(loaded: LoadedModel) -> None:
    first = go(loaded, prompt_of(loaded, 8))
    ids, fed = first.sequences[0], first.positions()
    for prompt, params in (
        (None, MODES["beams"]),
        (None, MODES["sampled"]),
        ([[*ids, 4, 5, 6], [*ids, 7]], {}),
    ):
        ours = go(loaded, prompt, params, past_key_values=first, seed=2)
        assert ours.started.reused_positions == fed
        assert ours.sequences == go(loaded, prompt or ids, params, seed=2).sequences


def test_what_the_earlier_run_holds_no_more_is_fed_again(loaded: LoadedModel) -> None:
    rows = prompts_of(loaded)
    said = go(loaded, rows).sequences
    short = {"eos_token_id": [said[1][5]]}  # ends the second row after two tokens
    first = go(loaded, rows, short)
    assert len(first.sequences[1]) < len(said[1])
    ours = go(loaded, None, past_key_values=first)
    assert ours.started.reused_positions == ours.started.plan.inputs.padding[1] > 0
    assert ours.sequences == go(loaded, first.sequences).sequences
    for prompts in (rows, rows[0]):  # the candidates that were tried are gone, those that were chosen are not
        contrastive = go(loaded, prompts, OTHERS["contrastive"])
        ours = go(loaded, None, past_key_values=contrastive)
        assert ours.started.reused_positions == 9 + NEW - 1
        assert ours.sequences == go(loaded, contrastive.sequences).sequences
        assert np.allclose(ours.logits(), go(loaded, contrastive.sequences).logits(), **CLOSE)
    beams = go(loaded, rows[0], BEAMS)  # nothing of what it returned is sure to be in the cache
    ours = go(loaded, None, past_key_values=beams)
    assert ours.started.reused_positions == 0
    assert ours.sequences == go(loaded, beams.sequences).sequences


@pytest.mark.parametrize(
    ("params", "copies"),
    [({}, 1), (MODES["beams"], 1), (MODES["beams"], 3), (MODES["sampled"], 1), (MODES["sampled"], 2)],
    ids=["greedy", "beams", "a-row-a-beam", "sampled", "a-row-a-sequence"],
)
def test_a_cache_of_transformers_has_several_rows(params: dict[str, Any], copies: int, loaded: LoadedModel) -> None:
    """`generate()` wants a row of the cache for each beam and returned sequence; one for each prompt will do here."""
    rows = prompts_of(loaded)
    ids, mask = pad_left(loaded, rows)

    def cache(count: int) -> DynamicCache:
        with plain(loaded) as model:
            made = DynamicCache(config=model.config)
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            model(ids[:, :7], attention_mask=mask[:, :7], position_ids=places[:, :7], past_key_values=made)
        made.batch_repeat_interleave(count)
        return made

    ours = go(loaded, rows, params, past_key_values=cache(copies), seed=5, draw_source="torch")
    assert ours.started.reused_positions == 7
    wanted = max(params.get("num_beams", 1), params.get("num_return_sequences", 1))
    theirs = generate(
        loaded, rows, seed=5, past_key_values=cache(wanted), **({"top_k": 0, "max_new_tokens": NEW} | params)
    )
    eos, returned = params.get("eos_token_id", ()), params.get("num_return_sequences", 1)
    assert ours.sequences == unpadded(rows, theirs.sequences, eos, returned)
    if ours.sequences_scores is not None:
        assert ours.sequences_scores == pytest.approx(theirs.sequences_scores.tolist(), rel=1e-5, abs=1e-4)


def test_embeddings_begin_with_a_cache_of_transformers(loaded: LoadedModel) -> None:
    embeds, mask = embeds_of(loaded)
    with plain(loaded) as model:
        made, again = (DynamicCache(config=model.config) for _ in range(2))
        for cache in (made, again):
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            model(
                inputs_embeds=embeds[:, :5],
                attention_mask=mask[:, :5],
                position_ids=places[:, :5],
                past_key_values=cache,
            )
        theirs = model.generate(
            inputs_embeds=embeds, attention_mask=mask, past_key_values=again, max_new_tokens=NEW, pad_token_id=0
        )
    ours = go(loaded, inputs_embeds=embeds, attention_mask=mask, past_key_values=made)
    assert ours.started.reused_positions == 5
    assert ours.sequences == theirs.tolist()


@pytest.mark.parametrize("cache", ["dynamic", "static", "int8"])
def test_other_kinds_of_cache_go_on(cache: str, llama: LoadedModel) -> None:
    first = go(llama, prompts_of(llama), cache=cache)
    ours = go(llama, None, past_key_values=first, cache=cache)
    assert ours.started.reused_positions == 9 + NEW - 1
    if cache != "int8":
        assert ours.sequences == go(llama, first.sequences, cache=cache).sequences


@pytest.mark.parametrize(
    ("kind", "prompts", "params", "sentence"),
    [
        ("rows", [[1, 2, 3], [4, 5]], {}, "holds 3 rows, but this run has 2 rows"),
        ("rows", [[1, 2], [3]], {"do_sample": True, "num_return_sequences": 2}, "2 prompts in 4 rows"),
        ("rows", None, {"penalty_alpha": 0.6, "top_k": 4}, "Contrastive search compares with the hidden states"),
        ("rows", [[1, 2, 3], [4, 5], [6, 7]], {}, "prompt of row 0 differs from the earlier run at position 0"),
        ("muted", None, {}, "under interventions, which are known of one row alone"),
        ("window", None, {}, "does not hold all of its positions, so several rows cannot go on"),
        ("off", None, {}, "With its cache kept as off the earlier run does not hold all of its positions"),
        ("cache of 1", [[1, 2, 3], [4, 5]], {}, "holds 1 row, but this run has 2 prompts"),
        ("cache of 3", [[1, 2, 3], [4, 5]], {}, "holds 3 rows, but this run has 2 rows"),
        ("cache of 3", [1, 2, 3], {"num_beams": 2}, "holds 3 rows, but this run has 1 row"),
        ("slid", [1, 2, 3, 4, 5], {}, "a sliding window dropped some"),
    ],
)
def test_a_past_of_other_rows_is_refused_in_a_sentence(
    kind: str, prompts: Any, params: dict[str, Any], sentence: str, llama: LoadedModel
) -> None:
    kept = {"window": "sliding_window,window=4", "off": "off"}.get(kind)
    more: dict[str, Any] = {} if kept is None else {"cache": kept}
    past: Any
    if kind.startswith("cache"):
        shape = (int(kind[-1]), llama.info.kv_heads, 2, llama.info.head_dim)
        past = DynamicCache([(torch.zeros(shape), torch.zeros(shape))] * llama.info.layers)
    elif kind == "slid":
        shape = (1, llama.info.kv_heads, 5, llama.info.head_dim)
        past = DynamicCache([(torch.zeros(shape), torch.zeros(shape), torch.tensor(3))] * llama.info.layers)
    else:
        acts = ["skip 0.mlp"] if kind == "muted" else []
        past = go(llama, prompts_of(llama), interventions=acts, **more)
    with pytest.raises((ParameterError, PromptError), match=sentence):
        go(llama, prompts, params, past_key_values=past, **more)


def test_interventions_act_on_continued_rows_from_there_on(llama: LoadedModel) -> None:
    rows, acts = prompts_of(llama), ["skip 0.mlp", "heads 1.0"]
    muted = ["mute 1"]  # of the first row
    ours = go(llama, None, past_key_values=go(llama, rows), interventions=acts + muted)
    for row, ids in enumerate(rows):
        alone = go(llama, None, past_key_values=go(llama, ids), interventions=acts + (muted if row == 0 else []))
        assert ours.sequences[row] == alone.sequences[0]
        assert np.allclose(ours.hidden_states(row=row), alone.hidden_states(), **CLOSE)
        assert np.allclose(ours.attention(1, row=row), alone.attention(1), atol=1e-4)
    assert ours.sequences != go(llama, None, past_key_values=go(llama, rows)).sequences


def test_a_branch_of_a_continued_row_is_that_of_a_fresh_run(llama: LoadedModel) -> None:
    first = go(llama, prompts_of(llama))
    ours, fresh = go(llama, None, past_key_values=first), go(llama, first.sequences)
    for row in (0, 1):
        position = len(first.sequences[row]) + 3
        branches = [core.branch(result, position, token_ids=[9], row=row) for result in (ours, fresh)]
        assert branches[0].sequences == branches[1].sequences
        assert np.allclose(branches[0].hidden_states(), branches[1].hidden_states(), **CLOSE)
    inside = [core.branch(result, 5, token_ids=[9], row=2) for result in (ours, fresh)]
    assert inside[0].sequences == inside[1].sequences
    assert np.allclose(inside[0].attention(0), inside[1].attention(0), atol=1e-4)
