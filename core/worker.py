"""The one thread that imports torch, loads, runs and frees models.

Between two units of work (a prefill chunk, a decode step, a slice of a view) it takes all waiting commands,
never inside one. Views are derived within a set share of the time while tokens are produced, and at full
speed when nothing runs.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.allowance import Allowance
from core.chores import Chores
from core.contract.branches import DropBranch, StartBranch, SwitchBranch
from core.contract.cache_lab import RunExperiment, StopExperiment
from core.contract.commands import (
    Ask,
    CancelLoad,
    CancelOnnx,
    CheckOnnx,
    Command,
    DescribeConfig,
    DescribeOnnx,
    ExportOnnx,
    LoadModel,
    PauseRun,
    PreviewModel,
    PreviewPlan,
    ResumeRun,
    SaveModel,
    SetBreakpoints,
    SetInterventions,
    SetParams,
    Shutdown,
    StartRun,
    StopRun,
    Tokenize,
    Withdraw,
)
from core.contract.events import (
    CommandRefused,
    LoadFailed,
    ModelReady,
    StateChanged,
    WorkerState,
)
from core.contract.twins import EndTwin, StartTwin
from core.controls import Flags, LoadControl
from core.desk import Desk, error_report
from core.drafts import Drafts, Fetched
from core.experiments import Experiments
from core.going import Going
from core.mailbox import Mailbox
from core.shelf import Shelf

if TYPE_CHECKING:
    from core.models.loaded import LoadedModel

Inbox = queue.SimpleQueue[Command | Fetched]


def work(inbox: Inbox, mailbox: Mailbox, flags: Flags) -> None:
    """The worker thread's life. Should it end before it was told to, it says why."""
    worker = Worker(inbox, mailbox, flags)
    try:
        worker.run()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        mailbox.put(CommandRefused("Worker", error_report(problem)))
    finally:
        worker.enter(WorkerState.CLOSED)


class Worker:
    """State of the worker thread; only that thread calls its methods."""

    def __init__(self, inbox: Inbox, mailbox: Mailbox, flags: Flags) -> None:
        self.inbox, self.mailbox, self.flags = inbox, mailbox, flags
        self.state: WorkerState | None = None
        self.shelf = Shelf()
        self.going = Going(mailbox, self.shelf, self._interrupted, self.enter)
        self.loads_begun = 0
        self.interruptions_met = 0
        self.desk = Desk(mailbox)
        self.drafts = Drafts(inbox.put, mailbox, self._overtaken)
        self.chores = Chores(mailbox, self._overtaken)
        self.experiments = Experiments(mailbox, flags, self._interrupted)
        self.allowance = Allowance()

    @property
    def loaded(self) -> LoadedModel | None:
        """The model in use."""
        return self.shelf.loaded

    def enter(self, state: WorkerState) -> None:
        """Report a change of state."""
        if state is not self.state:
            self.mailbox.put(StateChanged(state))
            self.state = state

    def run(self) -> None:
        """Until `Shutdown`: take commands, do one unit of work, again."""
        self.enter(WorkerState.STARTING)
        import core.decode.session  # noqa: F401  torch and transformers, first imported here

        self.going.settle()
        while not self.flags.closing.is_set():
            try:
                for command in self._take_commands():
                    self._guarded(command)
                if not self.flags.closing.is_set():
                    self._go_on()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as problem:  # what session and desk have not turned into an answer themselves
                self._give_up(problem)
        self.chores.close()
        self.experiments.stop()
        self.going.end()
        self._forget_session()
        self.drafts.close()
        self.shelf.clear()

    def _go_on(self) -> None:
        """One unit of work."""
        if self.going.advancing:
            self._advance()
        elif self.going.refilling:
            self.going.refill()
        elif self.drafts.plan_wanted:
            self.drafts.plan(self.loaded, self.going.session, self.going.assistant)
        elif self.experiments:
            self.experiments.advance()
            if self.desk:
                self._derive_slice()
        elif self.desk:
            self._derive_slice()

    def _give_up(self, problem: BaseException) -> None:
        """End the run, or else the views asked for, and say why. Never raises: the thread would be gone."""
        try:
            if self.going.running:
                self.going.give_up(problem)
            else:
                self.desk.clear()
                self.mailbox.put(CommandRefused("Ask", error_report(problem)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as another:
            self.mailbox.put(CommandRefused("Worker", error_report(another)))
            self.going.settle()

    def _overtaken(self) -> Callable[[], bool]:
        """Whether from now on a load is asked for or given up, or all ends: what takes long beside it gives up."""
        flags, loads = self.flags, self.flags.loads()
        return lambda: flags.closing.is_set() or flags.loads() != loads

    # -- commands

    def _take_commands(self) -> list[Command | Fetched]:
        """All that wait; sleeps only when there is nothing to do. Superseded drafts are dropped."""
        commands: list[Command | Fetched] = []
        going = self.going
        busy = going.advancing or going.refilling or self.desk or self.drafts.plan_wanted or self.experiments
        if not busy:
            commands.append(self.inbox.get())
        while True:
            try:
                commands.append(self.inbox.get_nowait())
            except queue.Empty:
                break
        latest: dict[type, Command | Fetched] = {type(c): c for c in commands}
        drafts = Tokenize | PreviewModel | PreviewPlan | DescribeConfig | DescribeOnnx
        return [c for c in commands if not isinstance(c, drafts) or c is latest[type(c)]]

    def _guarded(self, command: Command | Fetched) -> None:
        if isinstance(command, LoadModel | StartRun | StopRun):
            self.interruptions_met += 1
        try:
            self._handle(command)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # some libraries raise outside Exception (pyo3 panics)
            epoch = command.epoch if isinstance(command, SetParams | SetInterventions) else None
            self.mailbox.put(CommandRefused(type(command).__name__, error_report(problem), epoch))
            self.going.release()

    def _handle(self, command: Command | Fetched) -> None:
        if isinstance(command, LoadModel | StartRun | StopRun):
            self.experiments.stop()
        match command:
            case LoadModel():
                self._load(command)
            case StartRun():
                self.going.start(command)
                self.desk.clear()
                self.allowance = Allowance()
            case PauseRun():
                self.going.pause()
            case ResumeRun():
                self.going.resume(command.max_steps)
            case StopRun():
                self.going.end()
            case RunExperiment() | StopExperiment():
                self.experiments.take(command, self.loaded, self.going.running)
            case StartBranch():
                self.going.part(command)
            case SwitchBranch():
                self.going.switch(command)
            case DropBranch():
                self.going.drop(command)
            case StartTwin():
                self.going.want_twin(command)
            case EndTwin():
                self.going.let_go()
            case SetParams() | SetInterventions() | SetBreakpoints():
                self.going.change(command)
            case Tokenize() | PreviewModel() | PreviewPlan():
                self.drafts.take(command, self.loaded)
            case Fetched():
                self.drafts.conclude(command)
            case Ask():
                self.desk.ask(command)
            case Withdraw():
                self.desk.withdraw(command.slot)
            case DescribeConfig() | SaveModel() | DescribeOnnx() | ExportOnnx() | CheckOnnx() | CancelOnnx():
                self.chores.carry_out(command, self.loaded)
            case CancelLoad() | Shutdown():
                pass  # their flags did the work

    def _load(self, command: LoadModel) -> None:
        self.loads_begun += 1
        control = LoadControl(command.model_id, self.loads_begun, self.flags, self.mailbox)
        self.going.end()
        try:
            self.enter(WorkerState.LOADING)
            loaded = self.shelf.load(command.spec, control)
            self._forget_session()
            self.shelf.use(loaded)
            self.mailbox.put(ModelReady(loaded.info))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            kept = None if self.loaded is None else self.loaded.info.title
            self.mailbox.put(LoadFailed(command.model_id, error_report(problem), kept))
        self.going.settle()

    def _interrupted(self) -> bool:
        """Whether a command waits that ends the run in progress."""
        return self.flags.closing.is_set() or self.flags.interruptions > self.interruptions_met

    def _advance(self) -> None:
        """Views within their share of the time, then one unit of the run.

        Views first: what was asked for during the unit before is not to wait for another one.
        """
        going = self.going
        while self.desk and self.allowance.allows(self.desk.awaited) and self.inbox.empty():
            awaited = self.desk.awaited
            self.allowance.spend(self._derive_slice(), awaited)
        self.allowance.earn(going.advance())
        if going.session is not None:
            going.report_vitals(going.session)

    def _derive_slice(self) -> float:
        spent_s = self.desk.derive_slice(self.going.branches.find, self.loaded)
        self.going.meter.view(spent_s)
        return spent_s

    def _forget_session(self) -> None:
        self.desk.clear()
        self.going.forget()
