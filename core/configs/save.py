"""A model of random weights as a folder: config.json, safetensors, generation_config, tokenizer or palette, if any."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from core.contract.configs import SavedModel
from core.contract.errors import ModelLoadError
from core.contract.specs import ModelSpec
from core.domains.image import ImageDomain
from core.models.load_control import LoadControl, stop_if_cancelled, watched_transformers
from core.models.loaded import LoadedModel
from core.models.loader import load
from core.models.palette import write_palette
from core.models.units import byte_count

_SPARE_BYTES = 16 << 20


def save_new(name: str, folder: Path, control: LoadControl) -> SavedModel:
    """Write the model that a `new:` name means, in fp32, into a folder that is empty or not there yet.

    The folder appears all at once or not at all, and can be loaded like any other. Raises `ModelLoadError` and
    `LoadCancelledError`.
    """
    folder = folder.expanduser()
    check_target(folder)
    loaded = load(ModelSpec(name, "cpu", "fp32"), 0, control)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        free, needed = shutil.disk_usage(folder.parent).free, loaded.info.weight_bytes
        if needed + _SPARE_BYTES > free:
            raise ModelLoadError(
                f"“{folder}” has room for {byte_count(free)}, and the model takes "
                f"{byte_count(needed)}; choose another disk."
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(loaded, partial, control)
        stop_if_cancelled(control)
        if folder.is_dir():
            folder.rmdir()  # it is empty; not every system replaces a folder
        os.replace(partial, folder)
    except OSError as error:
        raise ModelLoadError(
            f"“{folder}” cannot be written: {error.strerror or error}; choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return SavedModel(str(folder), tuple(sorted((p.name, p.stat().st_size) for p in folder.iterdir())))


def check_target(folder: Path) -> None:
    """Whether the folder may be written, before the weights are drawn. Raises `ModelLoadError`."""
    try:
        if folder.is_dir():
            if any(folder.iterdir()):
                raise ModelLoadError(f"“{folder}” is not empty; name a new folder.")
        elif os.path.lexists(folder):
            raise ModelLoadError(f"“{folder}” is a file; name a new folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelLoadError(
            f"“{folder}” cannot be written: {error.strerror or error}; choose another folder."
        ) from error
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise ModelLoadError(f"“{folder.parent}” cannot be written to; choose another folder.")


def _write(loaded: LoadedModel, folder: Path, control: LoadControl) -> None:
    control.progress("Saving", None)
    with watched_transformers(control):
        loaded.module.save_pretrained(folder)
        if loaded.text.tokenizer is not None:
            loaded.text.tokenizer.save_pretrained(folder)
        if isinstance(loaded.text, ImageDomain):
            write_palette(loaded.text, folder)
