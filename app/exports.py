"""Pictures as files: one painting, several side by side, or how a painting came about. For any thread."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QBuffer, QByteArray, QIODevice
from PySide6.QtGui import QImage

from app.files import write_bytes
from app.state.texts import tr
from app.widgets.pixel_words import packed_rgb

SIDE_PX = 512  # of a picture in a file, about
GAP_PX = 16
MOST_FRAMES = 300
FRAME_MS, LAST_FRAME_MS = 40, 1500
MOST_GIF_COLOURS = 256
ANIMATIONS = (".gif", ".png", ".apng")
Rgb = NDArray[np.uint8]  # (H, W, 3)


def enlarged(pixels: Rgb, side_px: int = SIDE_PX) -> Rgb:
    """Every pixel as a square, so that the longer side has about `side_px`; nothing is smoothed."""
    scale = max(1, round(side_px / max(pixels.shape[:2])))
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def side_by_side(pictures: Sequence[Rgb]) -> Rgb:
    """Pictures of one size in a grid as square as may be, on white."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    large = [enlarged(p, SIDE_PX // 2) for p in pictures]
    height, width = large[0].shape[:2]
    sheet = np.full((rows * (height + GAP_PX) + GAP_PX, columns * (width + GAP_PX) + GAP_PX, 3), 255, np.uint8)
    for number, one in enumerate(large):
        row, column = divmod(number, columns)
        top, left = GAP_PX + row * (height + GAP_PX), GAP_PX + column * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = one
    return sheet


def png(pixels: Rgb) -> bytes:
    """As a PNG file."""
    height, width = pixels.shape[:2]
    return png_of(QImage(np.ascontiguousarray(pixels).data, width, height, 3 * width, QImage.Format.Format_RGB888))


def png_of(image: QImage) -> bytes:
    """An image as a PNG file."""
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    image.save(buffer, "PNG")  # type: ignore[call-overload]
    return bytes(data.data())


def frames(colours: Rgb, given: int, unpainted: tuple[int, int, int]) -> list[Rgb]:
    """The painting after every pixel (or every few) that was painted; colours: (H, W, 3) of the whole."""
    height, width = colours.shape[:2]
    flat, total = colours.reshape(-1, 3), height * width
    step = max(1, math.ceil((total - given) / MOST_FRAMES))
    found = []
    for done in [*range(given, total, step), total]:
        frame = flat.copy()
        frame[done:] = unpainted
        found.append(frame.reshape(height, width, 3))
    return found


def animation(path: Path, pictures: Sequence[Rgb]) -> bytes:
    """As an animated GIF or, by the name of the file, PNG. Raises `ImportError` without Pillow."""
    from PIL import Image

    large = [enlarged(p, SIDE_PX // 2) for p in pictures]
    times = [FRAME_MS] * (len(large) - 1) + [LAST_FRAME_MS]
    out = io.BytesIO()
    if path.suffix.lower() == ".gif":
        images = _indexed(large) or [Image.fromarray(p).quantize(MOST_GIF_COLOURS) for p in large]
        images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    else:
        images = [Image.fromarray(p) for p in large]
        images[0].save(out, "PNG", save_all=True, append_images=images[1:], duration=times, loop=0)
    return out.getvalue()


def _indexed(pictures: Sequence[Rgb]) -> list[Any]:
    """Pictures that share one palette, to the pixel; none where they have more colours than a GIF can hold."""
    from PIL import Image

    words = [packed_rgb(p) for p in pictures]
    colours = np.unique(np.concatenate([np.unique(w) for w in words]))
    if len(colours) > MOST_GIF_COLOURS:
        return []
    palette = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8).tobytes()
    images = [Image.fromarray(np.searchsorted(colours, w).astype(np.uint8), "P") for w in words]
    for image in images:
        image.putpalette(palette)
    return images


def write_picture(path: Path, pixels: Rgb) -> str:
    """Write a PNG; what went wrong in a sentence, else nothing."""
    if path.suffix.lower() != ".png":
        return tr("Pictures are saved as PNG, to the pixel; give “{0}” the ending .png.").format(path.name)
    return _written(path, lambda: png(pixels))


def write_animation(path: Path, pictures: Sequence[Rgb]) -> str:
    """Write an animation; what went wrong in a sentence, else nothing."""
    if path.suffix.lower() not in ANIMATIONS:
        return tr("Animations are saved as GIF or PNG; give “{0}” one of their endings.").format(path.name)
    return _written(path, lambda: animation(path, pictures))


def _written(path: Path, make: Callable[[], bytes]) -> str:
    try:
        data = make()
        write_bytes(path, data)
    except ImportError:
        return tr("Animations take Pillow; run “pip install 'tokenglass[image]'”.")
    except OSError as problem:
        return tr("“{0}” cannot be written: {1}.").format(path.name, problem.strerror or problem)
    return ""
