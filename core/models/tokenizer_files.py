"""A tokenizer of a model that nobody vouches for: copied, cleaned, and first loaded where it can be stopped.

The Rust code behind tokenizers can panic, loop for minutes in a regular expression, or double a text eight times over.
So the files are loaded and tried in a child process first. What passed is remembered by the hash of its files, so that
this costs a second once and a few milliseconds afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from core.contract.errors import LoadCancelledError, ModelLoadError
from core.domains.sandbox import Limits, Sandbox, SandboxError
from core.models.cache_root import cache_root
from core.models.clean import clean_tokenizer_config
from core.models.files import MIB, folder_name, read_file
from core.models.load_control import LoadControl
from core.models.preflight import CONFIG, GENERATION, SIZE_CAPS_BYTES, TOKENIZER_CONFIG, CheckedFolder
from core.models.weight_files import INDEX

TRIAL_VERSION = 3  # of what is tried; older records then do not count
_NOT_COPIED = (CONFIG, GENERATION, INDEX, "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class TriedTokenizer:
    """A folder of its own with the cleaned files of a tokenizer that was loaded and used in a child process."""

    folder: Path
    largest_id: int


@contextmanager
def tried_tokenizer(checked: CheckedFolder, control: LoadControl) -> Iterator[TriedTokenizer]:
    """Copy, clean and try; the copy exists inside the block. Raises `ModelLoadError`, `LoadCancelledError`."""
    with tempfile.TemporaryDirectory(prefix="tokenglass-") as name:
        folder = Path(name)
        digest, size_bytes = _copy(checked, folder)
        record = cache_root() / "tokenizers" / f"{digest}.json"
        largest_id = _remembered(record)
        if largest_id is None:
            control.progress("Checking the tokenizer", None)
            largest_id = _try(folder_name(checked.path), folder, size_bytes, control)
            _remember(record, largest_id)
        yield TriedTokenizer(folder, largest_id)


def _copy(checked: CheckedFolder, folder: Path) -> tuple[str, int]:
    """The files a tokenizer is made of; their hash, with all else that decides what is made of them, and their size."""
    contents = {name: read_file(checked.path / name, SIZE_CAPS_BYTES[name]) for name in _copied(checked)}
    if TOKENIZER_CONFIG in contents:
        contents[TOKENIZER_CONFIG] = _json(clean_tokenizer_config(checked.json[TOKENIZER_CONFIG]))
    # transformers chooses the class by these two; nothing else of the config matters here.
    choosing = ("model_type", "tokenizer_class")
    contents[CONFIG] = _json({key: checked.config[key] for key in choosing if key in checked.config})
    digest = hashlib.sha256(f"{TRIAL_VERSION} {version('transformers')} {version('tokenizers')}".encode())
    for name, content in sorted(contents.items()):
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
        (folder / name).write_bytes(content)
    return digest.hexdigest(), sum(map(len, contents.values()))


def _copied(checked: CheckedFolder) -> Iterator[str]:
    return (name for name in checked.present if name not in _NOT_COPIED)


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def trial_limits(size_bytes: int) -> Limits:
    """Loading. Three times what the largest honest tokenizers take on a slow machine."""
    mib = size_bytes / MIB
    return Limits(wall_s=4 + 1.5 * mib, cpu_s=2 + 0.45 * mib, memory_bytes=int(512 * MIB + 40 * size_bytes))


def use_limits(size_bytes: int) -> Limits:
    """Encoding and decoding a few texts, which hardly depends on the size: patterns that never end are met here."""
    mib = size_bytes / MIB
    return Limits(wall_s=4 + 0.3 * mib, cpu_s=2 + 0.1 * mib, memory_bytes=int(512 * MIB + 40 * size_bytes))


def _try(name: str, folder: Path, size_bytes: int, control: LoadControl) -> int:
    sandbox = Sandbox("core.models.try_tokenizer")
    try:
        sandbox.ask({"folder": str(folder)}, trial_limits(size_bytes), cancelled=control.cancelled)
        answer = sandbox.ask({"use": True}, use_limits(size_bytes), cancelled=control.cancelled)
    except SandboxError as error:
        raise _refusal(name, error) from error
    finally:
        sandbox.close()
    return int(answer["largest_id"])


def _refusal(name: str, error: SandboxError) -> ModelLoadError:
    if error.failure == "cancelled":
        return LoadCancelledError("The load was cancelled.")
    why = {
        "said": error.message.rstrip("."),
        "raised": f"its files are damaged ({error.message}); download them again",
        "time": "it takes too long to load and use, as if it were made to",
        "memory": "it takes too much memory, as if it were made to",
        "died": "the process that tried it broke down",
        "cancelled": "",
    }[error.failure]
    return ModelLoadError(f"The tokenizer of “{name}” cannot be loaded: {why}.", detail=error.detail)


def _remembered(record: Path) -> int | None:
    try:
        largest_id = json.loads(record.read_text("utf-8"))["largest_id"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return largest_id if isinstance(largest_id, int) and largest_id >= 0 else None


def _remember(record: Path, largest_id: int) -> None:
    """A cache that cannot be written costs the next load a second, nothing else."""
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        draft = record.with_suffix(f".{os.getpid()}.tmp")
        draft.write_bytes(_json({"largest_id": largest_id}))
        os.replace(draft, record)
