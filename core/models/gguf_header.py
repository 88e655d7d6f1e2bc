"""The header of a GGUF file, read with nothing but Python: what is in it, before anything else is trusted with it.

Format: magic, version, number of tensors, number of key/value pairs, the pairs, then name, shape, type and offset of
each tensor; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.contract.errors import ModelLoadError
from core.models.files import MIB

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_PAIRS, _MOST_TENSORS, _MOST_DIMENSIONS = 4096, 65_536, 4
_MOST_ITEMS = 1 << 21  # of a list; the largest vocabularies have 262,144 tokens
_MOST_STRING_BYTES = MIB
_MOST_HEADER_BYTES = 256 * MIB
_MOST_READS = 1 << 22  # two a text; so many take two seconds, the largest vocabularies with their merges 1.6 million


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Single values of the header by name (lists are skipped), the numbers of weights and of tokens in the file."""

    values: Mapping[str, Any]
    parameters: int
    tokens: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.values.get("general.architecture", ""))

    def number(self, name: str) -> int | None:
        """A whole number that the architecture gives under this name."""
        value = self.values.get(f"{self.architecture}.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


@dataclass(frozen=True, slots=True)
class _Items:
    """A list that was skipped."""

    count: int


class _DamagedError(Exception):
    pass


class _Header:
    """The file, and how often something of it was asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._reads = file, 0

    def take(self, count: int) -> bytes:
        """The next bytes. Raises `_DamagedError` where there are no more, or no end."""
        self._reads += 1
        if self._reads > _MOST_READS or self._file.tell() > _MOST_HEADER_BYTES:
            raise _DamagedError("its header does not end")
        data = self._file.read(count)
        if len(data) < count:
            raise _DamagedError("it ends inside its header; download it again")
        return data


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises `ModelLoadError` when it is no GGUF file, or a damaged one."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise _DamagedError("it does not begin with GGUF")
            return _read(_Header(file))
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error.strerror}.") from error
    except _DamagedError as error:
        raise ModelLoadError(f"{path.name} is not a GGUF file that can be read: {error}.") from error


def _read(file: _Header) -> GgufHeader:
    version, tensors, pairs = _unpack(file, "IQQ")
    if version not in (2, 3):
        raise _DamagedError(f"its version is {version}, not 2 or 3")
    if tensors > _MOST_TENSORS or pairs > _MOST_PAIRS:
        raise _DamagedError(f"it claims to hold {tensors:,} tensors and {pairs:,} values")
    values, tokens = {}, 0
    for _ in range(pairs):
        name = _string(file)
        value = _value(file, *_unpack(file, "I"))
        if not isinstance(value, _Items):
            values[name] = value
        elif name == "tokenizer.ggml.tokens":
            tokens = value.count
    parameters = sum(_tensor(file) for _ in range(tensors))
    return GgufHeader(values, parameters, tokens)


def _tensor(file: _Header) -> int:
    _string(file)
    (dimensions,) = _unpack(file, "I")
    if dimensions > _MOST_DIMENSIONS:
        raise _DamagedError(f"a tensor has {dimensions:,} dimensions")
    shape = _unpack(file, "Q" * dimensions)
    _unpack(file, "IQ")  # type and offset
    return math.prod(shape)


def _value(file: _Header, kind: int, depth: int = 0) -> Any:
    """A single value, or the length of a list."""
    if kind == _STRING:
        return _string(file)
    if kind in _SCALARS:
        return _unpack(file, _SCALARS[kind])[0]
    if kind != _ARRAY or depth > 2:
        raise _DamagedError(f"a value has the unknown type {kind}")
    inner, count = _unpack(file, "IQ")
    if count > _MOST_ITEMS:
        raise _DamagedError(f"a list claims to have {count:,} items")
    if inner in _SCALARS:
        file.take(count * struct.calcsize("<" + _SCALARS[inner]))
    else:
        for _ in range(count):
            _value(file, inner, depth + 1)
    return _Items(count)


def _string(file: _Header) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MOST_STRING_BYTES:
        raise _DamagedError(f"a text claims to have {length:,} bytes")
    return file.take(length).decode("utf-8", "replace")


def _unpack(file: _Header, layout: str) -> tuple[Any, ...]:
    return struct.unpack("<" + layout, file.take(struct.calcsize("<" + layout)))
