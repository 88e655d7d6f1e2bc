"""The one frozen state of the window. No Qt; changed only by `app.state.update.update`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from app.state.acting_state import Acting
from app.state.branch_state import BranchState
from app.state.desk_state import CacheLab, ConfigDesk, OnnxDesk
from app.state.image_draft import ImageDraft
from app.state.run import RunView
from app.theme.palette import ThemeName
from core.contract import (
    Answered,
    CacheSpec,
    ChatMessage,
    ErrorReport,
    GenerationPlan,
    Grammar,
    ModelInfo,
    ModelPreview,
    ModelSpec,
    PictureQuery,
    PromptRow,
    RunSpec,
    ViewQuery,
    Vitals,
    WorkerState,
)

Tab = Literal["text", "chat", "batch", "image"]
ColourBy = Literal["probability", "entropy", "rank", "surprisal"]
LayoutName = Literal["sample", "attention", "cache", "everything", "model", "image"]
NoticeKind = Literal["info", "error"]
Head = int | Literal["mean", "max"]
ModelGroup = Literal["shipped", "cached", "new"]

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model the chooser offers; `name` is what `ModelSpec.name` takes, `reason` says why it is not available."""

    name: str
    title: str
    description: str = ""
    available: bool = True
    reason: str = ""
    group: ModelGroup = "shipped"


@dataclass(frozen=True, slots=True)
class Preview:
    """A model that is looked at before it is loaded: what was asked, and the answer once it is there."""

    generation: int
    spec: ModelSpec
    answer: ModelPreview | None = None
    error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of parameters: a GenerationConfig as JSON, every key as it came."""

    name: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Edit:
    """One step of undo: the fields it changed, with the values to go back to. Edits with the same `key` merge."""

    label: str
    key: object
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """What can be undone and redone, the newest last."""

    past: tuple[Edit, ...] = ()
    future: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """The reading speed. It holds back what is shown, never the model.

    limit_tps: tokens shown a second; None shows everything at once. waiting: tokens generated but not shown yet.
    ended: the run is over, its last tokens still wait. paused: the user stopped the display while tokens wait.
    """

    limit_tps: float | None = None
    waiting: int = 0
    ended: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Loading:
    """A load in progress. `fraction` is None while unknown."""

    model_id: int
    spec: ModelSpec
    stage: str = ""
    fraction: float | None = None
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """The prompt being edited. `generation` grows with every edit; `tokenized` belongs to `tokenized_generation`.

    turns: earlier turns of the chat, without the system message; `message` is the one being written.
    batch: prompts to be run together, one a line, see `app.state.batch`.
    image: the picture that an image model goes on with.
    touched: the user edited the text, so that a new model does not replace it by its own sample.
    """

    tab: Tab = "text"
    text: str = ""
    system: str = ""
    turns: tuple[ChatMessage, ...] = ()
    message: str = ""
    batch: str = ""
    image: ImageDraft = field(default_factory=ImageDraft)
    touched: bool = False
    generation: int = 0
    tokenized: PromptRow | None = None
    tokenized_generation: int = -1
    token_error: ErrorReport | None = None


@dataclass(frozen=True, slots=True)
class ModeTexts:
    """What some modes need besides parameters; None: the mode is not chosen.

    force_words: phrases that must be said, one a line, alternatives between `|`. assistant: the draft model's name.
    negative: the prompt that guidance steers away from.
    """

    force_words: str | None = None
    assistant: str | None = None
    negative: str | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The run that was asked for last, until `RunStarted` confirms it or `CommandRefused` ends it.

    turns: of the chat at that moment.
    """

    run_id: int
    spec: RunSpec
    tab: Tab
    turns: tuple[ChatMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Answering:
    """A run that answers a turn of the chat, until it ends. index: where that turn was when the run began."""

    run_id: int
    question: ChatMessage
    index: int


@dataclass(frozen=True, slots=True)
class AttentionFocus:
    """What the attention views look at: a head, or the mean or maximum over heads of the layer.

    chosen: the heads that are joined; empty means all of them.
    """

    layer: int = 0
    head: Head = "mean"
    chosen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """One sentence for the user, shown until dismissed; `count` grows when the same one comes again."""

    notice_id: int
    kind: NoticeKind
    text: str
    detail: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Question:
    """What a panel asked for last in a slot."""

    generation: int
    query: ViewQuery | PictureQuery


@dataclass(frozen=True, slots=True)
class AppState:
    """Everything the window shows.

    preview: the model being looked at in the chooser. recent_*: the newest first, kept between starts.
    overrides: parameters the user changed, by name; the rest comes from the model (see `select.params`).
    config: the GenerationConfig applied last, with the keys that mean nothing here: they are kept when it is saved.
    grammar: the constraint of the next run; one with an empty text is still being written.
    cache: how the next run keeps its keys and values.
    plan, plan_error: what Run would do now, or why it could not begin; `plan_generation` counts the questions.
    reroll: how often the answer to the same messages was asked for again; other draws each time.
    pending: parameter name → epoch of the change that no step has run under yet.
    waiting: parameter name → why its new value acts at the next run only.
    requested: the run asked for but not started yet. run: the branch in use of the newest run, or of one gone back to.
    stepping: the run goes on step by step, as often as it is asked to.
    selected: index of the selected step; None follows the newest one.
    asked, answers: per slot, the last question and the last answer. An answer may belong to an earlier question
        of the same slot: compare `answer.query` with what you want to show.
    """

    worker: WorkerState = WorkerState.STARTING
    models: tuple[ModelChoice, ...] = ()
    spec: ModelSpec = field(default_factory=lambda: ModelSpec("tiny-gpt2"))
    model: ModelInfo | None = None
    loading: Loading | None = None
    preview: Preview | None = None
    recent_models: tuple[str, ...] = ()
    recent_prompts: tuple[str, ...] = ()
    draft: Draft = field(default_factory=Draft)
    overrides: Mapping[str, object] = field(default_factory=lambda: EMPTY)
    config: Mapping[str, object] = field(default_factory=lambda: EMPTY)
    presets: tuple[Preset, ...] = ()
    mode_texts: ModeTexts = field(default_factory=ModeTexts)
    more: bool = False  # the rarely used parameters are shown, too
    seed: int = 0
    reroll: int = 0
    trace_budget_mb: int = 1024  # of records, of the next run
    grammar: Grammar | None = None
    cache: CacheSpec = field(default_factory=CacheSpec)
    plan: GenerationPlan | None = None
    plan_error: ErrorReport | None = None
    plan_generation: int = 0
    history: History = field(default_factory=History)
    pace: Pace = field(default_factory=Pace)
    epoch: int = 0
    pending: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    waiting: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    requested: RunRequest | None = None
    answering: Answering | None = None
    stepping: bool = False
    run: RunView | None = None
    branches: BranchState = field(default_factory=BranchState)
    selected: int | None = None
    focus: AttentionFocus = field(default_factory=AttentionFocus)
    colour_by: ColourBy = "probability"
    theme: ThemeName = "light"
    layout: LayoutName = "everything"
    arrangement: int = 0  # grows whenever the layout is asked for, also for the one that is there
    notices: tuple[Notice, ...] = ()
    errors: tuple[Notice, ...] = ()  # every kind of error so far, until dismissed
    vitals: Vitals | None = None
    asked: Mapping[str, Question] = field(default_factory=lambda: EMPTY)
    answers: Mapping[str, Answered] = field(default_factory=lambda: EMPTY)
    deriving: Mapping[str, tuple[int, float]] = field(default_factory=lambda: EMPTY)  # slot → question, how far it is
    config_desk: ConfigDesk = field(default_factory=ConfigDesk)
    onnx: OnnxDesk = field(default_factory=OnnxDesk)
    cache_lab: CacheLab = field(default_factory=CacheLab)
    acting: Acting = field(default_factory=Acting)
    # Counters: the last identifier given out.
    last_model_id: int = 0
    last_run_id: int = 0
    last_generation: int = 0
    last_notice_id: int = 0
    answer_floor: int = 0  # answers up to this generation belong to an earlier run
