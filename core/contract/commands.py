"""What goes into the worker: a closed union of frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.contract.branches import DropBranch, StartBranch, SwitchBranch
from core.contract.breakpoints import Breakpoint
from core.contract.cache_lab import RunExperiment, StopExperiment
from core.contract.interventions import Intervention
from core.contract.picture import PictureQuery
from core.contract.specs import ModelSpec, Prompt, RunSpec
from core.contract.twins import EndTwin, StartTwin
from core.contract.views import ViewQuery


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load a model; the current one stays in use until the new one is ready."""

    spec: ModelSpec
    model_id: int


@dataclass(frozen=True, slots=True)
class CancelLoad:
    """Give up a load or conversion in progress; takes effect at once, not in turn."""


@dataclass(frozen=True, slots=True)
class PreviewModel:
    """Say what a model would take, without loading it. A later one replaces an earlier one not answered yet."""

    generation: int
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class PreviewPlan:
    """Say what a run would do, without running it; while tokens are produced the answer waits for a pause or the end.

    A later one replaces an earlier one that was not answered yet.
    """

    generation: int
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start a run on the loaded model; a run in progress is stopped first."""

    run_id: int
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class PauseRun:
    """Pause between two steps (or prefill chunks)."""


@dataclass(frozen=True, slots=True)
class ResumeRun:
    """Go on. `max_steps` pauses again after so many steps (1: a single step); those under way are added to them."""

    max_steps: int | None = None


@dataclass(frozen=True, slots=True)
class StopRun:
    """End the run; takes effect within one layer of the model, not in turn."""


@dataclass(frozen=True, slots=True)
class SetParams:
    """Change parameters of the run in progress; acts at the next token, reported by its epoch."""

    changes: Mapping[str, object]
    epoch: int


@dataclass(frozen=True, slots=True)
class SetInterventions:
    """Intervene in the run with exactly these from the next position on that is fed, reported by the epoch."""

    run_id: int
    interventions: tuple[Intervention, ...]
    epoch: int


@dataclass(frozen=True, slots=True)
class SetBreakpoints:
    """Stop the run at exactly these from the next token on."""

    run_id: int
    breakpoints: tuple[Breakpoint, ...]


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Tokenise a draft prompt. A later one replaces an earlier one that was not answered yet."""

    generation: int
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for a view. A later question in the same slot replaces an earlier one; late answers carry their number.

    chosen: somebody waits for it, because they have just chosen this moment: it comes first, and while tokens are
        produced it may take some of its share of the time in advance.
    """

    slot: str
    generation: int
    query: ViewQuery | PictureQuery
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Drop the waiting question of a slot (the panel was hidden)."""

    slot: str


@dataclass(frozen=True, slots=True)
class DescribeConfig:
    """Explain a configuration. A later one replaces an earlier one not answered yet.

    subject: a family (`gpt2`, `llama`, `qwen2`, `imagegpt`), a name beginning with `new:`, a config.json, a folder or
        name of a model on this disk; empty for the loaded model.
    changes: fields set otherwise, by name or alias; texts are read as the fields need them.
    seed: of the weights of a model made of it; None for the one in the subject, else 0.
    """

    generation: int
    subject: str
    changes: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SaveModel:
    """Write the model of random weights that a name beginning with `new:` means into a new folder."""

    save_id: int
    name: str
    folder: str


@dataclass(frozen=True, slots=True)
class DescribeOnnx:
    """Say what the loaded model looks like as an ONNX graph. A later one replaces an earlier one not answered yet."""

    generation: int


@dataclass(frozen=True, slots=True)
class ExportOnnx:
    """Export the loaded model to a file, in a child process; one at a time. past: with keys and values as inputs.

    check: compare it in onnxruntime afterwards.
    """

    job_id: int
    path: str
    opset: int
    past: bool = True
    check: bool = True


@dataclass(frozen=True, slots=True)
class CheckOnnx:
    """Compare a graph exported before with the loaded model, in a child process."""

    job_id: int
    path: str


@dataclass(frozen=True, slots=True)
class CancelOnnx:
    """Give up the export or check in progress."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the worker; takes effect within one layer of the model."""


Command = (
    LoadModel
    | CancelLoad
    | PreviewModel
    | PreviewPlan
    | StartRun
    | PauseRun
    | ResumeRun
    | StopRun
    | SetParams
    | SetInterventions
    | SetBreakpoints
    | Tokenize
    | Ask
    | Withdraw
    | DescribeConfig
    | SaveModel
    | DescribeOnnx
    | ExportOnnx
    | CheckOnnx
    | CancelOnnx
    | RunExperiment
    | StopExperiment
    | StartBranch
    | SwitchBranch
    | DropBranch
    | StartTwin
    | EndTwin
    | Shutdown
)
