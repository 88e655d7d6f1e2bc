"""What of the Hugging Face hub is on this disk. Reads the cache as it lies there and never writes into it.

`huggingface_hub.scan_cache_dir` leaves a model out altogether when one of its references dangles, as they do after a
download that was killed; here such a model is listed, with what is wrong. Needs neither torch nor a network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contract.errors import ModelLoadError
from core.models.config_bounds import check_config
from core.models.files import is_there, read_json_object
from core.models.hub_names import DEFAULT_REVISION, HubModel
from core.models.preflight import CONFIG, SIZE_CAPS_BYTES, TOKENIZER_FILES
from core.models.weight_files import INDEX, SINGLE, check_weights, find_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_MOST_REFERENCE_BYTES = 128
_MOST_LISTING_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One revision of one model in the Hugging Face cache; `name` loads it.

    size_bytes: of its files on this disk. last_modified: seconds since 1970. reason: why it cannot be loaded.
    """

    name: str
    repo: str
    commit: str
    references: tuple[str, ...]  # branches and tags that mean this commit
    size_bytes: int
    last_modified: float
    available: bool
    reason: str
    path: Path


def list_cached_models() -> tuple[CachedModel, ...]:
    """Every model in the Hugging Face cache, the newest first; of a damaged cache what can be read of it."""
    found = [model for folder in _entries(hub_cache(), "models--*") for model in _revisions(folder)]
    return tuple(sorted(found, key=lambda model: (-model.last_modified, model.name)))


def hub_cache() -> Path:
    """`$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`, as the library of the hub decides."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether the user has forbidden the network (`HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`)."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


def find_snapshot(model: HubModel) -> Path | None:
    """The folder of this revision in the cache, whole or not; its name is the commit. None where there is none."""
    folder = _folder(model.repo)
    commit = model.revision if _COMMIT.fullmatch(model.revision) else _reference(folder / "refs" / model.revision)
    snapshot = folder / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def missing_files(snapshot: Path) -> tuple[str, ...]:
    """Files of a snapshot that the model needs and that are not there, or not in full.

    The library of the hub keeps the listing of a repository beside it from when a download begins; where there is
    none, the weights' own index has to do.
    """
    listing = _listing(snapshot)
    if listing is not None:
        wanted = wanted_files(listing)
        return tuple(name for name in wanted if _size(snapshot / name) != listing[name])
    if not is_there(snapshot / CONFIG):
        return (CONFIG,)
    try:
        return tuple(file.name for file in find_weights(snapshot, _index(snapshot)) if not file.exists())
    except ModelLoadError:
        return (SINGLE,)


def may_lack_tokenizer(snapshot: Path) -> bool:
    """Whether only the model was downloaded so far, as scripts do that bring their own token ids; one may belong to it.

    Where the listing of the repository is there, it is known; pictures need none.
    """
    if any(is_there(snapshot / name) for name in TOKENIZER_FILES) or _listing(snapshot) is not None:
        return False
    try:
        return read_json_object(snapshot / CONFIG).get("model_type") != "imagegpt"
    except ModelLoadError:
        return False


def wanted_files(sizes: dict[str, int]) -> tuple[str, ...]:
    """Of the files of a repository, those that are downloaded: never a pickle, nothing of other formats or folders."""
    spare = (*TOKENIZER_FILES[1:], "merges.txt") if TOKENIZER_FILES[0] in sizes else ()
    small = [name for name in SIZE_CAPS_BYTES if name in sizes and name != INDEX and name not in spare]
    if SINGLE in sizes:
        return (*small, SINGLE)
    shards = sorted(name for name in sizes if _SHARD.fullmatch(name))
    return (*small, INDEX, *shards) if INDEX in sizes else tuple(small)


def _revisions(folder: Path) -> Iterator[CachedModel]:
    repo = folder.name.removeprefix("models--").replace("--", "/")
    references: dict[str, list[str]] = {}
    for reference in _entries(folder / "refs", "**/*"):
        commit = _reference(reference)
        if commit is not None:
            references.setdefault(commit, []).append(reference.relative_to(folder / "refs").as_posix())
    for snapshot in _entries(folder / "snapshots", "*"):
        if _COMMIT.fullmatch(snapshot.name) and snapshot.is_dir():
            names = tuple(sorted(references.get(snapshot.name, ())))
            yield _cached(repo, snapshot, names)


def _cached(repo: str, snapshot: Path, references: tuple[str, ...]) -> CachedModel:
    best = DEFAULT_REVISION if DEFAULT_REVISION in references else references[0] if references else snapshot.name
    reason = _why_not(repo, snapshot)
    size_bytes, modified = 0, 0.0
    for file in _entries(snapshot, "*"):
        with suppress(OSError):
            status = file.stat()
            size_bytes, modified = size_bytes + status.st_size, max(modified, status.st_mtime)
    return CachedModel(
        name=HubModel(repo, best).name,
        repo=repo,
        commit=snapshot.name,
        references=references,
        size_bytes=size_bytes,
        last_modified=modified,
        available=not reason,
        reason=reason,
        path=snapshot,
    )


def _why_not(repo: str, snapshot: Path) -> str:
    """What is wrong with it as far as config.json and the headers of its weights tell; empty where nothing is."""
    missing = missing_files(snapshot)
    if missing == (SINGLE,) and _listing(snapshot) is None and not is_there(snapshot / SINGLE):
        return "it has no safetensors weights here."
    if missing:
        return f"it is only partly downloaded ({missing[0]} is missing)."
    try:
        check_config(repo, read_json_object(snapshot / CONFIG))
        check_weights(find_weights(snapshot, _index(snapshot)))
    except ModelLoadError as error:
        return error.message
    return ""


def _index(snapshot: Path) -> dict[str, Any] | None:
    return read_json_object(snapshot / INDEX, SIZE_CAPS_BYTES[INDEX]) if is_there(snapshot / INDEX) else None


def _folder(repo: str) -> Path:
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _reference(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            commit = file.read(_MOST_REFERENCE_BYTES).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _listing(snapshot: Path) -> dict[str, int] | None:
    """Sizes of all files of the repository at this commit, as the library noted them (format version 1)."""
    path = snapshot.parents[1] / "trees" / f"{snapshot.name}.json"
    try:
        if path.stat().st_size > _MOST_LISTING_BYTES:
            return None
        files = json.loads(path.read_text("utf-8"))["files"]
        return {str(name): int(entry.get("lfs_size") or entry["size"]) for name, entry in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _entries(folder: Path, pattern: str) -> list[Path]:
    """Of a folder that may be missing, unreadable or no folder at all, sorted."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
