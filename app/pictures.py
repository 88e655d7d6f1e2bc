"""Pictures from files, in any format that Qt reads, and the samples that travel with the program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QImage, QImageReader

from app.state.texts import tr
from core.contract import MOST_MEGAPIXELS, Picture, PromptError, too_large

SAMPLES = Path(__file__).parents[1] / "resources" / "samples"
LONGEST_NAME = 60
MOST_DECODED_MB = MOST_MEGAPIXELS * 8  # at 16 bits a channel; Qt would stop at 256
APNG_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture with what was done to it, or the sentence that says why there is none."""

    title: str
    picture: Picture | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""


@cache
def suffixes() -> frozenset[str]:
    """Of the files that Qt reads, with the dot."""
    return frozenset(f".{bytes(name.data()).decode()}" for name in QImageReader.supportedImageFormats())


def read_file(path: Path) -> Opened:
    """The picture in a file: its first frame, turned as its camera says, transparent parts on white.

    May be called in any thread. Its size is known before anything is decoded.
    """
    name = path.name[:LONGEST_NAME]
    unreadable = tr("“{0}” cannot be read as a picture: it is damaged or of an unknown format.").format(name)
    if not path.is_file():
        return Opened(name, problem=tr("“{0}” is not there, or is no regular file.").format(name))
    reader = QImageReader(str(path))
    reader.setDecideFormatFromContent(True)
    reader.setAutoTransform(True)
    size = reader.size()
    if size.isValid() and size.width() * size.height() > MOST_MEGAPIXELS * 1_000_000:
        return Opened(name, problem=too_large(size.height(), size.width()))
    kind = bytes(reader.format().data()).decode()
    animated = (reader.supportsAnimation() and reader.imageCount() != 1) or (kind == "png" and _is_apng(path))
    QImageReader.setAllocationLimit(MOST_DECODED_MB)
    image = QImage() if kind == "jpeg" and _is_cut(path) else reader.read()
    if image.isNull():
        return Opened(name, problem=unreadable)
    notes = [tr("The first frame of an animation.")] if animated else []
    pixels = pixels_of(image)
    if (pixels[:, :, 3] < 255).any():
        notes.append(tr("Transparent parts are white."))
    try:
        return Opened(name, Picture.of(pixels), tuple(notes))
    except PromptError as error:
        return Opened(name, problem=error.message)


def _is_apng(path: Path) -> bool:
    """Whether a PNG says before its pixels that it is animated; Qt shows its first frame and does not tell."""
    with path.open("rb") as file:
        head = file.read(APNG_HEAD_BYTES)
    return b"acTL" in head.split(b"IDAT", 1)[0]


def _is_cut(path: Path) -> bool:
    """Whether the last scan of a JPEG has no end; Qt makes the rest grey and does not tell."""
    data = path.read_bytes()
    return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def pixels_of(image: QImage) -> NDArray[np.uint8]:
    """An image as (H, W, 4) RGBA, copied."""
    plain = image.convertToFormat(QImage.Format.Format_RGBA8888)
    height, width, line = plain.height(), plain.width(), plain.bytesPerLine()
    flat = np.frombuffer(plain.constBits(), np.uint8, height * line)
    return flat.reshape(height, line)[:, : 4 * width].reshape(height, width, 4).copy()


@cache
def samples() -> tuple[Opened, ...]:
    """The pictures of `resources/samples`, by name; a few of 16 × 16 pixels."""
    found = (read_file(path) for path in sorted(SAMPLES.glob("*.png")))
    return tuple(Opened(one.title.removesuffix(".png"), one.picture) for one in found if one.picture is not None)
