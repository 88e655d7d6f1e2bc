"""The colours of the frame and of the fixed categories. Data colours (probability, attention) are in `colormaps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ThemeName = Literal["light", "dark", "contrast"]


@dataclass(frozen=True, slots=True)
class Palette:
    """Every colour the window uses, as `#RRGGBB`. Text colours keep ≥ 4.5:1 on `surface` and `window`.

    key, value: the K and V of the cache, everywhere (bars, legends, text).
    muted: fills without meaning of their own: slider grooves, raw (before the pipeline) bars.
    bar: final (after the pipeline) bars of tokens that were not chosen; the chosen one is `accent`.
    categorical: colour-blind-safe (Okabe-Ito order), for branches and series.
    """

    name: ThemeName
    dark: bool
    window: str
    surface: str
    raised: str
    line: str
    grid: str
    text: str
    secondary: str
    accent: str
    accent_soft: str
    on_accent: str
    muted: str
    bar: str
    key: str
    value: str
    warning: str
    error: str
    categorical: tuple[str, ...]
    token_strength: float  # share of the map in a token's fill; the rest is `surface`, so that text stays readable


LIGHT = Palette(
    name="light",
    dark=False,
    window="#F6F7F9",
    surface="#FFFFFF",
    raised="#EEF2FA",
    line="#DADDE3",
    grid="#ECEEF1",
    text="#1B1E24",
    secondary="#5B6270",
    accent="#2A68D4",
    accent_soft="#E6EEFC",
    on_accent="#FFFFFF",
    muted="#C9D3E6",
    bar="#8FA3C8",
    key="#2F6DB8",
    value="#A9611B",
    warning="#8A5A00",
    error="#B3261E",
    categorical=("#2A68D4", "#A9611B", "#00796B", "#9C4A86", "#5C6B00", "#B3261E", "#1B7FA8", "#5B6270"),
    token_strength=0.40,
)

DARK = Palette(
    name="dark",
    dark=True,
    window="#14161A",
    surface="#1C1F25",
    raised="#252A33",
    line="#31363F",
    grid="#262A31",
    text="#E7E9EE",
    secondary="#9AA2B1",
    accent="#7FA8FF",
    accent_soft="#28344F",
    on_accent="#10131A",
    muted="#3A4354",
    bar="#8FA3C8",
    key="#5B93DB",
    value="#D98A3D",
    warning="#E0B040",
    error="#FF8A80",
    categorical=("#7FA8FF", "#D98A3D", "#3FB8A5", "#D98CC0", "#B5BF4B", "#FF8A80", "#6CC5E8", "#9AA2B1"),
    token_strength=0.35,
)

HIGH_CONTRAST = Palette(
    name="contrast",
    dark=True,
    window="#000000",
    surface="#000000",
    raised="#1A1A1A",
    line="#8C8C8C",
    grid="#4D4D4D",
    text="#FFFFFF",
    secondary="#D9D9D9",
    accent="#FFD60A",
    accent_soft="#3D3500",
    on_accent="#000000",
    muted="#5C5C5C",
    bar="#C8C8C8",
    key="#6CB6FF",
    value="#FFA94D",
    warning="#FFD60A",
    error="#FF9C94",
    categorical=("#FFD60A", "#6CB6FF", "#FFA94D", "#3FE0C5", "#FF9CDB", "#D2E04B", "#FF9C94", "#D9D9D9"),
    token_strength=0.35,
)

PALETTES: dict[ThemeName, Palette] = {p.name: p for p in (LIGHT, DARK, HIGH_CONTRAST)}
