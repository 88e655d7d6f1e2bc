"""What the Config, ONNX and Cache lab cards show. Plain data; `desks.py` and `cache_lab.py` change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from core.contract import (
    ConfigDescription,
    ErrorReport,
    Experiment,
    ExperimentName,
    LabResult,
    OnnxDescription,
    OnnxOutcome,
    Prompt,
    SavedModel,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Something that takes long: its number, and how far it is (None while unknown)."""

    number: int
    stage: str = ""
    fraction: float | None = None
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class ConfigDesk:
    """The configuration being looked at.

    subject: None until the card was first seen; else see `DescribeConfig`. generation: of the last question; answered:
    of `description` and `error`. reveal grows whenever the card is to come up.
    """

    subject: str | None = None
    changes: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    generation: int = 0
    answered: int = 0
    description: ConfigDescription | None = None
    error: ErrorReport | None = None
    saving: Progress | None = None
    saved: SavedModel | None = None
    save_error: ErrorReport | None = None
    reveal: int = 0


@dataclass(frozen=True, slots=True)
class OnnxDesk:
    """The loaded model as a graph, the export in progress, and what the last one came to."""

    generation: int = 0
    description: OnnxDescription | None = None
    error: ErrorReport | None = None
    working: Progress | None = None
    outcome: OnnxOutcome | None = None
    outcome_model: int = 0  # the model it belongs to
    failure: ErrorReport | None = None
    last_number: int = 0


@dataclass(frozen=True, slots=True)
class CacheLab:
    """result: of the experiment in progress so far, or of the last one. stopped: it was given up before its end.

    sized: the sizes of each experiment that has others than the usual ones; its prompt comes when it starts.
    """

    name: ExperimentName = "why"
    sized: Mapping[ExperimentName, Experiment] = field(default_factory=lambda: MappingProxyType({}))
    working: Progress | None = None
    result: LabResult | None = None
    stopped: bool = False
    error: ErrorReport | None = None
    last_number: int = 0

    @property
    def asked(self) -> Experiment:
        """The experiment looked at, with its sizes."""
        return self.sized.get(self.name, Experiment(self.name, Prompt(text="")))
