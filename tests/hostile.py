"""Model folders as an enemy, a broken disk or a careless hand would make them: one function for each.

`tests/hostile_cases.py` names them. Each changes a copy of a good folder (`build_base`); `outside` is a folder beside
it that holds secrets and nothing that may be read, and where a payload that runs leaves the file `canary`.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models import CHAT_TEMPLATE, build_gpt2, build_tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Change = Callable[[Path, Path], object]

REFUSED, LOADS, EITHER = "refused", "loads", "either"
NO_CHAT = "no chat"  # it loads, and its template is refused when it is used


@dataclass(frozen=True)
class Case:
    """What is done to the folder, how it must end, and whether it is in the short set."""

    change: Change
    ends: str
    says: str = ""
    short: bool = False


def build_base(path: Path) -> Path:
    """A good folder: GPT-2 with 3 layers, 300 byte-level tokens and a chat template."""
    build_gpt2(path)
    build_tokenizer(path, chat_template=CHAT_TEMPLATE)
    return path


def prepare_outside(path: Path) -> Path:
    """Secrets that nobody may read."""
    path.mkdir()
    (path / "secret.json").write_text('{"secret": true}')
    save_file({"secret": np.zeros(4, np.float32)}, path / "secret.safetensors")
    return path


def edit(file: str, **changes: Any) -> Change:
    """Change keys of a JSON object."""

    def change(folder: Path, _outside: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | changes))

    return change


def config(**changes: Any) -> Change:
    return edit("config.json", **changes)


def generation(**changes: Any) -> Change:
    return edit("generation_config.json", **changes)


def write(file: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder, _outside: (folder / file).write_bytes(data)


def large(file: str, size_bytes: int) -> Change:
    """A file that claims a size it does not take on the disk."""

    def change(folder: Path, _outside: Path) -> None:
        with (folder / file).open("ab") as stream:
            stream.truncate(size_bytes)

    return change


def special(file: str, make: Callable[[Path], object]) -> Change:
    """Something else in place of a file."""

    def change(folder: Path, _outside: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

    return change


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 100 characters
        try:
            one.bind(path.name)
        finally:
            os.chdir(before)


def link_outside(file: str, target: str) -> Change:
    def change(folder: Path, outside: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(outside / target)

    return change


def weights(edit_weights: Callable[[dict[str, Any]], object], **config_changes: Any) -> Change:
    """Change the tensors of a file that stays well-formed."""

    def change(folder: Path, outside: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit_weights(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        if config_changes:
            config(**config_changes)(folder, outside)

    return change


def header(edit_header: Callable[[dict[str, Any]], object]) -> Change:
    """Change the header of the weights and leave the data as they are."""

    def change(folder: Path, _outside: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        content = json.loads(data[8 : 8 + length])
        edit_header(content)
        made = json.dumps(content).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + data[8 + length :])

    return change


def first_entry(**changes: Any) -> Change:
    return header(lambda entries: first_of(entries).update(changes))


def first_of(entries: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(value for key, value in entries.items() if key != "__metadata__")
    return entry


def raw_header(data: bytes, length: int | None = None) -> Change:
    return write(WEIGHTS, struct.pack("<Q", len(data) if length is None else length) + data)


def cut(share: float) -> Change:
    def change(folder: Path, _outside: Path) -> None:
        os.truncate(folder / WEIGHTS, int((folder / WEIGHTS).stat().st_size * share))

    return change


def index(weight_map: object, **more: Any) -> Change:
    def change(folder: Path, _outside: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map, **more}))

    return change


class _Payload:
    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def pickled(*files: str, remove_weights: bool = True) -> Change:
    """A pickle that touches the canary when it is loaded."""

    def change(folder: Path, outside: Path) -> None:
        if remove_weights:
            (folder / WEIGHTS).unlink()
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(pickle.dumps(_Payload(outside / "canary")))

    return change


def code(*files: str, then: Change) -> Change:
    """Python that touches the canary when it is imported."""

    def change(folder: Path, outside: Path) -> None:
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(f"open({str(outside / 'canary')!r}, 'w').close()\nclass X: pass\n")
        then(folder, outside)

    return change


def nothing(_folder: Path, _outside: Path) -> None:
    pass


def tokenizer(edit_tokenizer: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path, _outside: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        edit_tokenizer(content)
        path.write_text(json.dumps(content))

    return change


def added(content: str, token_id: int) -> dict[str, Any]:
    """An added token."""
    flags = dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content} | flags


def first_token(token_id: int) -> dict[str, Any]:
    """A post-processor that puts this id before every text."""
    start, one, two = ({kind: {"id": name, "type_id": 0}} for kind, name in
                       (("SpecialToken", "E"), ("Sequence", "A"), ("Sequence", "B")))  # fmt: skip
    special = {"E": {"id": "E", "ids": [token_id], "tokens": ["E"]}}
    return {"type": "TemplateProcessing", "single": [start, one], "pair": [one, two], "special_tokens": special}


def normalizer(*steps: Mapping[str, Any]) -> Change:
    return tokenizer(lambda content: content.update(normalizer={"type": "Sequence", "normalizers": list(steps)}))


def split_by(regex: str) -> Change:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    made = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    return tokenizer(lambda content: content.update(pre_tokenizer=made))


def template(text: str) -> Change:
    return write("chat_template.jinja", text)


def grow(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def secret_path(key: str, target: str, file: str = "tokenizer_config.json") -> Change:
    return lambda folder, outside: edit(file, **{key: str(outside / target)})(folder, outside)


def rename_one(entries: dict[str, Any]) -> None:
    entries["transformer.h.0.attn.c_attn.weight\u0000"] = entries.pop("transformer.h.0.attn.c_attn.weight")


def nested(depth: int) -> str:
    return '{"model_type": "gpt2", "a":' + "[" * depth + "]" * depth + "}"
