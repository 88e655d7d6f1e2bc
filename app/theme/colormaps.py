"""Colours of quantities: one sequential map (probability and attention alike), one diverging map, token fills."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from app.theme.palette import Palette

Rgb = NDArray[np.uint8]

# cividis: perceptually uniform, and the same for readers with and without a colour-vision deficiency.
_CIVIDIS = (
    "00204d00214e00225000225200235300245500255700255800265a00275c00275e002860002961002a63002a65002b67"
    "002c69002c6a002d6c002e6e002e6f002f6f002f6f00306f00306f00316f00326f00336f00336f00346f00356e01366e"
    "06366e0b376e0f386e12386d15396d183a6d1a3b6d1d3b6d1f3c6d213d6d233e6c243e6c263f6c28406c2a406c2b416c"
    "2d426c2e436c30436c31446b32456b34456b35466b36476b38486b39486b3a496b3b4a6b3d4a6b3e4b6b3f4c6b404d6b"
    "414d6b424e6b434f6b444f6b46506b47516b48526b49526b4a536b4b546c4c546c4d556c4e566c4f576c50576c51586c"
    "52596c53596c545a6c555b6d565c6d575c6d585d6d595e6d595f6d5a5f6d5b606e5c616e5d616e5e626e5f636e60646f"
    "61646f62656f63666f64666f646770656870666970676970686a71696b716a6c716b6c716c6d726c6e726d6e726e6f73"
    "6f70737071737171747272747273747374757474757575757676767777767877777878777979777a7a787b7a787c7b78"
    "7d7c787e7d787f7d78807e79817f798280798380798481798482798583798683798784798885798986798a87798b8779"
    "8c88798d89798e8a798f8a79908b79918c78928d78938e78948e78958f789690789791789892789992789a93779b9477"
    "9c95779d96779e96779f9777a09877a19976a29a76a39a76a49b76a59c76a69d75a89e75a99f75aa9f75aba074aca174"
    "ada274aea374afa473b0a473b1a573b2a672b3a772b4a872b5a971b6a971b7aa71b8ab70b9ac70baad70bbae6fbcaf6f"
    "beaf6fbfb06ec0b16ec1b26dc2b36dc3b46dc4b56cc5b56cc6b66bc7b76bc8b86ac9b96acbba69ccbb69cdbc68cebc68"
    "cfbd67d0be67d1bf66d2c066d3c165d4c264d6c364d7c463d8c563d9c562dac661dbc761dcc860ddc95fdeca5fe0cb5e"
    "e1cc5de2cd5ce3ce5ce4cf5be5d05ae6d159e8d259e9d358ead357ebd456ecd555edd654efd753f0d852f1d951f2da50"
    "f3db4ff4dc4ef6dd4df7de4cf8df4bf9e04afae149fbe248fde346fee445ffe544ffe642ffe742ffe843ffe944ffea46"
)
_COOL, _MIDDLE, _WARM = (33, 95, 172), (238, 240, 243), (176, 92, 18)
_COOL_ON_DARK, _MIDDLE_ON_DARK, _WARM_ON_DARK = (111, 168, 255), (46, 50, 58), (240, 150, 62)


@cache
def sequential() -> Rgb:
    """The map of probability and attention, (256, 3) uint8, dark blue = 0, yellow = 1. Read-only."""
    return np.frombuffer(bytes.fromhex("".join(_CIVIDIS)), dtype=np.uint8).reshape(256, 3)


@cache
def diverging(dark: bool = False) -> Rgb:
    """The map of differences, (256, 3) uint8, blue below, neutral at index 127.5, orange above. Read-only.

    dark: the neutral colour is as dark as the surface of a dark theme.
    """
    at = np.linspace(0.0, 1.0, 256)
    points = (_COOL_ON_DARK, _MIDDLE_ON_DARK, _WARM_ON_DARK) if dark else (_COOL, _MIDDLE, _WARM)
    channels = [np.interp(at, (0.0, 0.5, 1.0), ends) for ends in zip(*points, strict=True)]
    lut = np.stack(channels, axis=1).round().astype(np.uint8)
    lut.setflags(write=False)
    return lut


def rgb(colour: str) -> tuple[int, int, int]:
    """`#RRGGBB` as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@cache
def token_fills(palette: Palette) -> Rgb:
    """The sequential map blended towards the surface, (256, 3) uint8: any text in `palette.text` stays ≥ 4.5:1."""
    surface = np.array(rgb(palette.surface), dtype=np.float64)
    share = palette.token_strength
    lut = (sequential() * share + surface * (1.0 - share)).round().astype(np.uint8)
    lut.setflags(write=False)
    return lut


def indices(values: NDArray[np.floating]) -> NDArray[np.intp]:
    """Values in [0, 1] as indices into a map; NaN counts as 0, the rest is clipped."""
    scaled: NDArray[np.intp] = (np.nan_to_num(np.clip(values, 0.0, 1.0)) * 255.0 + 0.5).astype(np.intp)
    return scaled


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255.0 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Contrast ratio in [1, 21], https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_on(fill: tuple[int, int, int]) -> str:
    """The more readable of black and white for text on `fill`: 4.5:1 at least."""
    dark, light = "#000000", "#FFFFFF"
    return dark if contrast(rgb(dark), fill) >= contrast(rgb(light), fill) else light
