"""What is said about something that is not run: a model previewed, a draft prompt in tokens, the plan of a run.

Only the worker thread calls it. What another process or the network has to say is waited for beside the worker
(`core.errands`): no run and no view waits for a draft. Of the commands of one kind only the latest is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from core.contract.commands import Command, PreviewModel, PreviewPlan, Tokenize
from core.contract.errors import ErrorReport
from core.contract.events import CommandRefused, ModelPreviewed, Planned, PromptRow, Tokenized
from core.contract.specs import ModelSpec
from core.controls import QuietControl
from core.desk import error_report
from core.errands import Cancelled, Errands
from core.mailbox import Mailbox

if TYPE_CHECKING:
    from core.decode.session import Session
    from core.models.download import Survey
    from core.models.loaded import LoadedModel

T = TypeVar("T")
Draft = Tokenize | PreviewModel | PreviewPlan


@dataclass(frozen=True, slots=True)
class Fetched:
    """An errand is done: `conclude` answers the command, unless a later one of its kind has come since."""

    command: Draft
    conclude: Callable[[], None]


class Drafts:
    """put: hands the worker what an errand brought. overtaken: makes a test whether what takes long is given up."""

    def __init__(
        self, put: Callable[[Command | Fetched], None], mailbox: Mailbox, overtaken: Callable[[], Callable[[], bool]]
    ) -> None:
        self._put, self._mailbox, self._overtaken = put, mailbox, overtaken
        self._errands = Errands(lambda problem: mailbox.put(CommandRefused("Tokenize", error_report(problem))))
        self._latest: dict[type, Draft] = {}  # of the commands that are answered by errands
        self._plan: PreviewPlan | None = None

    def take(self, draft: Draft, loaded: LoadedModel | None) -> None:
        """Answer it, or begin to."""
        match draft:
            case PreviewModel():
                self._preview(draft)
            case Tokenize():
                self._tokenize(draft, loaded)
            case PreviewPlan():
                self._plan_soon(draft, loaded)

    def conclude(self, fetched: Fetched) -> None:
        """Answer with what an errand brought."""
        if fetched.command is self._latest.get(type(fetched.command)):
            fetched.conclude()

    def close(self) -> None:
        """Recall all errands and wait for them."""
        self._errands.close()

    # -- models

    def _preview(self, command: PreviewModel) -> None:
        """What the hub says is waited for beside the worker; the rest takes milliseconds."""
        from core.models.preview import asks_the_hub, survey_hub

        def survey(recalled: Cancelled) -> None:
            control = QuietControl(lambda: recalled() or overtaken())
            found = _outcome(lambda: survey_hub(command.spec, control))
            self._put(Fetched(command, lambda: self._answer_preview(command, found)))

        overtaken = self._overtaken()
        self._latest[PreviewModel] = command
        self._errands.recall("preview")
        far = _outcome(lambda: asks_the_hub(command.spec))
        if far is True:
            self._errands.send("preview", survey)
        else:
            self._answer_preview(command, far or None)

    def _answer_preview(self, command: PreviewModel, found: Survey | ErrorReport | None) -> None:
        from core.models.preview import preview

        answer = found if isinstance(found, ErrorReport) else _outcome(lambda: preview(command.spec, found=found))
        report = answer if isinstance(answer, ErrorReport) else None
        shown = None if isinstance(answer, ErrorReport) else answer
        self._mailbox.put_latest("preview", ModelPreviewed(command.generation, shown, report))

    # -- prompts

    def _tokenize(self, command: Tokenize, loaded: LoadedModel | None) -> None:
        from core.decode.prepare import tokenize

        if loaded is None:
            return

        def encode(recalled: Cancelled) -> None:
            row = _outcome(lambda: tokenize(loaded, command.prompt, recalled))
            self._put(Fetched(command, lambda: self._answer_draft(command, row)))

        self._latest[Tokenize] = command
        if loaded.text.confined:
            self._errands.send("draft", encode)
        else:
            self._answer_draft(command, _outcome(lambda: tokenize(loaded, command.prompt)))

    def _answer_draft(self, command: Tokenize, row: PromptRow | ErrorReport) -> None:
        if isinstance(row, ErrorReport):
            answer = Tokenized(command.generation, None, row)
        else:
            answer = Tokenized(command.generation, row)
        self._mailbox.put_latest("tokenized", answer)

    # -- plans

    @property
    def plan_wanted(self) -> bool:
        """Whether a plan waits for `plan`, which takes a pause between tokens."""
        return self._plan is not None

    def _plan_soon(self, command: PreviewPlan, loaded: LoadedModel | None) -> None:
        """In the next pause; where a prompt is encoded in another process, once that is done."""
        from core.decode.prepare import tokenize

        if loaded is None or not loaded.text.confined:
            self._plan = command
            return

        def encode(recalled: Cancelled) -> None:  # the results are kept for the session
            rows = [_outcome(partial(tokenize, loaded, prompt, recalled)) for prompt in command.spec.prompts]
            refused = next((row for row in rows if isinstance(row, ErrorReport)), None)
            self._put(Fetched(command, lambda: self._plan_now(command, refused)))

        self._latest[PreviewPlan] = command
        self._errands.send("plan", encode)

    def _plan_now(self, command: PreviewPlan, refused: ErrorReport | None) -> None:
        if refused is None:
            self._plan = command
        else:
            self._mailbox.put_latest("plan", Planned(command.generation, None, refused))

    def plan(
        self,
        loaded: LoadedModel | None,
        before: Session | None,
        assistant: Callable[[ModelSpec | None], LoadedModel | None],
    ) -> None:
        """What a run would do, read off a session that is not run. `assistant` loads the draft model."""
        from core.decode.session import Session

        wanted, self._plan = self._plan, None
        if wanted is None or loaded is None:
            return
        try:
            session = Session(loaded, wanted.spec, before=before, assistant=assistant(wanted.spec.assistant))
            answer = Planned(wanted.generation, session.started.plan)
            session.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            answer = Planned(wanted.generation, None, error_report(problem))
        self._mailbox.put_latest("plan", answer)


def _outcome(work: Callable[[], T]) -> T | ErrorReport:
    """What the work returns, or why it does not."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        return error_report(problem)
