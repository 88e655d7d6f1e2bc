"""Pictures: completions equal `generate()`, whole pictures cost the model's loss, pixels are where they belong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from transformers import EncoderNoRepeatNGramLogitsProcessor, EncoderRepetitionPenaltyLogitsProcessor
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

from core.contract import (
    FinishReason,
    ParameterError,
    Picture,
    PictureAnswer,
    PictureQuery,
    Prompt,
    PromptError,
    RunSpec,
    ViewUnavailableError,
)
from core.decode.extras import Extras
from core.decode.score import derive_picture
from core.decode.session import Session
from core.models.loaded import LoadedModel
from core.models.own_attention import _of_one
from tests.parity.reference import Ours, finish, full_logits, generate, plain, unpadded

SIDE = 8
PIXELS = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
PICTURE = Picture.of(PIXELS)


def paint(loaded: LoadedModel, *prompts: Prompt, seed: int = 0, source: str = "counter", **params: object) -> Ours:
    chosen = {"do_sample": False, "max_new_tokens": SIDE * SIDE, **params}
    return finish(Session(loaded, RunSpec(prompts, chosen, seed=seed, draw_source=source), run_id=1))


def ids_of(loaded: LoadedModel, kept: int) -> list[int]:
    return loaded.text.encode_picture(PICTURE)[: 1 + kept]


def score(loaded: LoadedModel, picture: Picture) -> PictureAnswer:
    slices = derive_picture(loaded, PictureQuery(loaded.info.model_id, picture))
    while True:
        try:
            next(slices)
        except StopIteration as done:
            return done.value


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_completion_equals_generate_to_the_last_pixel(random_imagegpt: LoadedModel, rows: int) -> None:
    ours = paint(random_imagegpt, Prompt(image=PICTURE, keep_rows=rows))
    given = [ids_of(random_imagegpt, rows * SIDE)]
    expected = generate(random_imagegpt, given, max_new_tokens=SIDE * SIDE - rows * SIDE)
    assert ours.sequences == unpadded(given, expected.sequences)
    assert len(ours.sequences[0]) == 1 + SIDE * SIDE
    wanted = FinishReason.LENGTH if rows == 0 else FinishReason.LENGTH_LIMIT
    assert ours.finished.finish_reason == wanted
    assert ours.steps[-1].cache.length == SIDE * SIDE  # the last pixel is never fed


def test_nothing_at_all_begins_with_the_start_token(random_imagegpt: LoadedModel) -> None:
    image = random_imagegpt.info.image
    assert image is not None
    empty = paint(random_imagegpt, Prompt(text=""))
    assert empty.sequences == paint(random_imagegpt, Prompt(ids=(image.sos_token_id,))).sequences
    assert empty.sequences[0][0] == image.sos_token_id
    assert image.sos_token_id not in empty.sequences[0][1:]


def test_contrastive_search_paints_the_last_pixel_too_and_says_how(random_imagegpt: LoadedModel) -> None:
    pixels = SIDE * SIDE
    asked = {"penalty_alpha": 0.6, "top_k": 3}
    ours = paint(random_imagegpt, Prompt(ids=tuple(ids_of(random_imagegpt, pixels - 3))), **asked)
    assert len(ours.sequences[0]) == 1 + pixels
    assert [step.detail is None for step in ours.steps] == [False, False, False, True][-len(ours.steps) :]
    said = [
        sentence for _, sentence in ours.session.started.plan.warnings if "candidates of the last pixel" in sentence
    ]
    assert len(said) == 1
    short = paint(random_imagegpt, Prompt(ids=tuple(ids_of(random_imagegpt, 3))), **{**asked, "max_new_tokens": 2})
    assert not any("pixel" in sentence for _, sentence in short.session.started.plan.warnings)


def test_each_step_names_its_pixel_and_its_colour(random_imagegpt: LoadedModel) -> None:
    image = random_imagegpt.info.image
    assert image is not None
    ours = paint(random_imagegpt, Prompt(image=PICTURE, keep_pixels=13))
    assert [step.pixel for step in ours.steps] == [divmod(n, SIDE) for n in range(13, SIDE * SIDE)]
    painted = image.paint(ours.sequences[0])
    for step in ours.steps:
        assert step.pixel is not None
        assert painted[step.pixel].tolist() == list(step.rgb or ())
        told = json.loads(json.dumps(step.to_json()))
        assert (told["pixel"], told["rgb"]) == (list(step.pixel), list(step.rgb or ()))
        assert step.piece == "#{:02x}{:02x}{:02x}".format(*(step.rgb or ()))
    given = random_imagegpt.info.image.palette[ids_of(random_imagegpt, 13)[1:]]
    assert np.array_equal(painted.reshape(-1, 3)[:13], given)


def test_a_grid_of_completions_equals_sampling_with_generate(random_imagegpt: LoadedModel) -> None:
    params = {"do_sample": True, "top_k": 9, "num_return_sequences": 5}
    given = [ids_of(random_imagegpt, 40)]
    expected = generate(random_imagegpt, given, seed=11, max_new_tokens=24, **params)
    ours = paint(random_imagegpt, Prompt(image=PICTURE, keep_rows=5), seed=11, source="torch", **params)
    assert ours.sequences == unpadded(given, expected.sequences, copies=5)
    assert len({tuple(ids) for ids in ours.sequences}) == 5


def test_beams_of_pixels_equal_those_of_generate(random_imagegpt: LoadedModel) -> None:
    params = {"num_beams": 3, "num_return_sequences": 2}
    given = [ids_of(random_imagegpt, 48)]
    expected = generate(random_imagegpt, given, max_new_tokens=16, **params)
    ours = paint(random_imagegpt, Prompt(image=PICTURE, keep_rows=6), **params)
    assert ours.sequences == unpadded(given, expected.sequences, copies=2)
    assert all(len(ids) == 1 + SIDE * SIDE for ids in ours.sequences)


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"encoder_repetition_penalty": 4.0}, EncoderRepetitionPenaltyLogitsProcessor),
        ({"encoder_no_repeat_ngram_size": 1}, EncoderNoRepeatNGramLogitsProcessor),
    ],
)
def test_the_start_token_takes_no_part_in_what_is_said_of_the_pixels_given(
    random_imagegpt: LoadedModel, params: dict[str, float], kind: type
) -> None:
    given = ids_of(random_imagegpt, 24)
    [value] = params.values()
    own = kind(value, torch.tensor([given[1:]]))  # generate() fails, since the start token has no score
    prompt, drawn = Prompt(image=PICTURE, keep_pixels=24), {"do_sample": True, "max_new_tokens": 30}
    extras = Extras((lambda ids, scores: own(ids[:, 1:], scores),))
    wanted = finish(Session(random_imagegpt, RunSpec((prompt,), drawn), run_id=1, extras=extras)).sequences
    assert paint(random_imagegpt, prompt, **drawn, **params).sequences == wanted
    assert paint(random_imagegpt, prompt, **drawn).sequences != wanted


def test_a_phrase_of_pixels_cannot_have_the_start_token(random_imagegpt: LoadedModel) -> None:
    start = random_imagegpt.info.output_size
    with pytest.raises(ParameterError, match=f"Token id {start} in force_words_ids does not exist"):
        paint(random_imagegpt, Prompt(image=PICTURE, keep_rows=7), num_beams=2, force_words_ids=[[start]])


def test_pictures_given_to_different_depths_are_completed_together(random_imagegpt: LoadedModel) -> None:
    """A batch padded on the left has more slots than the model has positions."""
    depths = (3, 40, 0, 63)
    prompts = [Prompt(image=PICTURE, keep_pixels=kept) for kept in depths]
    together = paint(random_imagegpt, *prompts)
    alone = [paint(random_imagegpt, prompt).sequences[0] for prompt in prompts]
    assert together.sequences == alone
    assert {len(ids) for ids in together.sequences} == {1 + SIDE * SIDE}


def test_bits_per_pixel_are_the_loss_of_the_model(random_imagegpt: LoadedModel) -> None:
    answer = score(random_imagegpt, PICTURE)
    ids = ids_of(random_imagegpt, SIDE * SIDE)
    assert answer.token_ids.reshape(-1).tolist() == ids[1:]
    with plain(random_imagegpt) as model:
        labels = torch.tensor([ids[1:]])
        inputs = torch.tensor([ids[:-1]])
        logits = model(input_ids=inputs, use_cache=False).logits
        # The class shifts labels itself: its loss is that of the pixels after the first.
        own = float(model(input_ids=inputs, labels=inputs, use_cache=False).loss)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    expected = (loss / math.log(2)).reshape(SIDE, SIDE).numpy()
    np.testing.assert_allclose(answer.surprisal_bits, expected, atol=1e-4, rtol=1e-5)
    assert answer.bits_per_pixel == pytest.approx(float(loss.mean()) / math.log(2), rel=1e-5)
    all_but_the_last = answer.surprisal_bits.reshape(-1)[:-1]
    assert float(all_but_the_last.mean()) * math.log(2) == pytest.approx(own, rel=1e-5)


def test_the_bits_of_painted_pixels_are_those_the_steps_told(random_imagegpt: LoadedModel) -> None:
    image = random_imagegpt.info.image
    assert image is not None
    ours = paint(random_imagegpt, Prompt(image=PICTURE, keep_rows=2), do_sample=True)
    answer = score(random_imagegpt, Picture.of(image.paint(ours.sequences[0])))
    assert answer.token_ids.reshape(-1).tolist() == ours.sequences[0][1:]
    told = [-step.logprob / math.log(2) for step in ours.steps]
    np.testing.assert_allclose(answer.surprisal_bits.reshape(-1)[16:], told, atol=1e-3)


def test_scoring_a_picture_leaves_no_trace_on_a_run(random_imagegpt: LoadedModel) -> None:
    prompt = Prompt(image=PICTURE, keep_rows=6)
    free = paint(random_imagegpt, prompt)
    session = Session(random_imagegpt, RunSpec((prompt,), {"do_sample": False, "max_new_tokens": 64}), run_id=1)
    query = PictureQuery(random_imagegpt.info.model_id, PICTURE)
    with session.attached():
        while not session.finished:
            session.advance()
            for _ in derive_picture(random_imagegpt, query):
                pass
    assert [list(ids) for ids in session.result().sequences] == free.sequences
    assert session.trace is not None
    assert session.trace.stop == SIDE * SIDE


def test_a_head_without_the_start_token_gives_full_distributions(random_imagegpt: LoadedModel) -> None:
    width = random_imagegpt.info.output_size
    assert width == random_imagegpt.info.vocab_size - 1 == full_logits(random_imagegpt, [width]).shape[-1]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt(image=PICTURE), "none is left to paint"),
        (Prompt(image=PICTURE, keep_rows=SIDE), "none is left to paint"),
        (Prompt(image=PICTURE, keep_rows=SIDE + 1), "9 rows cannot be kept; .* have 8"),
        (Prompt(image=PICTURE, keep_pixels=-1), "-1 pixels cannot be kept"),
        (Prompt(image=PICTURE, keep_rows=1, keep_pixels=1), "not both"),
        (Prompt(text="a dog"), "is no colour"),
        (Prompt(ids=(41,)), "does not exist"),
    ],
)
def test_what_cannot_be_painted_is_refused(random_imagegpt: LoadedModel, prompt: Prompt, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        paint(random_imagegpt, prompt)


def test_text_models_are_given_no_picture(tiny_gpt2: LoadedModel) -> None:
    with pytest.raises(PromptError, match="reads text"):
        paint(tiny_gpt2, Prompt(image=PICTURE))
    with pytest.raises(PromptError, match="reads text"):
        score(tiny_gpt2, PICTURE)
    with pytest.raises(ViewUnavailableError, match="no longer loaded"):
        next(derive_picture(tiny_gpt2, PictureQuery(-1, PICTURE)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_one_position_is_the_module_s_own(random_imagegpt: LoadedModel, dtype: torch.dtype) -> None:
    module = next(m for m in random_imagegpt.module.modules() if isinstance(m, ImageGPTAttention))
    generator = torch.Generator().manual_seed(2)
    shape = (3, module.num_heads, 1, module.head_dim)
    query = torch.randn(shape, generator=generator).to(dtype)
    key, value = (torch.randn((*shape[:2], 37, shape[3]), generator=generator).to(dtype) for _ in range(2))
    with torch.inference_mode():
        ours, theirs = _of_one(module, query, key, value), module._attn(query, key, value)
    if dtype == torch.bfloat16:  # to the bit
        assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
    else:
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
