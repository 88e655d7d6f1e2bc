"""Pixels as tokens: what a token id is for people, for one palette (ImageGPT: Chen et al. 2020).

A picture is read row by row from the top left. Each pixel is the nearest of the palette's colours, and its number is
the token id; one more id, after the colours, is the start of a sequence (SOS).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from core.contract.errors import PromptError
from core.contract.picture import ImageFacts, Picture
from core.contract.specs import ChatMessage
from core.domains.domain import Cancelled, never
from core.domains.resampling import BILINEAR, resized
from core.domains.text import nameless_piece

_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")
START = "⟨start⟩"


class ImageDomain:
    """Encodes, decodes and shows tokens of one palette."""

    tokenizer = None
    has_chat_template = False

    confined = False

    def __init__(self, clusters: NDArray[np.float32], height: int, width: int, resample: int = BILINEAR) -> None:
        """clusters: (C, 3) colours in [-1, 1]. resample: number of the filter, see `resampling`."""
        self.clusters = torch.from_numpy(np.array(clusters, np.float32))
        palette = np.clip(np.rint(127.5 * (np.asarray(clusters, np.float64) + 1.0)), 0, 255).astype(np.uint8)
        palette.flags.writeable = False
        self.resample = resample
        self.image: ImageFacts | None = None
        self._resized: tuple[Picture, NDArray[np.uint8]] | None = None
        self.facts = self.image = ImageFacts(height, width, palette, len(palette))
        self._pieces = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist()] + [START]

    # -- pictures

    def quantise(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The nearest colour of each pixel (..., 3) → (...), as `ImageGPTImageProcessor` finds it."""
        values = torch.from_numpy(np.array(pixels, np.float32)) / 127.5 - 1.0
        flat = values.reshape(-1, 3)
        # Exact distances: the fast way through a matrix product rounds, and then ties fall otherwise.
        distances = torch.cdist(flat, self.clusters, compute_mode="donot_use_mm_for_euclid_dist")
        return np.asarray(distances.argmin(-1).numpy(), np.int64).reshape(pixels.shape[:-1])

    def resized(self, picture: Picture) -> NDArray[np.uint8]:
        """The picture in the model's size (H, W, 3), not cropped, as `ImageGPTImageProcessorPil` does it."""
        last = self._resized
        if last is None or last[0] is not picture:  # it is asked for again with every row more that is given
            last = picture, resized(picture.array(), (self.facts.height, self.facts.width), self.resample)
            self._resized = last
        return last[1]

    def encode_picture(self, picture: Picture) -> list[int]:
        """SOS and all pixels, 1 + height · width ids."""
        pixels: list[int] = self.quantise(self.resized(picture)).reshape(-1).tolist()
        return [self.facts.sos_token_id, *pixels]

    # -- as text

    def encode(self, text: str, *, add_special_tokens: bool = True, cancelled: Cancelled = never) -> list[int]:
        """Colours written as #rrggbb, each the nearest of the palette. Raises `PromptError`."""
        wrong = next((part for part in text.split() if not _COLOUR.fullmatch(part)), None)
        if wrong is not None:
            raise PromptError(
                f"“{wrong[:40]}” is no colour; this is an image model, so give a picture, or pixels such as #ff0000."
            )
        colours = np.array([list(bytes.fromhex(part[1:])) for part in text.split()], np.uint8).reshape(-1, 3)
        start = [self.facts.sos_token_id] if add_special_tokens else []
        ids: list[int] = self.quantise(colours).tolist()
        return start + ids

    def render_chat(self, messages: Sequence[ChatMessage], cancelled: Cancelled = never) -> str:
        """Always raises `PromptError`."""
        raise PromptError("An image model cannot chat; give it a picture.")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The colours of `ids`, a space after each."""
        return "".join(f"{self.piece(i)} " for i in ids if not (skip_special_tokens and self.facts.rgb(i) is None))

    def token_bytes(self, token_id: int) -> bytes:
        """Red, green and blue; nothing for SOS."""
        return bytes(self.facts.rgb(token_id) or ())

    def piece(self, token_id: int) -> str:
        """The colour, such as #ff8000."""
        return self._pieces[token_id] if 0 <= token_id < len(self._pieces) else nameless_piece(token_id)

    def vocabulary(self) -> dict[str, int] | None:
        """None: two colours may look the same."""
        return None

    def stream(self, prompt_ids: Sequence[int] = ()) -> PixelStream:
        """Every pixel at once."""
        return PixelStream(self)


class PixelStream:
    """Each pixel's colour as soon as it is there."""

    def __init__(self, domain: ImageDomain) -> None:
        self._domain = domain

    def push(self, token_id: int) -> str:
        """The colour and a space."""
        return self._domain.decode([token_id], skip_special_tokens=True)

    def flush(self) -> str:
        """Nothing is ever held back."""
        return ""

    def fork(self) -> Self:
        """The same: it remembers nothing."""
        return self


def colour_cube(count: int) -> NDArray[np.float32]:
    """`count` colours (C, 3) in [-1, 1], spread evenly over the RGB cube, for models that learned none."""
    side = 1
    while side**3 < count:
        side += 1
    numbers = np.linspace(0, side**3 - 1, count).round().astype(np.int64)
    levels = np.stack([numbers // side**2, numbers // side % side, numbers % side], axis=1)
    cube: NDArray[np.float32] = (levels / max(1, side - 1) * 2 - 1).astype(np.float32)
    return cube


def canvas_of(pixels: int) -> tuple[int, int]:
    """Height and width of a canvas of so many pixels, as square as whole rows allow."""
    height = next(side for side in range(int(pixels**0.5), 0, -1) if pixels % side == 0)
    return height, pixels // height
