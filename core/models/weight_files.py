"""Which weight files of a folder are loaded, and whether they are whole. Safetensors only, never pickle.

Format of a safetensors file: 8 bytes little-endian header length n, n bytes of JSON (name → dtype, shape,
data_offsets), then the data; https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from core.contract.errors import ModelLoadError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_FORMATS = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".gguf": "GGUF"}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER = b"version https://git-lfs"


def find_weights(folder: Path, index: Mapping[str, Any] | None) -> tuple[Path, ...]:
    """The safetensors files of a folder, in transformers' order of preference. Raises `ModelLoadError`."""
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return (folder / SINGLE,)
    if index is None:
        raise ModelLoadError(_no_safetensors(folder))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{INDEX} in “{folder.name}” names no weight files; download it again.")
    names = sorted({str(value) for value in weight_map.values()})
    for name in names:
        # transformers joins these names to the folder unchecked (transformers issue 47176).
        if Path(name).name != name or "\\" in name or ":" in name or not name.endswith(".safetensors"):
            raise ModelLoadError(
                f"{INDEX} in “{folder.name}” names “{name[:80]}”, which is not a safetensors file of that folder."
            )
        if not (folder / name).exists():
            raise ModelLoadError(f"“{folder.name}” is incomplete: {name} is missing; download it again.")
    return tuple(folder / name for name in names)


def check_weights(files: tuple[Path, ...]) -> None:
    """Read each header and compare the file's length with it. Raises `ModelLoadError`."""
    for file in files:
        _check_safetensors(file)


def _no_safetensors(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    pickled = [name for name in names if name.endswith(PICKLE_ENDINGS) and name != "training_args.bin"]
    if pickled:
        return (
            f"“{folder.name}” has its weights as {pickled[0]}, a pickle, which can run code and is never loaded; "
            "save the model again with save_pretrained, which writes safetensors."
        )
    other = next(((name, kind) for name in names for end, kind in OTHER_FORMATS.items() if name.endswith(end)), None)
    if other:
        return f"“{folder.name}” has its weights as {other[0]} ({other[1]}); Tokenglass needs {SINGLE}."
    named = next((name for name in names if name.endswith(".safetensors")), None)
    if named:
        return f"“{folder.name}” has {named}, but no {SINGLE} and no {INDEX}; rename it if it holds the whole model."
    return f"“{folder.name}” has no weights: {SINGLE} is missing."


def _check_safetensors(file: Path) -> None:
    where = f"{file.name} in “{file.parent.name}”"
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelLoadError(f"{where} is not a regular file; put the real file there.")
        with file.open("rb") as stream:
            header = _read_header(where, stream, status.st_size)
    except OSError as error:
        raise ModelLoadError(f"{where} cannot be read: {error.strerror}.") from error
    expected = 8 + len(header) + _data_bytes(where, header)
    if status.st_size < expected:
        raise ModelLoadError(
            f"{where} is incomplete: {status.st_size:,} of {expected:,} bytes are there; download it again."
        )
    if status.st_size > expected:
        raise ModelLoadError(f"{where} is damaged: it is longer than its header says; download it again.")


def _read_header(where: str, stream: BinaryIO, size_bytes: int) -> bytes:
    start = stream.read(8)
    if start and _LFS_POINTER.startswith(start):
        raise ModelLoadError(f"{where} is only a Git LFS pointer; run “git lfs pull” in the folder.")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER_BYTES:
        raise ModelLoadError(f"{where} is not a safetensors file; download it again.")
    if length > size_bytes - 8:
        raise ModelLoadError(f"{where} is incomplete, it ends inside its header; download it again.")
    return stream.read(length)


def _data_bytes(where: str, header: bytes) -> int:
    """The end of the last tensor, in bytes after the header."""
    try:
        tensors = json.loads(header)
        ends = [int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        raise ModelLoadError(f"{where} has a damaged header; download it again.", detail=repr(error)) from error
    return max(ends, default=0)
