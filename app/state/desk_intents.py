"""What the user wants of the Config, ONNX and Cache lab cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.contract import ExperimentName


@dataclass(frozen=True, slots=True)
class OpenConfig:
    """Look at a configuration, unchanged; see `DescribeConfig` for the subject. reveal: bring the card up."""

    subject: str
    reveal: bool = False


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """Set a field, as it was typed."""

    name: str
    value: object


@dataclass(frozen=True, slots=True)
class ResetConfig:
    """A field back to what the subject says; None: all of them."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class SetWeightSeed:
    """Seed of the random weights of a model made of the configuration."""

    seed: int


@dataclass(frozen=True, slots=True)
class SaveConfigured:
    """Write the model of random weights into a new folder."""

    folder: str


@dataclass(frozen=True, slots=True)
class AskOnnx:
    """Describe the loaded model as a graph."""


@dataclass(frozen=True, slots=True)
class ExportGraph:
    """Export the loaded model, then check it."""

    path: str
    opset: int
    past: bool


@dataclass(frozen=True, slots=True)
class CheckGraph:
    """Compare a file exported before with the loaded model."""

    path: str


@dataclass(frozen=True, slots=True)
class CancelGraph:
    """Give up the export or check in progress."""


DeskIntent = (
    OpenConfig
    | ChangeConfig
    | ResetConfig
    | SetWeightSeed
    | SaveConfigured
    | AskOnnx
    | ExportGraph
    | CheckGraph
    | CancelGraph
)


@dataclass(frozen=True, slots=True)
class PickExperiment:
    """Look at another experiment; nothing runs yet."""

    name: ExperimentName


ExperimentSize = Literal["new_tokens", "positions", "chunk_sizes", "window", "sinks", "heavy"]


@dataclass(frozen=True, slots=True)
class SizeExperiment:
    """Set a size of the experiment looked at, as it was typed; an empty text is its default. Nothing runs yet."""

    name: ExperimentSize
    text: str


@dataclass(frozen=True, slots=True)
class StartExperiment:
    """Run it on the loaded model, with the prompt of the draft."""


@dataclass(frozen=True, slots=True)
class CancelExperiment:
    """Give it up; what was found stays."""


LabIntent = PickExperiment | SizeExperiment | StartExperiment | CancelExperiment
