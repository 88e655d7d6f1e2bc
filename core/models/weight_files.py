"""Which weight files of a folder are loaded, and whether they are whole. Safetensors only, never pickle.

Format of a safetensors file: 8 bytes little-endian header length n, n bytes of JSON (name → dtype, shape,
data_offsets), then the data; https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.contract.errors import ModelLoadError
from core.models.files import MIB, check_file, folder_name, is_there

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
OTHER_FORMATS = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".gguf": "GGUF"}
MAX_HEADER_BYTES = 16 * MIB  # the format allows 100 MB; 100,000 tensors need 12
MAX_FILES = 2000
ADAPTER = (
    "is an adapter, not a whole model; merge it into its base model (merge_and_unload) and save that with "
    "save_pretrained."
)
_LFS_POINTER = b"version https://git-lfs"
_ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32, "U32": 32,
    "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What the headers of all files say together: floating-point numbers, and bytes of all tensors."""

    elements: int
    data_bytes: int


def find_weights(folder: Path, index: Mapping[str, Any] | None) -> tuple[Path, ...]:
    """The safetensors files of a folder, in transformers' order of preference. Raises `ModelLoadError`."""
    if is_there(folder / SINGLE):
        return (folder / SINGLE,)
    if index is None:
        raise ModelLoadError(_no_safetensors(folder))
    where, weight_map = f"{INDEX} in “{folder_name(folder)}”", index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{where} names no weight files; download it again.")
    names = sorted({str(value) for value in weight_map.values()})
    for name in names:
        # transformers joins these names to the folder unchecked (transformers issue 47176).
        if Path(name).name != name or "\\" in name or ":" in name or not name.endswith(".safetensors"):
            raise ModelLoadError(f"{where} names “{name[:80]}”, which is not a safetensors file of that folder.")
        if not is_there(folder / name):
            raise ModelLoadError(f"“{folder_name(folder)}” is incomplete: {name} is missing; download it again.")
    if len(names) > MAX_FILES:
        raise ModelLoadError(f"{where} names {len(names)} files, more than {MAX_FILES}.")
    return tuple(folder / name for name in names)


def check_weights(files: tuple[Path, ...]) -> StoredWeights:
    """Read each header, check every entry, compare the file's length with it. Raises `ModelLoadError`."""
    elements = data_bytes = 0
    seen: set[str] = set()
    for file in files:
        header = _check_safetensors(file)
        twice = next((name for name in header if name in seen), None)
        if twice is not None:
            raise ModelLoadError(
                f"“{folder_name(file.parent)}” holds the weight {twice[:80]} twice; download it again."
            )
        seen.update(header)
        elements += sum(math.prod(e["shape"]) for e in header.values() if e["dtype"] in _FLOATS)
        data_bytes += max((e["data_offsets"][1] for e in header.values()), default=0)
    return StoredWeights(elements, data_bytes)


def refusal_of_formats(names: list[str]) -> str | None:
    """Why a model with these files, none of them safetensors, is not loaded, and what to do; None where none tells.

    A sentence without its subject: “has its weights as …”.
    """
    pickled = [name for name in names if name.endswith(PICKLE_ENDINGS) and name != "training_args.bin"]
    if pickled:
        return (
            f"has its weights as {pickled[0]}, a pickle, which can run code and is never loaded; "
            "save the model again with save_pretrained, which writes safetensors."
        )
    other = next(((name, kind) for name in names for end, kind in OTHER_FORMATS.items() if name.endswith(end)), None)
    if other is None:
        return None
    hint = "; open that file itself" if other[1] == "GGUF" else ""
    return f"has its weights as {other[0]} ({other[1]}), not as {SINGLE}{hint}."


def _no_safetensors(folder: Path) -> str:
    name = folder_name(folder)
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        return f"“{name}” {ADAPTER}"
    refusal = refusal_of_formats(names)
    if refusal is not None:
        return f"“{name}” {refusal}"
    named = next((file for file in names if file.endswith(".safetensors")), None)
    if named:
        return f"“{name}” has {named}, but no {SINGLE} and no {INDEX}; rename it if it holds the whole model."
    return f"“{name}” has no weights: {SINGLE} is missing."


def _check_safetensors(file: Path) -> dict[str, Any]:
    where = f"{file.name} in “{folder_name(file.parent)}”"
    size_bytes = check_file(file, None)
    try:
        with file.open("rb") as stream:
            data = _read_header(where, stream, size_bytes)
    except OSError as error:
        raise ModelLoadError(f"{where} cannot be read: {error.strerror}.") from error
    try:
        header = json.loads(data)
        header.pop("__metadata__", None)
        end = _check_entries(where, header)
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        raise ModelLoadError(f"{where} has a damaged header; download it again.", detail=repr(error)) from error
    expected = 8 + len(data) + end
    if size_bytes < expected:
        raise ModelLoadError(
            f"{where} is incomplete: {size_bytes:,} of {expected:,} bytes are there; download it again."
        )
    if size_bytes > expected:
        raise ModelLoadError(f"{where} is damaged: it is longer than its header says; download it again.")
    return dict(header)


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


def _check_entries(where: str, header: dict[str, Any]) -> int:
    """Every tensor's bytes follow from its type and shape, and they fill the file without gap or overlap.

    Returns where the last one ends. Raises `ModelLoadError`, or `ValueError`, `LookupError`, `TypeError` as a parser.
    """
    spans = []
    for name, entry in header.items():
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _ITEM_BITS:
            raise ModelLoadError(f"{where} holds {str(kind)[:20]} weights, a quantised format; choose the full model.")
        if any(type(n) is not int or n < 0 for n in (begin, end, *shape)):
            raise ValueError(f"{name}: {shape} at {begin} to {end}")
        if 8 * (end - begin) != math.prod(shape) * _ITEM_BITS[kind]:
            raise ValueError(f"{name}: {kind} {shape} does not take {end - begin} bytes")
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError(f"a tensor begins at {begin} instead of {position}")
        position = end
    return position
