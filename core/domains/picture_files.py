"""Picture files: reading through Pillow, where it is installed, and writing PNG.

Writing needs nothing but zlib: a PNG of plain RGB is a header, the lines, and an end. Reading means dozens of formats
and hostile files, which is Pillow's business; the window hands in pixels that Qt has read, so only scripts need it.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract.errors import PromptError
from core.contract.picture import MOST_MEGAPIXELS, Picture, RgbArray, too_large

_ANIMATED = frozenset({"GIF", "PNG", "WEBP"})
_SIXTEEN_BITS = frozenset({"PNG", "PPM"})  # whose greys Pillow may hold as 32-bit numbers


def read_picture(path: Path) -> Picture:
    """The first frame of a file, transparent parts on white, turned as its camera says. Raises `PromptError`."""
    return read_and_note(path)[0]


def read_and_note(path: Path) -> tuple[Picture, tuple[str, ...]]:
    """The same, and what was done to it. Raises `PromptError`."""
    try:
        from PIL import Image
    except ImportError:
        raise PromptError("Reading picture files takes Pillow; run “pip install 'tokenglass[image]'”.") from None
    name = path.name[:80]
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise PromptError(f"“{name}” is no regular file, so it cannot be read as a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the sentence below says it
            file = Image.open(path)
        with file:
            width, height = file.size  # from the header: nothing is decoded yet
            if width * height > MOST_MEGAPIXELS * 1_000_000:
                raise PromptError(too_large(height, width))
            notes = ("The first frame of an animation.",) if _is_animated(file) else ()
            pixels = of_image(file, name)
            clear = pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[:, :, 3] < 255).any()
            return Picture.of(pixels), (*notes, "Transparent parts are white.") if clear else notes
    except PromptError:
        raise
    except FileNotFoundError:
        raise PromptError(f"There is no file “{path}”.") from None
    except Image.DecompressionBombError:
        raise PromptError(f"“{name}” unpacks to far more pixels than it should have; it is not opened.") from None
    except Exception as error:  # every format has its own way to be broken
        raise PromptError(
            f"“{name}” cannot be read as a picture: it is damaged or of an unknown format.", detail=repr(error)
        ) from error


def _is_animated(image: Any) -> bool:
    return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))


def of_image(image: Any, name: str) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) of a Pillow image, turned as its camera says. Raises `PromptError`.

    16-bit greys are scaled, which Pillow's own conversion clips instead.
    """
    from PIL import ImageOps

    turned: Any = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format in _SIXTEEN_BITS):
        grey = ((np.asarray(turned).astype(np.uint32) + 128) // 257).astype(np.uint8)  # rounded, as Qt does
        return np.repeat(grey[:, :, None], 3, axis=2)
    if turned.mode in ("I", "F"):
        raise PromptError(
            f"“{name}” holds 32-bit numbers, of which nobody says what is white; save it with 8 or 16 bits a channel."
        )
    return np.asarray(turned.convert("RGBA"))


def write_png(path: Path, pixels: RgbArray) -> None:
    """Write (H, W, 3) as an 8-bit RGB PNG (ISO/IEC 15948). Raises `OSError`."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def enlarged(pixels: RgbArray, scale: int) -> RgbArray:
    """Every pixel as a square of `scale` × `scale`."""
    large: RgbArray = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    return large


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
