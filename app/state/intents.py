"""What the user (or a panel on their behalf) wants: a closed union of frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.state.acting_intents import ActingIntent as ActingIntent
from app.state.branch_intents import BranchIntent as BranchIntent
from app.state.desk_intents import CancelExperiment as CancelExperiment
from app.state.desk_intents import DeskIntent as DeskIntent
from app.state.desk_intents import LabIntent as LabIntent
from app.state.desk_intents import PickExperiment as PickExperiment
from app.state.desk_intents import SizeExperiment as SizeExperiment
from app.state.desk_intents import StartExperiment as StartExperiment
from app.state.image_intents import ImageIntent as ImageIntent
from app.state.state import ColourBy, Head, LayoutName, ModelChoice, NoticeKind, Preset, Tab
from app.state.twin_intents import TwinIntent as TwinIntent
from app.theme.palette import ThemeName
from core.contract import CacheSpec, Grammar, PictureQuery, ViewQuery


@dataclass(frozen=True, slots=True)
class Run:
    """Start a run on the draft prompt; a run in progress is replaced."""


@dataclass(frozen=True, slots=True)
class TogglePause:
    """Pause, or go on when paused."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token: of the paused run, or the first of a new one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run."""


@dataclass(frozen=True, slots=True)
class SetParameter:
    """Change a generation parameter; acts at the next token when a run is in progress.

    gesture: changes of one drag carry the same number and are undone together.
    """

    name: str
    value: object
    gesture: int | None = None


@dataclass(frozen=True, slots=True)
class ResetParameter:
    """Back to the model's (or the library's) default."""

    name: str


@dataclass(frozen=True, slots=True)
class ResetParameters:
    """Every parameter back to its default."""


@dataclass(frozen=True, slots=True)
class ChooseMode:
    """Decode in this mode of `app.state.modes`."""

    key: str


@dataclass(frozen=True, slots=True)
class SetModeText:
    """A field of `ModeTexts`: what the mode needs besides parameters."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ShowMore:
    """Show the rarely used parameters, or fold them away."""

    on: bool


@dataclass(frozen=True, slots=True)
class SetSeed:
    """The seed of the next run."""

    seed: int


@dataclass(frozen=True, slots=True)
class SetGrammar:
    """What the text of the next run must be; None: anything."""

    grammar: Grammar | None


@dataclass(frozen=True, slots=True)
class SetCache:
    """How the next run keeps its keys and values."""

    spec: CacheSpec


@dataclass(frozen=True, slots=True)
class SelectTab:
    """Text, chat, batch or image."""

    tab: Tab


@dataclass(frozen=True, slots=True)
class EditText:
    """The text of the Text tab. whole: not typed, but put there in one piece; a step of undo of its own."""

    text: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class EditBatch:
    """The lines of the Batch tab. whole: as for `EditText`."""

    text: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class EditSystem:
    """The system message of the chat."""

    text: str


@dataclass(frozen=True, slots=True)
class EditMessage:
    """The user message being written in the chat. whole: as for `EditText`."""

    text: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class EditTurn:
    """Another text for an earlier turn of the chat; an empty one is not sent."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class RemoveTurn:
    """Take a turn out of the chat."""

    index: int


@dataclass(frozen=True, slots=True)
class AddTurn:
    """An empty turn at the end of the chat, to be written by hand; the other role than the last one's."""


@dataclass(frozen=True, slots=True)
class Regenerate:
    """Run the chat again up to this turn: an answer is replaced, a message answered anew. Later turns go."""

    index: int


@dataclass(frozen=True, slots=True)
class ClearChat:
    """Forget the earlier turns."""


@dataclass(frozen=True, slots=True)
class TokenizeDraft:
    """Tokenise the draft as it is now (sent by the prompt panel once typing rests)."""


@dataclass(frozen=True, slots=True)
class SelectStep:
    """Every panel shows this step; None follows the newest again."""

    index: int | None


@dataclass(frozen=True, slots=True)
class MoveSelection:
    """Select the step so many tokens further on."""

    delta: int


@dataclass(frozen=True, slots=True)
class ShowRow:
    """Every panel shows this row of the batch; with beams the best one of it."""

    row: int


@dataclass(frozen=True, slots=True)
class ShowBeam:
    """Every panel shows the sequence that was this beam after step `index`, also if it died later."""

    row: int
    beam: int
    index: int


@dataclass(frozen=True, slots=True)
class SetFocus:
    """The layer and head that the attention views look at; all heads of the layer, where they are joined."""

    layer: int
    head: Head


@dataclass(frozen=True, slots=True)
class ToggleHead:
    """Take a head into the set of heads that are joined, or out of it. Another layer starts a new set."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class JoinHeads:
    """How the chosen heads are joined."""

    by: Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class SetColour:
    """The quantity that colours the tokens."""

    by: ColourBy


@dataclass(frozen=True, slots=True)
class ChooseModel:
    """Load a model; what is None stays as it was. One that is loaded already is loaded `again` only when asked to."""

    name: str | None = None
    device: str | None = None
    dtype: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class LookAt:
    """Say what a model would take, without loading it; None looks at nothing any more."""

    name: str | None


@dataclass(frozen=True, slots=True)
class CancelLoading:
    """Give up the load in progress."""


@dataclass(frozen=True, slots=True)
class OfferModels:
    """What the model chooser offers."""

    models: tuple[ModelChoice, ...]


@dataclass(frozen=True, slots=True)
class SetTheme:
    """Colours of the window."""

    theme: ThemeName


@dataclass(frozen=True, slots=True)
class SetLayout:
    """A named arrangement of the panels."""

    layout: LayoutName


@dataclass(frozen=True, slots=True)
class ResetLayout:
    """The named arrangement again, as it was before cards were moved."""


@dataclass(frozen=True, slots=True)
class AskView:
    """A visible panel wants a view; replaces an unanswered question in the same slot.

    chosen: of the moment shown; where the user has selected one, who waits for it, it goes before what is not.
    """

    slot: str
    query: ViewQuery | PictureQuery
    chosen: bool = True


@dataclass(frozen=True, slots=True)
class WithdrawView:
    """The panel is hidden: nobody waits for the answer in this slot any more."""

    slot: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Show a sentence to the user."""

    kind: NoticeKind
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DismissNotice:
    """The user has read it."""

    notice_id: int


@dataclass(frozen=True, slots=True)
class DismissError:
    """Out of the list of errors; None dismisses all of them."""

    notice_id: int | None


@dataclass(frozen=True, slots=True)
class Undo:
    """Take back the last edit of a parameter or the prompt."""


@dataclass(frozen=True, slots=True)
class Redo:
    """Do again what was taken back."""


@dataclass(frozen=True, slots=True)
class OfferPresets:
    """The presets that were found on the disk."""

    presets: tuple[Preset, ...]


@dataclass(frozen=True, slots=True)
class ImportPreset:
    """Add a preset and apply it; under another name where there is another one of its name."""

    preset: Preset


@dataclass(frozen=True, slots=True)
class ApplyPreset:
    """Every parameter as the preset has it; what it does not name goes back to its default."""

    name: str


@dataclass(frozen=True, slots=True)
class SavePreset:
    """The parameters in force under a name; an existing preset of that name is replaced, which can be undone."""

    name: str


@dataclass(frozen=True, slots=True)
class RemovePreset:
    """Delete a preset, which can be undone."""

    name: str


@dataclass(frozen=True, slots=True)
class SetSpeed:
    """Show at most so many tokens a second; None shows them as they come."""

    limit_tps: float | None


@dataclass(frozen=True, slots=True)
class SetTraceBudget:
    """Keep so many MiB of records of the next runs; beyond, the oldest are dropped."""

    mebibytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many tokens the store holds back (sent by the store)."""

    count: int
    ended: bool


Intent = (
    Run
    | TogglePause
    | Step
    | Stop
    | SetParameter
    | ResetParameter
    | ResetParameters
    | ChooseMode
    | SetModeText
    | ShowMore
    | SetSeed
    | SetCache
    | SetGrammar
    | SelectTab
    | EditText
    | EditBatch
    | EditSystem
    | EditMessage
    | EditTurn
    | RemoveTurn
    | AddTurn
    | Regenerate
    | ClearChat
    | TokenizeDraft
    | SelectStep
    | MoveSelection
    | ShowRow
    | ShowBeam
    | SetFocus
    | ToggleHead
    | JoinHeads
    | SetColour
    | ChooseModel
    | LookAt
    | CancelLoading
    | OfferModels
    | SetTheme
    | SetLayout
    | ResetLayout
    | AskView
    | WithdrawView
    | Announce
    | DismissNotice
    | DismissError
    | Undo
    | Redo
    | OfferPresets
    | ImportPreset
    | ApplyPreset
    | SavePreset
    | RemovePreset
    | SetSpeed
    | SetTraceBudget
    | Waiting
    | DeskIntent
    | ImageIntent
    | LabIntent
    | ActingIntent
    | BranchIntent
    | TwinIntent
)
