"""Presets on the disk: one JSON file each, as `GenerationConfig.to_json_file` writes them."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote

import platformdirs

from app.files import keep, read_text, write_text
from app.state import presets
from app.state.state import Preset
from core.contract import ParameterError

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
    """Every preset of a folder, and a sentence for each file that is damaged, or of a name that another one has."""
    found: dict[str, Preset] = {}
    problems = []
    for path in sorted(folder.glob("*.json"), key=_own_name_first) if folder.is_dir() else ():
        try:
            preset = read_preset(path)
        except ParameterError as error:
            problems.append(error.message)
            continue
        if found.setdefault(preset.name, preset) is not preset:
            problems.append(f"“{path.name}” was not taken: there is another preset “{preset.name}”.")
    return tuple(sorted(found.values(), key=lambda p: p.name.casefold())), tuple(problems)


def _own_name_first(path: Path) -> tuple[bool, Path]:
    return path.name != file_name(_name(path.stem)), path


def write_preset(folder: Path, preset: Preset, new: bool = False) -> None:
    """Write one preset. Raises `OSError` or `ValueError`; an older file is then intact.

    new: there should be no file of that name; one that is there (damaged, or of another window) is kept as “….old”.
    """
    path, text = folder / file_name(preset.name), presets.write(preset.values)
    if new and path.exists():
        old = (path.with_name(f"{path.name}.old{n or ''}") for n in itertools.count())
        keep(path, next(name for name in old if not name.exists()))
    write_text(path, text)


def file_name(name: str) -> str:
    """A name that every file system takes, from which `_name` reads the preset's own."""
    name = name[: presets.LONGEST_NAME] or "preset"
    ends = {0, len(name) - 1}
    odd = [c in _RESERVED or not c.isprintable() or (c in " ." and n in ends) for n, c in enumerate(name)]
    return "".join(_escaped(c) if strange else c for c, strange in zip(name, odd, strict=True)) + ".json"


def _escaped(character: str) -> str:
    return quote(character.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")


def _name(stem: str) -> str:
    return unquote(stem, errors="surrogatepass")[: presets.LONGEST_NAME]
