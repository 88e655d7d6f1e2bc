"""Every processor and warper, alone and in random combinations, gives the distributions of `generate()`."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import WatermarkingConfig
from transformers.generation import SynthIDTextWatermarkingConfig

from core.contract import GenerationParams, ParameterError, as_generation_config
from core.decode import pipeline
from core.decode.pipeline import PipelineContext, build_pipeline, processors
from core.models.loaded import LoadedModel
from tests.parity.reference import LANGUAGE, Rows, generate, prompt_of, run, unpadded
from tests.parity.test_pipeline import assert_equal_distributions

EOS = [5, 9]
ASKED: dict[str, dict[str, Any]] = {
    "sequence_bias": {"sequence_bias": [[[7], 3.0], [[11, 4], -5.0], [[2, 3, 4], 9.0]]},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "repetition_penalty": {"repetition_penalty": 1.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[3], [8, 12], [5]]},
    "min_length": {"min_length": 12},
    "min_new_tokens": {"min_new_tokens": 4},
    "forced_bos_token_id": {"forced_bos_token_id": 6},
    "forced_eos_token_id": {"forced_eos_token_id": [9]},
    "remove_invalid_values": {"remove_invalid_values": True},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": [2, 1.4]},
    "suppress_tokens": {"suppress_tokens": [1, 2, 3]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [4, 5, 6, 7]},
    "watermark": {"watermarking_config": {"bias": 2.5, "greenlist_ratio": 0.3}},
    "watermark, selfhash": {"watermarking_config": {"seeding_scheme": "selfhash", "context_width": 3}},
    "synthid": {"watermarking_config": {"keys": [654, 400, 836], "ngram_len": 4, "context_history_size": 3}},
    "synthid, skipping": {"watermarking_config": {"keys": [7, 8], "ngram_len": 3, "skip_first_ngram_calls": True}},
    "renormalize_logits": {"renormalize_logits": True},
}
FILTERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.7},
    "top_h": {"top_h": 0.6},
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.02},
    "typical_p": {"typical_p": 0.7},
    "epsilon_cutoff": {"epsilon_cutoff": 0.004},
    "eta_cutoff": {"eta_cutoff": 0.01},
}
STEPS = 8


@pytest.fixture(params=LANGUAGE)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """Not ImageGPT: with a watermark `generate()` fails on a head that is narrower than the vocabulary."""
    return request.getfixturevalue(request.param)


def as_generate_takes_it(params: dict[str, Any]) -> dict[str, Any]:
    """Watermarks as the object that `generate()` wants; the rest as it is."""
    values = as_generation_config(GenerationParams().replace(params))
    mark = values.get("watermarking_config")
    if mark is not None:
        kind = SynthIDTextWatermarkingConfig if "keys" in mark else WatermarkingConfig
        values["watermarking_config"] = kind(**mark)
    return {"top_k": 50, **values} | ({} if "top_k" not in params else {"top_k": params["top_k"]})


def compare(loaded: LoadedModel, rows: Rows, params: dict[str, Any], *, seed: int = 1) -> None:
    """The same tokens and the same distributions, raw and final, of each step and row."""
    params = {"max_new_tokens": STEPS, "eos_token_id": EOS, "top_k": 0, **params}
    expected = generate(loaded, rows, seed=seed, **as_generate_takes_it(params))
    ours = run(loaded, rows, params, seed=seed, draw_source="torch", top_logprobs=loaded.info.output_size)
    assert ours.sequences == unpadded(rows, expected.sequences, EOS)
    for row in range(len(rows)):
        assert_equal_distributions(ours, expected, row)


def test_ngrams_longer_than_the_prompt_make_nothing(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes a list for each place of the n-gram, and a large number ends the process."""
    made: list[int] = []

    class Watched(processors.EncoderNoRepeatNGramLogitsProcessor):
        def __init__(self, size: int, prompt: torch.Tensor) -> None:
            made.append(size)
            super().__init__(min(size, 1000), prompt)

    monkeypatch.setattr(processors, "EncoderNoRepeatNGramLogitsProcessor", Watched)
    rows = [prompt_of(loaded, 6)]
    free = run(loaded, rows, {"max_new_tokens": STEPS})
    for size in (7, 8, 10**9, 2**63):
        ours = run(loaded, rows, {"max_new_tokens": STEPS, "encoder_no_repeat_ngram_size": size})
        assert ours.sequences == free.sequences
    assert max(made) <= 7


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", ASKED)
def test_each_processor_equals_that_of_generate(loaded: LoadedModel, name: str, sampled: bool) -> None:
    length = 1 if name == "forced_bos_token_id" else 10
    compare(loaded, [prompt_of(loaded, length)], {"do_sample": sampled, **ASKED[name]})


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_equals_that_of_generate(loaded: LoadedModel, name: str) -> None:
    compare(loaded, [prompt_of(loaded, 10)], {"do_sample": True, **FILTERS[name]})


@pytest.mark.parametrize("seed", range(12))
def test_random_combinations_equal_those_of_generate(loaded: LoadedModel, seed: int) -> None:
    chance = random.Random(seed)
    params: dict[str, Any] = {"do_sample": chance.random() < 0.7}
    for options in (ASKED, FILTERS) if params["do_sample"] else (ASKED,):
        for name in chance.sample(sorted(options), chance.randint(2, 5)):
            params |= options[name]
    compare(loaded, [prompt_of(loaded, 9, seed=seed)], params, seed=seed)


# Those that read the prompt: `generate()` counts a row's padding among its tokens, so rows are compared one by one.
READS_PADDING = ("sequence_bias", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
                 "bad_words_ids", "min_length", "repetition_penalty")  # fmt: skip


@pytest.mark.parametrize("name", [name for name in (*ASKED, *FILTERS) if name not in READS_PADDING])
def test_rows_of_unequal_prompts_equal_those_of_generate(tiny_gpt2: LoadedModel, name: str) -> None:
    rows = [prompt_of(tiny_gpt2, length, seed=3) for length in (9, 4, 6)]
    compare(tiny_gpt2, rows, {"do_sample": True, **(ASKED | FILTERS)[name]})


@pytest.mark.parametrize("seed", range(6))
def test_a_row_of_a_padded_batch_is_treated_as_alone(loaded: LoadedModel, seed: int) -> None:
    chance = random.Random(seed)
    params: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": EOS}
    for name in (READS_PADDING[seed], *chance.sample(sorted(ASKED), 3)):
        params |= ASKED[name]
    if "min_length" in params:
        params.pop("min_new_tokens", None)  # it would take precedence
    rows = [prompt_of(loaded, length, seed=2) for length in (11, 1, 5)]
    together = run(loaded, rows, params)
    for row, ids in enumerate(rows):
        expected = generate(loaded, [ids], **as_generate_takes_it(params))
        assert together.sequences[row] == unpadded([ids], expected.sequences, EOS)[0]


def test_beams_keep_as_many_tokens_as_there_are_ends_and_one() -> None:
    from core.decode.pipeline import PipelineContext, build_pipeline
    from core.decode.pipeline import Rows as PipelineRows

    params = GenerationParams(do_sample=True, num_beams=3, top_p=0.01, top_k=1, eos_token_id=(1, 2))
    scores = torch.randn(2, 50)
    context = PipelineContext(prompt_slots=1, vocab_size=50, device=scores.device)
    for stage in build_pipeline(params, context):
        alive = stage.fn(PipelineRows(torch.zeros(2, 1, dtype=torch.long), (0, 0)), scores).isfinite().sum(-1)
        assert alive.tolist() == [3, 3]


def test_a_vocabulary_too_small_for_a_watermark_is_told_so() -> None:
    params = GenerationParams().replace({"watermarking_config": {"seeding_scheme": "selfhash"}})
    with pytest.raises(ParameterError, match=r"tries 40 tokens, but this model has 39 only; take lefthash"):
        build_pipeline(params, PipelineContext(prompt_slots=2, vocab_size=39, device=torch.device("cpu")))
    [stage] = build_pipeline(params, PipelineContext(prompt_slots=2, vocab_size=40, device=torch.device("cpu")))
    assert stage.fn(pipeline.Rows(torch.tensor([[1, 2]]), (0,)), torch.zeros(1, 40)).isfinite().all()
