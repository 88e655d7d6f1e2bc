"""What Qt does not say of a picture file: that it was cut, that it moves, how the camera was held. For any thread.

Formats: JPEG (ITU T.81, Annex B), GIF89a, BMP, PNG (third edition), WebP container, Exif 2.3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

KINDS = frozenset({"jpeg", "gif", "bmp", "png", "webp"})
MOST_BYTES = 256 << 20  # of a file that are looked at
ORIENTATION = 0x0112
_END, _START, _ALONE = 0xD9, 0xD8, 0x01
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # FF 00 and restarts belong to a scan
_FILE, _INFO = struct.Struct("<2sI4xI"), struct.Struct("<IiiHHI")


def is_cut(kind: str, data: bytes) -> bool:
    """Whether a file ends before its first picture does; Qt leaves the rest blank and does not tell."""
    try:
        match kind:
            case "jpeg":
                return _jpeg_is_cut(data)
            case "gif":
                return _gif_is_cut(data)
            case "bmp":
                return _bmp_is_cut(data)
    except (IndexError, struct.error):  # not even its header is whole
        return True
    return False


def _jpeg_is_cut(data: bytes) -> bool:
    """From segment to segment up to the end; what stands behind it (phones append films) is not looked at."""
    at = 0
    while (found := _MARKER.search(data, at)) is not None:
        at, marker = found.end(), found[1][0]
        if marker == _END:
            return False
        if marker not in (_START, _ALONE):
            at += int.from_bytes(data[at : at + 2], "big")
    return True


def _gif_is_cut(data: bytes) -> bool:
    at = 13 + _colours_bytes(data[10])
    while data[at] == 0x21:  # an extension
        at = _after_blocks(data, at + 2)
    if data[at] == 0x2C:  # the first picture
        at = _after_blocks(data, at + 11 + _colours_bytes(data[at + 9]))
    return at > len(data)


def _colours_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1


def _bmp_is_cut(data: bytes) -> bool:
    _, size, offset = _FILE.unpack_from(data)
    header, width, height, _, bits, packing = _INFO.unpack_from(data, 14)
    if header < 40:  # of OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    if packing in (1, 2):  # run lengths: only the file itself says how long it is
        return int(size) > len(data)
    end: int = offset + (width * bits + 31) // 32 * 4 * abs(height)
    return end > len(data)


def moves(kind: str, data: bytes) -> bool:
    """Whether a PNG says before its pixels that it is animated; Qt shows its first frame and does not tell."""
    if kind == "png":
        for name, _, _ in _png_chunks(data):
            if name in (b"acTL", b"IDAT"):
                return name == b"acTL"
    return False


def orientation(kind: str, data: bytes) -> int:
    """How the camera was held, a number from 1 (upright) to 8, of a PNG or WebP; Qt knows that of JPEG and TIFF."""
    if kind == "png":
        named = [data[start:stop] for name, start, stop in _png_chunks(data) if name == b"eXIf"]
    elif kind == "webp":
        named = [data[start:stop] for name, start, stop in _webp_chunks(data) if name == b"EXIF"]
    else:
        return 1
    try:
        return _of_exif(named[0].removeprefix(b"Exif\0\0")) if named else 1
    except struct.error:
        return 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stop of each."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, at + 8 + length
        at += length + 12


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2


def _of_exif(exif: bytes) -> int:
    order = ">" if exif[:2] == b"MM" else "<"
    (first,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, first)
    for entry in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, first + 2 + 12 * entry)
        if tag == ORIENTATION:
            return value if 1 <= value <= 8 else 1
    return 1


def upright(pixels: NDArray[np.uint8], held: int) -> NDArray[np.uint8]:
    """Pixels (H, W, C) turned and mirrored as their orientation asks."""
    quarters = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(held, 0)  # anticlockwise
    turned = np.rot90(pixels, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if held in (2, 4, 5, 7) else turned)
