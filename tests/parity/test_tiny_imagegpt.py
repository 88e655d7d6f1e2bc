"""The embedded image model: it is what its card says, and paints as `generate()` does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import core
from core.contract import ImageFacts, ModelInfo
from tests.parity.reference import plain

FOLDER = Path(__file__).parents[2] / "resources" / "models" / "tiny-imagegpt"
HERE = {"device": "cpu", "dtype": "fp32"}
MOST_BYTES = 10_000_000


def pictures() -> np.ndarray:
    with np.load(FOLDER / "train" / "emoji16.npz", allow_pickle=False) as data:
        return data["images"]


def facts(info: ModelInfo) -> ImageFacts:
    assert info.image is not None
    return info.image


def test_it_is_small_listed_and_every_view_of_it_is_there() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < MOST_BYTES
    assert any(source.name == "tiny-imagegpt" and source.available for source in core.list_models())
    info = core.run("tiny-imagegpt", "", params={"max_new_tokens": 1}, **HERE).model
    assert (facts(info).height, facts(info).width, len(facts(info).palette)) == (16, 16, 64)
    assert all(view.available for view in info.views)


def test_greedy_completions_equal_generate_to_the_last_pixel() -> None:
    from core.api import load_model

    loaded = load_model("tiny-imagegpt", **HERE)
    result = core.run("tiny-imagegpt", image=pictures()[100], keep_rows=8, mode="greedy_search", **HERE)
    with plain(loaded) as model:
        given = torch.tensor([result.sequences[0][: 1 + 8 * 16]])
        expected = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=128)
    assert result.sequences == expected.tolist()


def test_pictures_of_its_kind_cost_fewer_bits_than_noise() -> None:
    claimed = json.loads((FOLDER / "train" / "metrics.json").read_text())["held_out_bits_per_pixel"]
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    some = [core.score_picture("tiny-imagegpt", picture, **HERE).bits_per_pixel for picture in pictures()[100:160:5]]
    assert max(some) < claimed["uniform"] < core.score_picture("tiny-imagegpt", noise, **HERE).bits_per_pixel


@pytest.mark.slow
def test_the_card_s_held_out_bits_are_those_of_the_file() -> None:
    """The training script splits again, and evaluates the exported folder."""
    claimed = json.loads((FOLDER / "train" / "metrics.json").read_text())["held_out_bits_per_pixel"]
    assert claimed["tiny_imagegpt"] < 0.8 * claimed["left_and_above"]
    command = [sys.executable, "-B", str(FOLDER / "train" / "train.py"), "--evaluate"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FOLDER)
    assert float(finished.stdout.split()[0]) == pytest.approx(claimed["tiny_imagegpt"], abs=2e-3)
    assert f"| {claimed['tiny_imagegpt']:.4f}".replace("| ", "**") in (FOLDER / "README.md").read_text()


def test_the_training_script_gives_the_same_weights_again_also_after_an_interruption(tmp_path: Path) -> None:
    program = Path(__file__).with_name("train_twice.py")
    command = [sys.executable, "-B", str(program), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    once, again, resumed = finished.stdout.split("\n")[-2].split()
    assert len(once) == 64
    assert once == again == resumed


def test_grids_of_samples_differ_and_keep_what_was_given() -> None:
    result = core.run(
        "tiny-imagegpt", image=pictures()[5], keep_rows=8, params={"num_return_sequences": 9}, seed=2, **HERE
    )
    assert len({picture.tobytes() for picture in result.pictures}) == 9
    assert all(np.array_equal(picture[:8], result.pictures[0][:8]) for picture in result.pictures)
    assert not math.isnan(result.steps[0].entropy_bits)
