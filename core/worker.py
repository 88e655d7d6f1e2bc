"""The one thread that imports torch, loads, runs and frees models.

Between two units of work (a prefill chunk, a decode step, a slice of a view) it takes all waiting commands,
never inside one. Views are derived within a set share of the time while tokens are produced, and at full
speed when nothing runs.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import perf_counter
from typing import TYPE_CHECKING

from core.branches import Branches, broken_off
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
from core.contract.errors import PromptError, TokenglassError
from core.contract.events import (
    BreakpointHit,
    CommandRefused,
    Event,
    LoadFailed,
    ModelReady,
    StateChanged,
    Vitals,
    WorkerState,
)
from core.contract.snapshot import StepSnapshot
from core.contract.specs import ModelSpec
from core.controls import Flags, LoadControl, QuietControl
from core.desk import Desk, Meter, error_report, typed_error
from core.drafts import Drafts, Fetched
from core.experiments import Experiments
from core.mailbox import Mailbox

if TYPE_CHECKING:
    from core.decode.session import Session
    from core.models.loaded import LoadedModel

VIEW_SHARE = 0.08  # of the worker's time while it decodes
MOST_CREDIT_S = 0.05  # unused share does not pile up into a stall
MOST_DEBT_S = 0.06  # taken in advance where somebody waits; paid back before anything else is derived


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
        self.loaded: LoadedModel | None = None
        self.assistant: LoadedModel | None = None  # the draft model used last
        self.branches = Branches()
        self.loads_begun = 0
        self.interruptions_met = 0
        self.running = False
        self.steps_left: int | None = None
        self.paused_at: float | None = None
        self.desk = Desk(mailbox)
        self.drafts = Drafts(inbox.put, mailbox, self._overtaken)
        self.chores = Chores(mailbox, self._overtaken)
        self.experiments = Experiments(mailbox, flags, self._interrupted)
        self.credit_s = 0.0
        self.meter = Meter()
        self.hooks = ExitStack()  # the running session's hooks

    @property
    def session(self) -> Session | None:
        """The branch in use: the run."""
        return self.branches.current

    def enter(self, state: WorkerState) -> None:
        """Report a change of state."""
        if state is not self.state:
            self.mailbox.put(StateChanged(state))
            self.state = state

    def run(self) -> None:
        """Until `Shutdown`: take commands, do one unit of work, again."""
        self.enter(WorkerState.STARTING)
        import core.decode.session  # noqa: F401  torch and transformers, first imported here

        self._settle()
        while not self.flags.closing.is_set():
            for command in self._take_commands():
                self._guarded(command)
            if self.flags.closing.is_set():
                break
            try:
                if self._advancing:
                    self._advance()
                elif self._refilling:
                    self._refill()
                elif self.drafts.plan_wanted:
                    self._plan()
                elif self.experiments:
                    self.experiments.advance()
                    if self.desk:
                        self._derive_slice()
                elif self.desk:
                    self._derive_slice()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as problem:  # what session and desk have not turned into an answer themselves
                self._give_up(problem)
        self.chores.close()
        self.experiments.stop()
        self._end_run()
        self._forget_session()
        self.drafts.close()
        self.loaded = self.assistant = None

    def _give_up(self, problem: BaseException) -> None:
        """End the run, or else the views asked for, and say why. Never raises: the thread would be gone."""
        try:
            if self.running and self.session is not None:
                self.session.error = self.session.error or typed_error(problem)
                self._end_run()
            else:
                self.desk.clear()
                self.mailbox.put(CommandRefused("Ask", error_report(problem)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as another:
            self.mailbox.put(CommandRefused("Worker", error_report(another)))
            self._settle()

    def _overtaken(self) -> Callable[[], bool]:
        """Whether from now on a load is asked for or given up, or all ends: what takes long beside it gives up."""
        flags, loads = self.flags, self.flags.loads()
        return lambda: flags.closing.is_set() or flags.loads() != loads

    # -- commands

    def _take_commands(self) -> list[Command | Fetched]:
        """All that wait; sleeps only when there is nothing to do. Superseded drafts are dropped."""
        commands: list[Command | Fetched] = []
        busy = self._advancing or self._refilling or self.desk or self.drafts.plan_wanted or self.experiments
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
        try:
            self._handle(command)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # some libraries raise outside Exception (pyo3 panics)
            epoch = command.epoch if isinstance(command, SetParams | SetInterventions) else None
            self.mailbox.put(CommandRefused(type(command).__name__, error_report(problem), epoch))
            if not self.running:
                self.hooks.close()
            self._settle()

    def _handle(self, command: Command | Fetched) -> None:
        if isinstance(command, LoadModel | StartRun | StopRun):
            self.interruptions_met += 1
            self.experiments.stop()
        match command:
            case LoadModel():
                self._load(command)
            case StartRun():
                self._start(command)
            case PauseRun():
                self._pause()
            case ResumeRun():
                self._resume(command.max_steps)
            case StopRun():
                self._end_run()
            case RunExperiment() | StopExperiment():
                self.experiments.take(command, self.loaded, self.running)
            case StartBranch():
                self._part(command)
            case SwitchBranch():
                self._switch(command)
            case DropBranch():
                ended = self.branches.drop(command.run_id, command.branch_id)
                if ended is not None:
                    self.mailbox.put(ended.result())
                self._report_branches()
            case SetParams() | SetInterventions() | SetBreakpoints():
                self._change_run(command)
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
        from core.decode.selftest import qualify
        from core.models.loader import load

        self.loads_begun += 1
        control = LoadControl(command.model_id, self.loads_begun, self.flags, self.mailbox)
        self._end_run()
        try:
            self.enter(WorkerState.LOADING)
            loaded = qualify(load(command.spec, command.model_id, control), control.cancelled)
            self._forget_session()
            self.assistant = None
            self.mailbox.put(ModelReady(loaded.info))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            kept = None if self.loaded is None else self.loaded.info.title
            self.mailbox.put(LoadFailed(command.model_id, error_report(problem), kept))
        else:
            self.loaded = loaded
        self._settle()

    def _start(self, command: StartRun) -> None:
        from core.decode.session import Session

        self._end_run()
        if self.loaded is None:
            raise PromptError("No model is loaded; choose one first.")
        session = Session(
            self.loaded,
            command.spec,
            run_id=command.run_id,
            cancelled=self._interrupted,
            before=self.session,
            assistant=self._assistant(command.spec.assistant),
        )
        self.desk.clear()
        for ended in self.branches.begin(session):
            self.mailbox.put(ended.result())
        self._go_on(session, session.started, command.spec.max_steps)

    def _go_on(self, session: Session, event: Event, max_steps: int | None) -> None:
        """Advance this session from now on."""
        self.steps_left, self.paused_at = max_steps, None
        self.meter, self.credit_s = Meter(), 0.0
        self.hooks.enter_context(session.attached())
        self.mailbox.put(event)
        self.running = True  # last: from here on the run is ended by a `RunFinished`
        self._settle()

    def _part(self, command: StartBranch) -> None:
        session, started = self.branches.part(command, self._interrupted, self.paused_at)
        self.hooks.close()
        self.running = False
        self._go_on(session, started, command.max_steps)
        if command.max_steps == 0 and not session.put:
            self._pause()
        self._report_branches()

    def _switch(self, command: SwitchBranch) -> None:
        session, switched, since = self.branches.switch(command.run_id, command.branch_id, self.paused_at)
        self.hooks.close()
        self.running = False
        if session.finished:
            self.paused_at = None
            self.mailbox.put(switched)
        else:
            self._go_on(session, switched, None)
            self.paused_at = since
            self._pause()
        self._settle()
        self._report_branches()

    def _report_branches(self) -> None:
        """Keep to the budget, and tell what each branch holds, where there are several."""
        self.branches.trim()
        held = self.branches.held()
        if held is not None:
            self.mailbox.put_latest("branches", held)

    def _assistant(self, spec: ModelSpec | None) -> LoadedModel | None:
        """The draft model, kept for the next run. Raises `ModelLoadError`."""
        from core.models.loader import load

        if spec is None:
            return None
        if self.loaded is not None and spec.name == self.loaded.spec.name:
            return self.loaded
        if self.assistant is None or self.assistant.spec != spec:
            self.assistant = None  # gives its memory back first
            self.enter(WorkerState.LOADING)
            self.assistant = load(spec, 0, QuietControl(self._interrupted))
        return self.assistant

    def _interrupted(self) -> bool:
        """Whether a command waits that ends the run in progress."""
        return self.flags.closing.is_set() or self.flags.interruptions > self.interruptions_met

    def _pause(self) -> None:
        if self.running and self.paused_at is None:
            self.paused_at = perf_counter()
            self._settle()

    def _resume(self, max_steps: int | None) -> None:
        if not self.running or self.session is None:
            return
        if self.paused_at is not None:
            self.session.note_pause(perf_counter() - self.paused_at)
        elif max_steps is not None and self.steps_left is not None:
            max_steps += self.steps_left  # asked for while a step is being taken
        self.paused_at, self.steps_left = None, max_steps
        self._settle()

    def _change_run(self, command: SetParams | SetInterventions | SetBreakpoints) -> None:
        session = self.session
        if session is None or not self.running:
            return
        match command:
            case SetParams(changes, epoch):
                self.mailbox.put(session.set_params(changes, epoch))
            case SetInterventions(run_id, interventions, epoch) if run_id == session.run_id:
                self.mailbox.put(session.set_interventions(interventions, epoch))
            case SetBreakpoints(run_id, breakpoints) if run_id == session.run_id:
                for problem in session.set_breakpoints(breakpoints):
                    self.mailbox.put(problem)

    @property
    def _refilling(self) -> bool:
        """Whether the branch in use has positions to be fed again."""
        return self.session is not None and self.session.refill_to > 0

    def _refill(self) -> None:
        session = self.session
        assert session is not None
        self.enter(WorkerState.PREFILL)
        try:
            with session.attached():
                for event in session.advance():
                    self.mailbox.put(event)
        except TokenglassError as problem:
            self.mailbox.put(CommandRefused("SwitchBranch", problem.report()))
            session.close()  # nothing can be derived from a part of it
        if self.running and session.finished:
            self._end_run()
        if not self._refilling:
            self._settle()
            self._report_branches()

    def _plan(self) -> None:
        self.drafts.plan(self.loaded, self.session, self._assistant)

    # -- the run

    @property
    def _advancing(self) -> bool:
        return self.running and self.paused_at is None

    def _advance(self) -> None:
        """One unit of the run, then views within their share of the time."""
        session = self.session
        assert session is not None
        begun = perf_counter()
        events: tuple[Event, ...] = ()
        with suppress(TokenglassError):  # the session keeps it and tells it in its result
            events = session.advance()
        spent_s = perf_counter() - begun
        steps = [event for event in events if isinstance(event, StepSnapshot)]
        for event in events:
            self.mailbox.put(event)
        self.meter.step(spent_s, sum(s.timing.probes_ms for s in steps[:1]) / 1e3)
        if session.finished:
            self._end_run()
            return
        stops = any(isinstance(event, BreakpointHit) for event in events)
        if steps and self.steps_left is not None:
            self.steps_left -= not steps[0].put
            stops = stops or (self.steps_left <= 0 and not session.put)
        if stops:
            self._pause()
        self._settle()
        self.credit_s = min(MOST_CREDIT_S, self.credit_s + spent_s * VIEW_SHARE / (1 - VIEW_SHARE))
        while self.desk and self._advancing and self.inbox.empty():
            if self.credit_s <= (-MOST_DEBT_S if self.desk.awaited else 0.0):
                break
            self.credit_s -= self._derive_slice()
        self._report_vitals(session)

    def _derive_slice(self) -> float:
        spent_s = self.desk.derive_slice(self.branches.find, self.loaded)
        self.meter.view(spent_s)
        return spent_s

    def _report_vitals(self, session: Session, now: bool = False) -> None:
        if now or self.meter.due():
            self.mailbox.put_latest("vitals", Vitals(session.run_id, self.meter.share(), session.trace_bytes))
            held = self.branches.held()
            if held is not None:
                self.mailbox.put_latest("branches", held)

    def _end_run(self) -> None:
        """Stop what runs and say how it ended; the session stays for views."""
        self.hooks.close()
        if self.running and self.session is not None:
            self._tell_end(self.session)
        self.running, self.paused_at = False, None
        self._settle()
        self._report_branches()

    def _tell_end(self, session: Session) -> None:
        """Whatever fails on the way, a run that began is told to have ended, and the thread goes on."""
        ways: list[Callable[[], None]] = [
            lambda: self._conclude(session),
            lambda: self._conclude(session),  # cancelling failed, as where the detokeniser panics on what it held back
            lambda: self.mailbox.put(broken_off(session)),
        ]
        for conclude in ways:
            try:
                conclude()
                return
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as problem:
                session.error = session.error or typed_error(problem)

    def _conclude(self, session: Session) -> None:
        if self.paused_at is not None:
            session.note_pause(perf_counter() - self.paused_at)
            self.paused_at = None
        session.cancel()
        self._report_vitals(session, now=True)
        self.mailbox.put(session.result())

    def _forget_session(self) -> None:
        self.desk.clear()
        self.branches.clear()

    def _settle(self) -> None:
        """Report the state that follows from what there is."""
        if self.loaded is None:
            self.enter(WorkerState.NO_MODEL)
        elif not self.running or self.session is None:
            self.enter(WorkerState.READY)
        elif self.paused_at is not None:
            self.enter(WorkerState.PAUSED)
        else:
            self.enter(WorkerState.PREFILL if self.session.in_prefill else WorkerState.DECODING)
