"""A model's configuration as a form: fields with their meaning, what they add up to, and why some cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.contract.preview import DtypeEstimate

FieldKind = Literal["int", "float", "bool", "choice", "ids", "json", "text"]


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of a config class. Values are plain JSON values, as they stand in a config.json.

    meaning: in our words where the class's docstring says nothing or too much; documentation: the docstring itself.
    aliases: other names of the same field (`attribute_map`). changed: the value differs from the class's default.
    editable: false where the value is only shown, because the family cannot be created with another one.
    """

    name: str
    kind: FieldKind
    type_name: str
    default: object
    value: object
    meaning: str
    documentation: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    nullable: bool = False
    changed: bool = False
    editable: bool = True


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """Why a model cannot be made of this configuration: the fields concerned, and one sentence."""

    fields: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class ConfigPart:
    """Parameters of one part of the model, tied ones counted once, and how they add up (empty where only counted)."""

    name: str  # embeddings | attention | MLP | norms | head | other
    parameters: int
    formula: str = ""


@dataclass(frozen=True, slots=True)
class ConfigEstimate:
    """What a model of this configuration takes.

    flops_per_token: of the forward pass of one token, without attention to others; every position before it adds
    flops_per_position. A multiplication and an addition are two. None where the family's formula is not known.
    buffer_bytes: masks over all pairs of positions, which ImageGPT keeps in every layer.
    """

    parts: tuple[ConfigPart, ...]
    dtypes: tuple[DtypeEstimate, ...]
    max_positions: int
    device: str
    dtype: str
    available_bytes: int
    flops_per_token: int | None = None
    flops_per_position: int | None = None
    buffer_bytes: int = 0

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(part.parameters for part in self.parts)

    def flops_at(self, positions: int) -> int | None:
        """FLOPs of one more token after so many positions, its own included."""
        if self.flops_per_token is None or self.flops_per_position is None:
            return None
        return self.flops_per_token + self.flops_per_position * positions


@dataclass(frozen=True, slots=True)
class OutputKey:
    """An output of the model named in `keys_to_ignore_at_inference`, and what each caller does with it."""

    key: str
    uses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ConfigDescription:
    """A configuration, explained.

    subject: what was asked for, see `DescribeConfig`. family: `model_type`. changes: the fields that differ from the
    class's defaults. config_json: what config.json says. new_name: `ModelSpec.name` of a model of random weights with
    this configuration; None where there are problems, or for families of which none can be made.
    """

    subject: str
    family: str
    title: str
    class_name: str
    fields: tuple[ConfigField, ...]
    changes: Mapping[str, object]
    config_json: str
    output_keys: tuple[OutputKey, ...]
    problems: tuple[ConfigProblem, ...]
    estimate: ConfigEstimate | None
    new_name: str | None
    seed: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A folder that was written: its path, its files with their bytes."""

    path: str
    files: tuple[tuple[str, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)
