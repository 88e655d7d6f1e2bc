"""What people write and paste for a model of the hub."""

from __future__ import annotations

import pytest

from core.contract import ModelLoadError
from core.models.hub_names import HubModel, parse_hub
from tests.fake_hub import COMMIT

NAMES = {
    "org/name": HubModel("org/name"),
    " org/name ": HubModel("org/name"),
    "org/name@main": HubModel("org/name"),
    "Org-1/Na.me_2@v1.0": HubModel("Org-1/Na.me_2", "v1.0"),
    "org/name@refs/pr/7": HubModel("org/name", "refs/pr/7"),
    f"org/name@{COMMIT}": HubModel("org/name", COMMIT),
    "gpt2": HubModel("gpt2"),
    "https://huggingface.co/org/name": HubModel("org/name"),
    "https://huggingface.co/org/name/": HubModel("org/name"),
    "http://www.huggingface.co/org/name?library=transformers#x": HubModel("org/name"),
    "huggingface.co/org/name/tree/v2": HubModel("org/name", "v2"),
    "https://hf.co/org/name/blob/main/config.json": HubModel("org/name"),
    f"https://huggingface.co/org/name/commit/{COMMIT}": HubModel("org/name", COMMIT),
    "https://huggingface.co/models/org/name": HubModel("org/name"),
    "hf://org/name@v1": HubModel("org/name", "v1"),
    "a/b/c": None,
    "./org/name": None,
    "/org/name": None,
    "~/name": None,
    "org/na me": None,
    "org/name@": None,
    "org/name@../../x": None,
    "org/name@a//b": None,
    "org/--name": None,
    "org/na..me": None,
    "org/-name": None,
    "https://example.com/org/name": None,
    "http://[": None,
    "https://[::1": None,
    "": None,
    "a\0b": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_addresses_of_models(name: str) -> None:
    assert parse_hub(name) == NAMES[name]


@pytest.mark.parametrize(
    "address",
    ["https://huggingface.co/datasets/org/name", "https://huggingface.co", "https://huggingface.co/a/b/../../etc"],
)
def test_addresses_of_something_else_are_refused(address: str) -> None:
    with pytest.raises(ModelLoadError, match=r"is no (model|address)"):
        parse_hub(address)
