"""Pictures as plain data, and what an image model knows of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.contract.errors import PromptError

MOST_MEGAPIXELS = 50
RgbArray = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True, slots=True)
class Picture:
    """Opaque 8-bit RGB pixels, row by row from the top left: `height` · `width` · 3 bytes."""

    height: int
    width: int
    rgb: bytes

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise PromptError("The picture is empty; choose another one.")
        if self.height * self.width > MOST_MEGAPIXELS * 1_000_000:
            raise PromptError(too_large(self.height, self.width))
        if len(self.rgb) != 3 * self.height * self.width:
            raise PromptError(
                f"A picture of {self.width} × {self.height} pixels takes {3 * self.height * self.width:,} bytes, "
                f"but {len(self.rgb):,} were given."
            )

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Picture:
        """From (H, W, 3) RGB, (H, W, 4) RGBA, laid on white, or (H, W) grey. Raises `PromptError`."""
        if pixels.dtype != np.uint8:
            raise PromptError(f"Pixels are numbers from 0 to 255 (uint8), not {pixels.dtype}.")
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
            raise PromptError(f"A picture is an array (height, width, 3 or 4), not {pixels.shape}.")
        if pixels.shape[0] * pixels.shape[1] > MOST_MEGAPIXELS * 1_000_000:
            raise PromptError(too_large(pixels.shape[0], pixels.shape[1]))
        if pixels.shape[2] == 4:
            pixels = _on_white(pixels)
        return cls(pixels.shape[0], pixels.shape[1], np.ascontiguousarray(pixels).tobytes())

    def array(self) -> RgbArray:
        """The pixels (H, W, 3), read-only."""
        return np.frombuffer(self.rgb, np.uint8).reshape(self.height, self.width, 3)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFacts:
    """What an image model paints: pictures of `height` × `width` pixels in the colours of `palette`, row by row.

    palette: (C, 3) uint8; token id c is its colour c. A sequence begins with `sos_token_id`; the token at position
    p is pixel p - 1.
    """

    height: int
    width: int
    palette: NDArray[np.uint8]
    sos_token_id: int

    @property
    def pixels(self) -> int:
        """Pixels of a picture."""
        return self.height * self.width

    def pixel(self, position: int) -> tuple[int, int] | None:
        """Row and column of the token at a position; None for the start token and beyond the picture."""
        return divmod(position - 1, self.width) if 0 < position <= self.pixels else None

    def rgb(self, token_id: int) -> tuple[int, int, int] | None:
        """The colour of a token; None for the start token."""
        if not 0 <= token_id < len(self.palette):
            return None
        red, green, blue = self.palette[token_id].tolist()
        return red, green, blue

    def paint(self, token_ids: Sequence[int], unpainted: tuple[int, int, int] = (128, 128, 128)) -> RgbArray:
        """The picture (H, W, 3) of a sequence from its first position on, the pixels it lacks in `unpainted`."""
        canvas = np.empty((self.pixels, 3), np.uint8)
        canvas[:] = unpainted
        ids = np.array(token_ids[1 : self.pixels + 1], np.int64)
        known = (ids >= 0) & (ids < len(self.palette))
        canvas[: len(ids)][known] = self.palette[ids[known]]
        return canvas.reshape(self.height, self.width, 3)


@dataclass(frozen=True, slots=True)
class PictureQuery:
    """How surprising a whole picture is to the loaded model; it needs no run."""

    model_id: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class PictureAnswer:
    """The picture as the model sees it, and what each pixel costs after those before it.

    token_ids (H, W): the colours. surprisal_bits (H, W) float32: -log2 p of each; their mean is the picture's bits
    per pixel, which is the model's loss in bits.
    """

    query: PictureQuery
    token_ids: NDArray[np.int64]
    surprisal_bits: NDArray[np.float32]

    @property
    def bits_per_pixel(self) -> float:
        """The mean surprisal."""
        return float(self.surprisal_bits.mean())


def too_large(height: int, width: int) -> str:
    """The sentence for a picture beyond the limit."""
    return (
        f"The picture has {height * width / 1e6:,.0f} megapixels ({width:,} × {height:,}), and at most "
        f"{MOST_MEGAPIXELS} can be taken; make it smaller."
    )


def _on_white(pixels: NDArray[np.uint8]) -> RgbArray:
    alpha = pixels[:, :, 3:].astype(np.uint16)
    mixed: RgbArray = ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return mixed
