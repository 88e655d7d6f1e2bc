"""Dummy images for ImageGPT: random pixels, each the number of the nearest colour cluster of the model."""

from __future__ import annotations

import numpy as np
import torch

from core.contract.errors import ExportError
from core.domains.image import ImageDomain
from core.models.loaded import LoadedModel

IMAGE_SIDE = 32  # as transformers 4 made them


def dummy_images(loaded: LoadedModel, batch: int, pixels: int) -> torch.Tensor:
    """(B, pixels) ids of random images, the same ones every time."""
    if not isinstance(loaded.text, ImageDomain):
        raise ExportError(f"{loaded.info.title} has no colours, so no picture can be made for it.")
    colours = np.random.default_rng(0).integers(0, 256, (batch, pixels, 3), dtype=np.uint8)
    return torch.from_numpy(loaded.text.quantise(colours))
