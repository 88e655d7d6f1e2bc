"""Presets on the disk: one JSON file each, as `GenerationConfig.to_json_file` writes them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote

import platformdirs

from app.files import read_text, write_text
from app.state import presets
from app.state.state import Preset
from core.contract import ParameterError

LONGEST_NAME = 60
_RESERVED = '%<>:"/\\|?*'


def default_folder() -> Path:
    """Where the presets of this user are."""
    return Path(platformdirs.user_data_dir("tokenglass", appauthor=False)) / "presets"


def read_preset(path: Path) -> Preset:
    """A preset file; its name is the preset's. Raises `ParameterError` with one sentence."""
    try:
        text = read_text(path, 1 << 20)
    except (OSError, ValueError) as error:
        raise ParameterError(f"“{path.name}” cannot be read: {error}") from error
    try:
        return Preset(_name(path.stem), MappingProxyType(presets.parse(text)))
    except ParameterError as error:
        raise ParameterError(f"“{path.name}” was not taken: {error.message}") from error


def read_folder(folder: Path) -> tuple[tuple[Preset, ...], tuple[str, ...]]:
    """Every preset of a folder, and a sentence for each file that is damaged."""
    found, problems = [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found.append(read_preset(path))
        except ParameterError as error:
            problems.append(error.message)
    return tuple(found), tuple(problems)


def write_preset(folder: Path, preset: Preset) -> None:
    """Write one preset. Raises `OSError` or `ValueError`; an older file is then intact."""
    write_text(folder / file_name(preset.name), presets.write(preset.values))


def file_name(name: str) -> str:
    """A name that every file system takes, from which `_name` reads the preset's own."""
    name = name[:LONGEST_NAME] or "preset"
    ends = {0, len(name) - 1}
    odd = [c in _RESERVED or not c.isprintable() or (c in " ." and n in ends) for n, c in enumerate(name)]
    return "".join(_escaped(c) if strange else c for c, strange in zip(name, odd, strict=True)) + ".json"


def _escaped(character: str) -> str:
    return quote(character.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")


def _name(stem: str) -> str:
    return unquote(stem, errors="surrogatepass")[:LONGEST_NAME]
