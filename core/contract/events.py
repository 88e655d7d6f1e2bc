"""What comes out of the worker: a closed union of frozen dataclasses (and `StepSnapshot`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.contract.branches import BranchesHeld, BranchStarted, BranchSwitched
from core.contract.breakpoints import Breakpoint
from core.contract.cache_lab import ExperimentFinished, ExperimentProgress
from core.contract.configs import ConfigDescription, SavedModel
from core.contract.detail import Hypothesis
from core.contract.errors import ErrorReport
from core.contract.interventions import Intervention
from core.contract.onnx import OnnxDescription, OnnxOutcome
from core.contract.params import GenerationParams
from core.contract.picture import ImageFacts, PictureAnswer
from core.contract.plan import GenerationPlan
from core.contract.preview import ModelPreview
from core.contract.snapshot import StepSnapshot
from core.contract.specs import ModelSpec
from core.contract.twins import BranchesGone
from core.contract.views import ViewAnswer


class WorkerState(StrEnum):
    """What the worker is doing."""

    STARTING = "starting"  # importing torch and transformers
    NO_MODEL = "no_model"
    LOADING = "loading"
    READY = "ready"
    PREFILL = "prefill"
    DECODING = "decoding"
    PAUSED = "paused"
    CLOSED = "closed"


class FinishReason(StrEnum):
    """Why a row or a run ended."""

    STOP = "stop"  # EOS or a stop string
    LENGTH = "length"  # max_new_tokens
    LENGTH_LIMIT = "length_limit"  # the model's positions
    TIME = "time"
    CANCELLED = "cancelled"
    BREAKPOINT = "breakpoint"


@dataclass(frozen=True, slots=True)
class ViewStatus:
    """Whether a derived view passed the self-test at load; if not, why."""

    view: str  # "attention", "distribution"
    available: bool
    reason: str = ""
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model, in numbers."""

    model_id: int
    spec: ModelSpec
    title: str
    family: str  # config.model_type
    device: str
    dtype: str  # bf16 | fp32 | fp16
    parameters: int
    weight_bytes: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    sliding_window: int | None
    kv_bytes_per_token: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    defaults: GenerationParams
    from_generation_config: frozenset[str]  # names of `defaults` that the model's generation_config sets
    views: tuple[ViewStatus, ...]
    load_ms: float
    revision: str = ""  # the commit, for models of the hub
    notices: tuple[str, ...] = ()  # what was left out or should be known, one sentence each
    image: ImageFacts | None = None  # what it paints, where tokens are pixels
    layer_windows: tuple[int | None, ...] = ()  # of each layer; empty where none slides

    @property
    def output_size(self) -> int:
        """Tokens that can be chosen: the vocabulary, for image models without the start token."""
        return self.vocab_size if self.image is None else len(self.image.palette)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One tokenised prompt: ids and the text of each token, as shown."""

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    rendered: str  # the text that was tokenised, the chat template applied


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The worker's state, whenever it changes."""

    state: WorkerState


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Progress of a load or conversion; fraction in [0, 1], None while unknown."""

    model_id: int
    stage: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The new model is in use."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The load failed or was cancelled; `kept` names the model that stays in use."""

    model_id: int
    error: ErrorReport
    kept: str | None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run was accepted: its prompt as tokens, its resolved parameters, the plan."""

    model_id: int
    run_id: int
    branch_id: int
    rows: tuple[PromptRow, ...]
    params: GenerationParams
    seed: int
    max_length: int  # positions the sequence may fill, prompt included
    plan: GenerationPlan
    reused_positions: int = 0  # taken over from the run before, not fed again
    interventions: tuple[Intervention, ...] = ()  # in force from the first position on


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Positions of the prompt that were fed, of how many."""

    run_id: int
    done: int
    total: int
    elapsed_ms: float
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class HypothesisEnded:
    """A beam is complete; `index` is the step that completed it. Follows the snapshots of that step."""

    run_id: int
    index: int
    hypothesis: Hypothesis
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class ParamsApplied:
    """New parameters are in force from the token with index `index` on."""

    run_id: int
    epoch: int
    index: int
    params: GenerationParams
    changed: tuple[str, ...]
    plan: GenerationPlan | None = None  # the run's plan as it is now
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class InterventionsApplied:
    """These interventions, and no others, are in force for the positions fed from now on.

    index: of the token that is chosen next.
    """

    run_id: int
    epoch: int
    index: int
    interventions: tuple[Intervention, ...]
    plan: GenerationPlan | None = None  # the run's plan as it is now
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class BreakpointHit:
    """A run stopped after the token with this index, before the next one; it can go on.

    value: what was compared (bits, probability, rank, weight, bytes, tokens, or the matched text, or the token's).
    """

    run_id: int
    index: int
    breakpoint: Breakpoint
    value: float | int | str
    row: int = 0
    beam: int = 0
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class BreakpointProblem:
    """A breakpoint cannot be looked at in this run and is left out from here on; `reason` is one sentence."""

    run_id: int
    breakpoint: Breakpoint
    reason: str
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over; its trace stays for views until the next run or model."""

    run_id: int
    finish_reason: str
    finish_reasons: tuple[str, ...]  # one a row
    texts: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]
    prompt_tokens: tuple[int, ...]
    new_tokens: int
    ttft_ms: float | None
    tokens_per_s: float | None  # decode only: first token and prefill excluded
    error: ErrorReport | None = None
    scores: tuple[float, ...] | None = None  # of beams, one a sequence: log-probability / length ** length_penalty
    places: tuple[tuple[int, int, int | None], ...] = ()  # row, beam, index by which views find each sequence
    branch_id: int = 0


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """A command could not be carried out; nothing changed."""

    command: str
    error: ErrorReport
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A draft prompt as tokens, or why it cannot be tokenised. Latest-wins lane."""

    generation: int
    row: PromptRow | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to an `Ask`, or the reason there is none. Latest-wins lane, one a slot.

    first_recorded: where records were dropped, the position from which on they are there.
    """

    slot: str
    generation: int
    answer: ViewAnswer | PictureAnswer | None
    error: ErrorReport | None = None
    can_recompute: bool = False
    derive_ms: float = 0.0
    first_recorded: int = 0


@dataclass(frozen=True, slots=True)
class Deriving:
    """How far the answer to an `Ask` is, fraction in [0, 1]; of views that take long. Latest-wins lane, one a slot."""

    slot: str
    generation: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the tool itself costs: share of time spent on probes and views over the last second. Latest-wins lane."""

    run_id: int
    probe_share: float  # in [0, 1]
    trace_bytes: int


@dataclass(frozen=True, slots=True)
class ModelPreviewed:
    """The answer to a `PreviewModel`, or the reason there is none. Latest-wins lane."""

    generation: int
    preview: ModelPreview | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class ConfigDescribed:
    """The answer to a `DescribeConfig`, or the reason there is none. Latest-wins lane."""

    generation: int
    description: ConfigDescription | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class SaveProgress:
    """How far a `SaveModel` is; fraction in [0, 1], None while unknown. Latest-wins lane."""

    save_id: int
    stage: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSaved:
    """The folder was written, or the reason it was not."""

    save_id: int
    saved: SavedModel | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class OnnxDescribed:
    """The answer to a `DescribeOnnx`, or the reason there is none. Latest-wins lane."""

    generation: int
    description: OnnxDescription | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class OnnxProgress:
    """How far an export or check is; fraction in [0, 1], None while unknown. Latest-wins lane."""

    job_id: int
    stage: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class OnnxFinished:
    """An export or check is over; `error` says why it came to nothing."""

    job_id: int
    outcome: OnnxOutcome | None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer to a `PreviewPlan`: what a run would do, or why it could not begin. Latest-wins lane."""

    generation: int
    plan: GenerationPlan | None
    error: ErrorReport | None = None


Event = (
    StateChanged
    | Deriving
    | LoadProgress
    | ModelReady
    | LoadFailed
    | RunStarted
    | PrefillProgress
    | StepSnapshot
    | HypothesisEnded
    | ParamsApplied
    | InterventionsApplied
    | BreakpointHit
    | BreakpointProblem
    | RunFinished
    | CommandRefused
    | Tokenized
    | Answered
    | Vitals
    | ModelPreviewed
    | ConfigDescribed
    | SaveProgress
    | ModelSaved
    | OnnxDescribed
    | OnnxProgress
    | OnnxFinished
    | Planned
    | ExperimentProgress
    | ExperimentFinished
    | BranchStarted
    | BranchSwitched
    | BranchesHeld
    | BranchesGone
)
