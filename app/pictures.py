"""Pictures from files, in any format that Qt reads, and the samples that travel with the program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QImage, QImageIOHandler, QImageReader

from app import picture_checks, vector_pictures
from app.state.texts import tr
from core.contract import MOST_MEGAPIXELS, Picture, PromptError, too_large

SAMPLES = Path(__file__).parents[1] / "resources" / "samples"
LONGEST_NAME = 60
MOST_DECODED_MB = MOST_MEGAPIXELS * 8  # at 16 bits a channel; Qt would stop at 256
ICONS = ("ico", "icns")


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


def is_picture(path: Path) -> bool:
    """Whether the beginning of a file is that of a picture, whatever its name."""
    return path.is_file() and not QImageReader.imageFormat(str(path)).isEmpty()


def of_image(image: QImage, name: str) -> Opened:
    """The picture in an image that came without a file. May be called in any thread."""
    if image.isNull():
        return Opened(name, problem=tr("What was dropped holds no picture."))
    if image.width() * image.height() > MOST_MEGAPIXELS * 1_000_000:
        return Opened(name, problem=too_large(image.height(), image.width()))
    return _opened(name, pixels_of(image), [])


def _opened(name: str, pixels: NDArray[np.uint8], notes: list[str]) -> Opened:
    """Raises `PromptError`."""
    if (pixels[:, :, 3] < 255).any():
        notes.append(tr("Transparent parts are white."))
    return Opened(name, Picture.of(pixels), tuple(notes))


def read_file(path: Path) -> Opened:
    """The picture in a file: its first frame, turned as its camera says, transparent parts on white.

    May be called in any thread. Its size is known before anything is decoded.
    """
    name = path.name[:LONGEST_NAME]
    unreadable = tr("“{0}” cannot be read as a picture: it is damaged or of an unknown format.").format(name)
    if not path.is_file():
        return Opened(name, problem=tr("“{0}” is not there, or is no regular file.").format(name))
    kind = bytes(QImageReader.imageFormat(str(path)).data()).decode()
    notes = list[str]()
    try:
        if kind in vector_pictures.KINDS:
            pixels = vector_pictures.draw(path)
        else:
            pixels, moves = _raster(path, kind)
            notes = [tr("The first frame of an animation.")] if moves else []
        return _opened(name, pixels, notes)
    except PromptError as error:
        return Opened(name, problem=error.message)
    except (_UnreadableError, vector_pictures.NotDrawnError) as error:
        return Opened(name, problem=str(error) or unreadable)
    except OSError as error:
        return Opened(name, problem=tr("“{0}” cannot be read: {1}.").format(name, error.strerror or error))


class _UnreadableError(Exception):
    """The file is damaged or of an unknown format."""


def _raster(path: Path, kind: str) -> tuple[NDArray[np.uint8], bool]:
    """RGBA pixels and whether more frames follow. Raises `PromptError`, `_UnreadableError`."""
    reader = QImageReader(str(path))
    reader.setDecideFormatFromContent(True)
    reader.setAutoTransform(True)
    if kind in ICONS and reader.imageCount() > 1:
        _choose_largest(reader)
    size = reader.size()
    if size.isValid() and size.width() * size.height() > MOST_MEGAPIXELS * 1_000_000:
        raise PromptError(too_large(size.height(), size.width()))
    with path.open("rb") as file:
        data = file.read(picture_checks.MOST_BYTES) if kind in picture_checks.KINDS else b""
    moves = (reader.supportsAnimation() and reader.imageCount() != 1) or picture_checks.moves(kind, data)
    held = picture_checks.orientation(kind, data)
    if reader.transformation() != QImageIOHandler.Transformation.TransformationNone:
        held = 1  # Qt turns it itself
    QImageReader.setAllocationLimit(MOST_DECODED_MB)
    image = QImage() if picture_checks.is_cut(kind, data) else reader.read()
    if image.isNull():
        raise _UnreadableError
    return picture_checks.upright(pixels_of(image), held), moves


def _choose_largest(reader: QImageReader) -> None:
    """An icon file holds the same in several sizes."""
    areas = []
    for number in range(reader.imageCount()):
        reader.jumpToImage(number)
        areas.append(reader.size().width() * reader.size().height())
    reader.jumpToImage(int(np.argmax(areas)))


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
