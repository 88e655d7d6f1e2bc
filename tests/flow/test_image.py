"""Image models from a script, on the command line, and through the worker."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import core
from core import cli
from core.contract import (
    Answered,
    Ask,
    LoadModel,
    ModelReady,
    ModelSpec,
    Picture,
    PictureAnswer,
    PictureQuery,
    Prompt,
    PromptError,
    RunFinished,
    RunSpec,
    StartRun,
    StepSnapshot,
    Tokenize,
    Tokenized,
)
from core.domains import picture_files
from tests.flow.test_lab import Desk

MODEL = "new:imagegpt?vocab_size=28&n_positions=64&n_layer=2&n_embd=32&initializer_range=0.3"
HERE = {"device": "cpu", "dtype": "fp32"}
PIXELS = np.random.default_rng(5).integers(0, 256, (11, 9, 3)).astype(np.uint8)
SAMPLE = {"do_sample": True, "num_return_sequences": 3}
Capture = pytest.CaptureFixture[str]


def generated(*arguments: str, capsys: Capture, model: str = MODEL) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["generate", "--model", model, "--device", "cpu", "--dtype", "fp32", *arguments])
    return (status, *capsys.readouterr())


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that is read without Pillow."""
    monkeypatch.setattr(picture_files, "read_and_note", lambda path: (Picture.of(PIXELS), ()))
    return "a.png"


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_a_script_gets_pictures_back() -> None:
    result = core.run(MODEL, image=PIXELS, keep_rows=3, params=SAMPLE, seed=4, **HERE)
    assert [painted.shape for painted in result.pictures] == [(8, 8, 3)] * 3
    first, *others = result.pictures
    assert all(np.array_equal(first[:3], other[:3]) for other in others)
    assert not np.array_equal(first[3:], others[0][3:])
    again = core.run(MODEL, image=Picture.of(PIXELS), keep_pixels=24, params=SAMPLE, seed=4, **HERE)
    assert again.sequences == result.sequences
    two = core.run(MODEL, image=[PIXELS, PIXELS[::-1]], keep_rows=1, params={"do_sample": False}, **HERE)
    assert len(two.pictures) == 2
    planned = core.plan(MODEL, image=PIXELS, keep_rows=7, **HERE)
    assert (planned.length.max_positions, planned.length.limited) == (64, True)
    steps = core.stream(MODEL, image=PIXELS, keep_rows=7, params={"do_sample": False}, **HERE)
    assert [step.pixel for step in steps] == [(7, column) for column in range(8)]


def test_text_has_no_pictures() -> None:
    assert core.run("tiny-gpt2", "The", params={"max_new_tokens": 1}, **HERE).pictures == []


def test_a_script_can_score_any_picture() -> None:
    answer = core.score_picture(MODEL, PIXELS, **HERE)
    assert answer.surprisal_bits.shape == answer.token_ids.shape == (8, 8)
    assert answer.bits_per_pixel == pytest.approx(float(answer.surprisal_bits.mean()))
    with pytest.raises(PromptError, match="reads text"):
        core.score_picture("tiny-gpt2", PIXELS, **HERE)


def test_keeping_rows_of_no_picture_is_refused() -> None:
    with pytest.raises(PromptError, match="give it as image"):
        core.run(MODEL, "", keep_rows=2, **HERE)
    with pytest.raises(PromptError, match="exactly one way"):
        core.run(MODEL, "", image=PIXELS, **HERE)


@pytest.mark.parametrize("kept", [2.5, "8", True])
def test_rows_are_whole_numbers(kept: object) -> None:
    with pytest.raises(PromptError, match="keep_rows is a whole number of rows, not"):
        core.run(MODEL, image=PIXELS, keep_rows=kept, **HERE)  # type: ignore[arg-type]


def test_the_command_line_writes_pictures(tmp_path: Path, picture: str, capsys: Capture) -> None:
    out = tmp_path / "new" / "folder"
    arguments = ("--image", picture, "--keep-rows", "5", "--num-return-sequences", "2", "--mode", "sample")
    status, said, err = generated(*arguments, "--out", str(out), "--scale", "3", capsys=capsys)
    names = ["given.png", "painted-1.png", "painted-2.png"]
    assert (status, err) == (0, "")
    assert said.splitlines() == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == names
    assert {size_of(path) for path in out.iterdir()} == {(24, 24)}


def test_json_tells_pixels_colours_and_files(tmp_path: Path, capsys: Capture) -> None:
    status, said, err = generated(
        "--prompt", "", "--json", "--mode", "greedy_search", "--out", str(tmp_path), capsys=capsys
    )
    assert (status, err) == (0, "")
    *tokens, last = map(json.loads, said.splitlines())
    assert [token["pixel"] for token in tokens] == [list(divmod(n, 8)) for n in range(64)]
    assert all(token["token"] == "#{:02x}{:02x}{:02x}".format(*token["rgb"]) for token in tokens)
    assert last["files"] == [str(tmp_path / "painted-1.png")]
    assert size_of(tmp_path / "painted-1.png") == (128, 128)
    assert len(last["sequences"][0]) == 65


def test_without_out_colours_are_printed(capsys: Capture) -> None:
    status, said, _ = generated(
        "--prompt", "#ff0000", "--set", "max_new_tokens=2", "--mode", "greedy_search", capsys=capsys
    )
    assert status == 0
    assert [len(colour) for colour in said.split()] == [7, 7]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--prompt", "", "--keep-rows", "2"), "need a picture"),
        (("--prompt", "", "--scale", "2"), "is for the files of --out"),
        (("--prompt", "", "--out", "x", "--scale", "0"), "from 1 to 256"),
        (("--prompt", "", "--out", "/dev/null/x"), "cannot be made"),
        (("--image", "a.png", "--prompt", ""), "not allowed with"),
        (("--image", "a.png", "--keep-rows", "9"), "9 rows cannot be kept"),
        (("--image", "a.png"), "keep fewer"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    picture: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = generated(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_what_was_done_to_a_picture_is_said_on_stderr(tmp_path: Path, capsys: Capture) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = [image.new("RGBA", (8, 8), (level, 0, 0, 100)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    status, _, said = generated(
        "--image", str(tmp_path / "a.webp"), "--keep-rows", "7", "--set", "max_new_tokens=1", capsys=capsys
    )
    assert status == 0
    assert said.startswith("“a.webp”: The first frame of an animation. Transparent parts are white.\n")


def test_a_pillow_image_is_taken_as_it_looks() -> None:
    image = pytest.importorskip("PIL.Image")
    plain = image.fromarray(PIXELS)
    few = plain.quantize(8)  # an array of it would be numbers of its palette
    ids = [core.run(MODEL, image=i, keep_rows=7, mode="greedy_search", **HERE) for i in (few, few.convert("RGB"))]
    assert ids[0].sequences == ids[1].sequences


def test_a_text_model_writes_no_pictures(tmp_path: Path, capsys: Capture) -> None:
    status, _, err = generated("--prompt", "The", "--out", str(tmp_path / "x"), capsys=capsys, model="tiny-gpt2")
    assert (status, err) == (2, "--out is for pictures, but Tiny GPT-2 writes text; leave it out.\n")
    assert not (tmp_path / "x").exists()


def test_the_worker_scores_pictures_without_a_run_and_paints_them() -> None:
    desk = Desk()
    picture = Picture.of(PIXELS)
    try:
        desk.submit(Ask("score", 1, PictureQuery(7, picture)))
        none = desk.until_type(Answered)
        assert isinstance(none, Answered)
        assert none.error is not None
        assert "No model is loaded" in none.error.message
        desk.submit(LoadModel(ModelSpec(MODEL, **HERE), 7))
        ready = desk.until_type(ModelReady)
        assert isinstance(ready, ModelReady)
        assert ready.info.image is not None
        assert all(status.available for status in ready.info.views)
        desk.submit(Ask("score", 2, PictureQuery(7, picture)), Tokenize(3, Prompt(image=picture)))
        desk.until(lambda event: isinstance(event, Answered) and event.generation == 2)
        answered = next(e for e in desk.events if isinstance(e, Answered) and e.generation == 2)
        if not any(isinstance(event, Tokenized) for event in desk.events):
            desk.until_type(Tokenized)
        tokenized = next(event for event in desk.events if isinstance(event, Tokenized))
        assert isinstance(answered.answer, PictureAnswer)
        assert tokenized.row is not None
        assert list(tokenized.row.token_ids[1:]) == answered.answer.token_ids.reshape(-1).tolist()
        desk.submit(StartRun(1, RunSpec((Prompt(image=picture, keep_rows=6),), {"do_sample": False})))
        finished = desk.until_type(RunFinished)
        assert isinstance(finished, RunFinished)
        assert finished.new_tokens == 16
        steps = [event for event in desk.events if isinstance(event, StepSnapshot)]
        assert [step.pixel for step in steps] == [(row, column) for row in (6, 7) for column in range(8)]
    finally:
        assert desk.lab.close()
