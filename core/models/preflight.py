"""What is checked in a model folder before transformers sees it.

A broken or hostile folder ends in transformers in any of forty ways, from a KeyError to a frozen process. Each check
here ends in one sentence instead. Nothing is executed, no file is read beyond its size cap, nothing outside is read.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contract.errors import ModelLoadError
from core.models.config_bounds import check_config
from core.models.weight_files import INDEX, check_weights, find_weights

KIB, MIB = 1 << 10, 1 << 20

# Every file that transformers may parse, and how large it may be.
SIZE_CAPS_BYTES: Mapping[str, int] = {
    "config.json": MIB,
    "generation_config.json": 256 * KIB,
    "tokenizer_config.json": 16 * MIB,
    "special_tokens_map.json": MIB,
    "added_tokens.json": 16 * MIB,
    "chat_template.jinja": 256 * KIB,
    "chat_template.json": 256 * KIB,
    "preprocessor_config.json": MIB,
    "tokenizer.json": 64 * MIB,
    "tokenizer.model": 64 * MIB,
    "vocab.json": 64 * MIB,
    "vocab.txt": 64 * MIB,
    "merges.txt": 64 * MIB,
    "spiece.model": 64 * MIB,
    INDEX: 16 * MIB,
}
# Of those, the ones parsed here: small, and read by transformers with a parser that nests as deep as it is told to.
PARSED = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", INDEX)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
MAX_JSON_DEPTH = 64


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """A folder that may be handed to transformers."""

    path: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    has_tokenizer: bool


def check_folder(folder: Path) -> CheckedFolder:
    """Check everything that can be checked without loading. Raises `ModelLoadError` with one sentence."""
    name = folder.name
    if not (folder / "config.json").exists() and not (folder / "config.json").is_symlink():
        raise ModelLoadError(f"“{name}” is not a model folder: it has no config.json.")
    present = [file for file in SIZE_CAPS_BYTES if _is_there(folder / file)]
    parsed = {}
    for file in present:
        check_file(folder / file, SIZE_CAPS_BYTES[file])
        if file in PARSED:
            parsed[file] = read_json_object(folder / file)
    for file, content in parsed.items():
        _refuse_code(name, file, content)
    check_config(name, parsed["config.json"])
    files = find_weights(folder, parsed.get(INDEX))
    check_weights(files)
    has_tokenizer = any(file in present for file in TOKENIZER_FILES)
    return CheckedFolder(folder, parsed["config.json"], files, has_tokenizer)


def check_file(path: Path, cap_bytes: int) -> None:
    """Refuse what is not a regular file (a pipe would block, a device never ends) and what is too large."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelLoadError(f"{path.name} in “{path.parent.name}” cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelLoadError(f"{path.name} in “{path.parent.name}” is not a regular file; put the real file there.")
    if status.st_size > cap_bytes:
        size, cap = status.st_size / MIB, cap_bytes / MIB
        raise ModelLoadError(
            f"{path.name} in “{path.parent.name}” has {size:.3g} MiB, more than the {cap:.3g} MiB such a file may have."
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, nested no deeper than `MAX_JSON_DEPTH`. Raises `ModelLoadError`."""
    where = f"{path.name} in “{path.parent.name}”"
    try:
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ModelLoadError(f"{where} is nested too deeply to be a model's file.") from error
    except _DuplicateKeyError as error:
        raise ModelLoadError(f"{where} says “{error}” twice; remove one of the two.") from error
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{where} is not valid JSON; download it again.", detail=str(error)) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{where} is not a JSON object; download it again.")
    if _depth(content) > MAX_JSON_DEPTH:
        raise ModelLoadError(f"{where} is nested too deeply to be a model's file.")
    return content


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in names if names.count(key) > 1))
    return result


def _depth(content: object) -> int:
    depth, level = 0, [content]
    while level:
        depth += 1
        below: list[object] = []
        for item in level:
            below.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        level = below
    return depth


def _refuse_code(folder: str, file: str, content: Mapping[str, Any]) -> None:
    if content.get("auto_map"):
        raise ModelLoadError(
            f"“{folder}” wants to run its own code (auto_map in {file}), which Tokenglass never does; "
            "choose a model of a family that transformers knows."
        )


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
