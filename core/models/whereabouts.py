"""From a source to a folder on this disk, converting or downloading first where that is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.contract.errors import ModelLoadError
from core.models.conversion import ensure_converted
from core.models.download import ensure_downloaded
from core.models.load_control import LoadControl
from core.models.sources import ModelSource


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A folder, and the commit it is a copy of, where that is known."""

    folder: Path
    revision: str = ""


def find_folder(source: ModelSource, control: LoadControl) -> Whereabouts:
    """Raises `ModelLoadError`, `LoadCancelledError`."""
    if source.hub is not None:
        folder = ensure_downloaded(source.hub, control)
        return Whereabouts(folder, folder.name)
    if source.path is None:
        raise ModelLoadError(f"{source.title} cannot be loaded: {source.reason}")
    if source.path.suffix.lower() == ".gguf":
        return Whereabouts(ensure_converted(source.path, control))
    return Whereabouts(source.path)
