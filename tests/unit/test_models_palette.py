"""Checkpoints of image models: their palette and size, and one sentence for each way in which these are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contract import ModelLoadError, ModelSpec
from core.models.load_control import Unwatched
from core.models.loaded import LoadedModel
from core.models.loader import load
from tests.models import build_imagegpt

FILE = "preprocessor_config.json"


def loaded(name: str | Path) -> LoadedModel:
    return load(ModelSpec(str(name), "cpu", "fp32"), 1, Unwatched())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_imagegpt(tmp_path_factory.mktemp("palette"), height=4, width=6, colours=9, n_layer=1)


@pytest.fixture
def said(folder: Path) -> Any:
    """What the file says; what a test writes instead is taken back."""
    text = (folder / FILE).read_text()
    yield json.loads(text)
    (folder / FILE).unlink(missing_ok=True)
    (folder / FILE).write_text(text)


def test_palette_and_size_are_those_of_the_file(folder: Path, said: dict[str, Any]) -> None:
    info = loaded(folder).info
    assert info.image is not None
    assert (info.image.height, info.image.width, info.image.sos_token_id) == (4, 6, 9)
    expected = np.rint(127.5 * (np.array(said["clusters"]) + 1)).astype(np.uint8)
    assert np.array_equal(info.image.palette, expected)
    assert not info.image.palette.flags.writeable
    assert (info.bos_token_id, info.vocab_size, info.output_size, info.max_positions) == (9, 10, 9, 24)
    assert info.defaults.max_new_tokens == 24


@pytest.mark.parametrize(("size", "canvas"), [(3, (3, 3)), ({"height": 2, "width": 5}, (2, 5)), (None, (4, 6))])
def test_pictures_may_be_smaller_than_the_model(
    folder: Path, said: dict[str, Any], size: Any, canvas: tuple[int, int]
) -> None:
    (folder / FILE).write_text(json.dumps(said | {"size": size}))
    info = loaded(folder).info
    assert info.image is not None
    assert (info.image.height, info.image.width) == canvas
    assert info.max_positions == canvas[0] * canvas[1]  # a run ends with the picture


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clusters": None}, "has no clusters"),
        ({"clusters": []}, "has no clusters"),
        ({"clusters": {"a": 1}}, "has no clusters"),
        ({"clusters": [[0.1, 0.2]] * 9}, "three numbers"),
        ({"clusters": [[0.1, 0.2, "0"]] * 9}, "three numbers"),
        ({"clusters": [[0.1, 0.2, True]] * 9}, "three numbers"),
        ({"clusters": [0.1, 0.2, 0.3]}, "three numbers"),
        ({"clusters": [[0.1, 0.2, float("nan")]] * 9}, "NaN, infinite, or beyond"),
        ({"clusters": [[0.1, 0.2, float("inf")]] * 9}, "NaN, infinite, or beyond"),
        ({"clusters": [[0.1, 0.2, 10**400]] * 9}, "NaN, infinite, or beyond"),
        ({"clusters": [[0, 128, 255]] * 9}, "NaN, infinite, or beyond"),
        ({"clusters": [[0.1, 0.2, 0.3]] * 8}, "has 8 colours, but its model knows 9 and a start"),
        ({"size": {"height": 5, "width": 5}}, "5 × 5 pixels, but its model has only 24 positions"),
        ({"size": {"height": 5}}, "not a height and a width"),
        ({"size": {"height": -1, "width": 4}}, "not a height and a width"),
        ({"size": True}, "not a height and a width"),
        ({"size": "32"}, "not a height and a width"),
        ({"size": 10**9}, "pixels, but its model has only 24"),
        ({"resample": 99}, "with “99”, which is no filter"),
        ({"resample": "bilinear"}, "which is no filter"),
        ({"resample": True}, "which is no filter"),
        ({"do_normalize": False}, "do_normalize = False"),
        ({"do_rescale": False}, "do_rescale = False"),
        ({"rescale_factor": 0.5}, "rescale_factor = 0.5"),
        ({"image_mean": [0.48, 0.45, 0.4]}, "image_mean"),
        ({"image_std": ["0.5"]}, "image_std"),
    ],
)
def test_a_broken_palette_or_size_is_one_sentence(
    folder: Path, said: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    (folder / FILE).write_text(json.dumps(said | changes))
    with pytest.raises(ModelLoadError, match=sentence) as refused:
        loaded(folder)
    assert refused.value.message.endswith(".")
    assert "\n" not in refused.value.message


def test_what_the_reference_processor_writes_is_read(folder: Path, said: dict[str, Any]) -> None:
    usual = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5]}
    (folder / FILE).write_text(json.dumps(said | usual | {"image_std": [0.5] * 3, "resample": 1}))
    assert loaded(folder).text.resample == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"clusters": ' + "[" * 100 + "]" * 100 + "}"])
def test_a_missing_or_broken_file_is_one_sentence(folder: Path, said: dict[str, Any], content: str | None) -> None:
    (folder / FILE).unlink()
    if content is not None:
        (folder / FILE).write_text(content)
    with pytest.raises(ModelLoadError, match=FILE):
        loaded(folder)


def test_a_new_image_model_has_a_palette_too() -> None:
    info = loaded("new:imagegpt?n_positions=60&vocab_size=28&n_layer=1").info
    assert info.image is not None
    assert (info.image.height, info.image.width, len(info.image.palette), info.bos_token_id) == (6, 10, 27, 27)
    assert sorted(info.image.palette.tolist())[0] == [0, 0, 0]
    assert sorted(info.image.palette.tolist())[-1] == [255, 255, 255]


def test_a_model_without_a_single_colour_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="there must be a colour"):
        loaded("new:imagegpt?vocab_size=1")
