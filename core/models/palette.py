"""The palette of an ImageGPT checkpoint, out of its preprocessor_config.json, checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract.errors import ModelLoadError
from core.domains.image import ImageDomain, canvas_of
from core.domains.resampling import BILINEAR, HAMMING, NEAREST
from core.models.files import folder_name, read_json_object
from core.models.preflight import PREPROCESSOR, SIZE_CAPS_BYTES, CheckedFolder


def read_image_domain(folder: CheckedFolder, vocab_size: int, positions: int) -> ImageDomain:
    """The colours and the size of the pictures of a checkpoint. Raises `ModelLoadError`."""
    name = folder_name(folder.path)
    if PREPROCESSOR not in folder.present:
        raise ModelLoadError(f"“{name}” has no {PREPROCESSOR}, so its colours are unknown; download that file, too.")
    config = read_json_object(folder.path / PREPROCESSOR, SIZE_CAPS_BYTES[PREPROCESSOR])
    clusters = _clusters(name, config.get("clusters"), vocab_size)
    height, width = _size(name, config.get("size"), positions)
    _check_normalising(name, config)
    return ImageDomain(clusters, height, width, _resample(name, config.get("resample")))


def write_palette(domain: ImageDomain, folder: Path) -> None:
    """The preprocessor_config.json that `ImageGPTImageProcessor` and `read_image_domain` read."""
    said = {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": domain.clusters.tolist(),
        "do_color_quantize": True,
        "resample": domain.resample,
        "size": {"height": domain.facts.height, "width": domain.facts.width},
    }
    (folder / PREPROCESSOR).write_text(json.dumps(said) + "\n", encoding="utf-8")


def _resample(name: str, number: Any) -> int:
    """The filter that pictures are resized with; bilinear where none is named, as in the processor."""
    if number is None:
        return BILINEAR
    if isinstance(number, bool) or not isinstance(number, int) or not NEAREST <= number <= HAMMING:
        raise ModelLoadError(
            f"The {PREPROCESSOR} of “{name}” resizes pictures with “{str(number)[:40]}”, which is no filter; those "
            f"have the numbers {NEAREST} to {HAMMING}."
        )
    return number


def _check_normalising(name: str, config: Mapping[str, Any]) -> None:
    """Colours are compared with clusters from -1 to 1; other scales would give other tokens."""
    usual = {
        "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "image_mean": 0.5, "image_std": 0.5,
    }  # fmt: skip
    for key, value in usual.items():
        found = config.get(key)
        for one in found if isinstance(found, list) else [found]:
            same = (
                one is value if isinstance(value, bool) else isinstance(one, int | float) and math.isclose(one, value)
            )
            if one is not None and not same:
                raise ModelLoadError(
                    f"The {PREPROCESSOR} of “{name}” has {key} = {str(found)[:60]}; only ImageGPT's own scale is "
                    "known, on which 0 to 255 become -1 to 1."
                )


def _clusters(name: str, clusters: Any, vocab_size: int) -> NDArray[np.float32]:
    if not isinstance(clusters, list) or not clusters:
        raise ModelLoadError(f"The {PREPROCESSOR} of “{name}” has no clusters, so its colours are unknown.")
    if not all(isinstance(c, list) and len(c) == 3 and all(map(_is_number, c)) for c in clusters):
        raise ModelLoadError(
            f"The clusters of “{name}” are not colours: each is three numbers from -1 to 1 (red, green, blue)."
        )
    if not all(-1.01 <= value <= 1.01 for colour in clusters for value in colour):
        raise ModelLoadError(
            f"The clusters of “{name}” hold values that are no colours (NaN, infinite, or beyond -1 to 1); download "
            f"{PREPROCESSOR} again."
        )
    if len(clusters) != vocab_size - 1:
        raise ModelLoadError(
            f"“{name}” has {len(clusters):,} colours, but its model knows {vocab_size - 1:,} and a start; "
            f"config.json and {PREPROCESSOR} do not belong together."
        )
    return np.array(clusters, np.float32)


def _size(name: str, size: Any, positions: int) -> tuple[int, int]:
    """Of the pictures: what the file says, else as square as the model's positions allow."""
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
    else:
        height = width = size
    if height is None and width is None:
        return canvas_of(positions)
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in (height, width)):
        raise ModelLoadError(f"The size in the {PREPROCESSOR} of “{name}” is not a height and a width.")
    assert isinstance(height, int)
    assert isinstance(width, int)
    if height * width > positions:
        raise ModelLoadError(
            f"The pictures of “{name}” have {height:,} × {width:,} pixels, but its model has only {positions:,} "
            "positions; they do not belong together."
        )
    return height, width


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
