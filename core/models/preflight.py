"""What is checked in a model folder before transformers sees it.

A broken or hostile folder ends in transformers in any of forty ways, from a KeyError to a frozen process. Each check
here ends in one sentence instead. Nothing is executed, no file is read beyond its size cap, nothing outside is read.
What transformers is given then are the cleaned contents, not the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contract.errors import ModelLoadError
from core.models.clean import clean_config, clean_generation_config
from core.models.config_bounds import check_config
from core.models.files import MIB, check_file, folder_name, is_there, read_json_object
from core.models.weight_files import ADAPTER, INDEX, StoredWeights, check_weights, find_weights

KIB = 1 << 10
CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
PREPROCESSOR = "preprocessor_config.json"

# Every file that may be read, and how large it may be.
SIZE_CAPS_BYTES: Mapping[str, int] = {
    CONFIG: MIB,
    GENERATION: 256 * KIB,
    TOKENIZER_CONFIG: 16 * MIB,
    "special_tokens_map.json": MIB,
    "added_tokens.json": 16 * MIB,
    "chat_template.jinja": 256 * KIB,
    "chat_template.json": 256 * KIB,
    PREPROCESSOR: MIB,
    "tokenizer.json": 40 * MIB,  # Gemma's has 33 MB
    "tokenizer.model": 16 * MIB,
    "vocab.json": 16 * MIB,
    "vocab.txt": 16 * MIB,
    "merges.txt": 16 * MIB,
    "spiece.model": 16 * MIB,
    INDEX: 16 * MIB,
}
# Of those, the ones parsed here: small, and read by transformers with a parser that nests as deep as it is told to.
PARSED = (CONFIG, GENERATION, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", INDEX)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
MOST_TEMPLATE_CHARACTERS = 256 * KIB


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """A folder that may be loaded, and the contents that were checked.

    config: cleaned. generation: cleaned, None where there is no generation_config.json. json: as they are, by name.
    """

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    json: Mapping[str, Mapping[str, Any]]
    present: tuple[str, ...]
    weight_files: tuple[Path, ...]
    stored: StoredWeights
    notices: tuple[str, ...]

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is anything a tokenizer can be made of."""
        return any(file in self.present for file in TOKENIZER_FILES)


def check_folder(folder: Path) -> CheckedFolder:
    """Check everything that can be checked without loading. Raises `ModelLoadError` with one sentence."""
    present, parsed = check_small_files(folder)
    files = find_weights(folder, parsed.get(INDEX))
    generation: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()
    if GENERATION in parsed:
        generation, notices = clean_generation_config(parsed[GENERATION])
    return CheckedFolder(
        path=folder,
        config=clean_config(parsed[CONFIG]),
        generation=generation,
        json=parsed,
        present=present,
        weight_files=files,
        stored=check_weights(files),
        notices=notices,
    )


def check_small_files(folder: Path) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """All but the weights: the names that are there, and what those in `PARSED` say. Raises `ModelLoadError`."""
    name = folder_name(folder)
    if not is_there(folder / CONFIG):
        raise ModelLoadError(_no_config(folder))
    present = tuple(file for file in SIZE_CAPS_BYTES if is_there(folder / file))
    parsed = {}
    for file in present:
        check_file(folder / file, SIZE_CAPS_BYTES[file])
        if file in PARSED:
            parsed[file] = read_json_object(folder / file, SIZE_CAPS_BYTES[file])
    for file, content in parsed.items():
        _refuse_code(name, file, content)
    _check_template(name, parsed.get(TOKENIZER_CONFIG, {}).get("chat_template"))
    check_config(name, parsed[CONFIG])
    return present, parsed


def _no_config(folder: Path) -> str:
    if is_there(folder / "adapter_config.json"):
        return f"“{folder_name(folder)}” {ADAPTER}"
    try:
        gguf = next(iter(sorted(path.name for path in folder.iterdir() if path.name.endswith(".gguf"))), None)
    except OSError as error:
        return f"“{folder_name(folder)}” cannot be read: {error.strerror}."
    if gguf is not None:
        return f"“{folder_name(folder)}” has no config.json, but {gguf}; open that file itself."
    return f"“{folder_name(folder)}” is not a model folder: it has no config.json."


def _refuse_code(folder: str, file: str, content: Mapping[str, Any]) -> None:
    if content.get("auto_map"):
        raise ModelLoadError(
            f"“{folder}” wants to run its own code (auto_map in {file}), which Tokenglass never does; "
            "choose a model of a family that transformers knows."
        )


def _check_template(folder: str, template: object) -> None:
    """Templates inside tokenizer_config.json: one, or a list of named ones."""
    texts = [part.get("template") for part in template if isinstance(part, dict)] if isinstance(template, list) else []
    longest = max((len(text) for text in (template, *texts) if isinstance(text, str)), default=0)
    if longest > MOST_TEMPLATE_CHARACTERS:
        raise ModelLoadError(
            f"The chat template of “{folder}” has {longest:,} characters, more than the {MOST_TEMPLATE_CHARACTERS:,} "
            "it may have."
        )
