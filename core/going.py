"""What goes on: the branches of a run, which of them advance, and how they are paused, stepped, changed and ended.

Only the worker thread calls it. One unit of work at a time: a chunk of the prompt, or a step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import perf_counter
from typing import TYPE_CHECKING

from core.branches import Branches, broken_off
from core.contract.branches import DropBranch, StartBranch, SwitchBranch
from core.contract.commands import SetBreakpoints, SetInterventions, SetParams, StartRun
from core.contract.errors import PromptError, TokenglassError
from core.contract.events import BreakpointHit, CommandRefused, Event, Vitals, WorkerState
from core.contract.snapshot import StepSnapshot
from core.contract.specs import ModelSpec
from core.contract.twins import BranchesGone, StartTwin
from core.desk import Meter, error_report, typed_error
from core.mailbox import Mailbox
from core.shelf import Shelf

if TYPE_CHECKING:
    from core.decode.session import Session
    from core.models.loaded import LoadedModel


class Going:
    """interrupted: whether a command waits that ends what goes on. enter: reports what the worker is doing."""

    def __init__(
        self,
        mailbox: Mailbox,
        shelf: Shelf,
        interrupted: Callable[[], bool],
        enter: Callable[[WorkerState], None],
    ) -> None:
        self.mailbox, self.shelf, self.interrupted, self.enter = mailbox, shelf, interrupted, enter
        self.branches = Branches()
        self.running = False
        self.steps_left: int | None = None
        self.paused_at: float | None = None
        self.twin_wanted: StartTwin | None = None  # waits for the end of the prompt
        self.owed = False  # of two that go on together, one has to follow the other
        self.meter = Meter()
        self._hooks = ExitStack()  # of the session that advances, where it is alone

    @property
    def session(self) -> Session | None:
        """The branch in use: the run."""
        return self.branches.current

    @property
    def advancing(self) -> bool:
        """Whether there is a next unit of work."""
        return self.running and self.paused_at is None

    @property
    def refilling(self) -> bool:
        """Whether the branch in use has positions to be fed again."""
        return self.session is not None and self.session.refill_to > 0

    def settle(self) -> None:
        """Report the state that follows from what there is."""
        if self.shelf.loaded is None:
            self.enter(WorkerState.NO_MODEL)
        elif not self.running or self.session is None:
            self.enter(WorkerState.READY)
        elif self.paused_at is not None:
            self.enter(WorkerState.PAUSED)
        else:
            self.enter(WorkerState.PREFILL if self.session.in_prefill else WorkerState.DECODING)

    def start(self, command: StartRun) -> None:
        """A new run, in place of the one before. Raises `PromptError`, `ParameterError` or `ModelLoadError`."""
        from core.decode.session import Session

        self.end()
        if self.shelf.loaded is None:
            raise PromptError("No model is loaded; choose one first.")
        session = Session(
            self.shelf.loaded,
            command.spec,
            run_id=command.run_id,
            cancelled=self.interrupted,
            before=self.session,
            assistant=self.assistant(command.spec.assistant),
        )
        for ended in self.branches.begin(session):
            self.mailbox.put(ended.result())
        self._go_on(session, session.started, command.spec.max_steps)

    def _go_on(self, session: Session, event: Event, max_steps: int | None) -> None:
        """Advance this session from now on."""
        self.steps_left, self.paused_at, self.owed = max_steps, None, False
        self.meter = Meter()
        if len(self.branches.together) == 1:  # two may share a model, so that each has its hooks for its own step
            self._hooks.enter_context(session.attached())
        self.mailbox.put(event)
        self.running = True  # last: from here on the run is ended by a `RunFinished`
        self.settle()

    def part(self, command: StartBranch) -> None:
        """A branch, which is in use from now on. Raises `PromptError` or `ParameterError`."""
        self._without_twin("Another branch was asked for before the twin began; ask for the twin again.")
        session, started = self.branches.part(command, self.interrupted, self.paused_at)
        self._hooks.close()
        self.running = False
        self._go_on(session, started, command.max_steps)
        if command.max_steps == 0 and not session.put:
            self.pause()
        self._report_branches()

    def switch(self, command: SwitchBranch) -> None:
        """Another branch in use. Raises `PromptError`."""
        if self.running and self.branches.is_beside(command.run_id, command.branch_id):
            _, switched, _ = self.branches.switch(command.run_id, command.branch_id, self.paused_at)
            self.mailbox.put(switched)  # both go on, or wait, as they did
            return
        self._without_twin("Another branch was gone to before the twin began; ask for the twin again.")
        session, switched, since = self.branches.switch(command.run_id, command.branch_id, self.paused_at)
        self._hooks.close()
        self.running = False
        if all(one.finished for one in self.branches.together):
            self.paused_at = None
            self.mailbox.put(switched)
        else:
            self._go_on(session, switched, None)
            self.paused_at = since
            self.pause()
        self.settle()
        self._report_branches()

    def drop(self, command: DropBranch) -> None:
        """Give a branch's memory back. Raises `PromptError`."""
        beside = self.branches.is_beside(command.run_id, command.branch_id)
        ended = self.branches.drop(command.run_id, command.branch_id)
        if ended is not None:
            self.mailbox.put(ended.result())
        if beside:
            self._alone()
        self._report_branches()

    def _report_branches(self) -> None:
        """Keep to the budget, and tell what each branch holds, where there are several."""
        self.branches.trim()
        held = self.branches.held()
        if held is not None:
            self.mailbox.put_latest("branches", held)

    def assistant(self, spec: ModelSpec | None) -> LoadedModel | None:
        """The draft model, kept for the next run. Raises `ModelLoadError`."""
        return self.shelf.draft_model(spec, self.interrupted, lambda: self.enter(WorkerState.LOADING))

    # -- twins

    def want_twin(self, command: StartTwin) -> None:
        """A twin, as soon as the prompt of the branch beside it is read; at once where nothing is being read.

        Raises `PromptError`, `ParameterError` or `ModelLoadError`.
        """
        self.twin_wanted = command
        self._begin_twin()

    def _begin_twin(self) -> None:
        command, session = self.twin_wanted, self.session
        if command is None:
            return
        in_use = session is not None and (session.run_id, session.branch_id) == (command.run_id, command.beside)
        if in_use and self.advancing and session is not None and session.in_prefill:
            return
        self.twin_wanted, goes_on = None, in_use and self.advancing
        if not in_use:
            self.switch(SwitchBranch(command.run_id, command.beside))
        begun = perf_counter()
        shelf, model = self.shelf, command.model
        loaded = None if model is None else shelf.twin_model(model, self.interrupted, self._replacing)
        if self.running:
            self._waited(perf_counter() - (begun if self.paused_at is None else self.paused_at))
            self.paused_at = None if self.paused_at is None else perf_counter()
        started = self.branches.pair(command, self.interrupted, loaded)
        self._hooks.close()
        self.mailbox.put(started)
        # Steps that were asked for while the prompt was read count from here on.
        steps = self.steps_left if goes_on and command.max_steps is None else command.max_steps
        self.running, self.paused_at, self.steps_left, self.owed = True, None, steps, False
        self.settle()
        self._report_branches()

    def _without_twin(self, reason: str) -> None:
        """The twin that waits will not begin."""
        if self.twin_wanted is not None:
            self.twin_wanted = None
            self.mailbox.put(CommandRefused("StartTwin", PromptError(reason).report()))

    def _waited(self, seconds: float) -> None:
        """Time that does not count against the speed of those that go on."""
        for session in self.branches.together:
            if not session.finished:
                session.note_pause(seconds)

    def let_go(self) -> None:
        """The branch in use goes on alone."""
        self.branches.unpair()
        self._alone()

    def _alone(self) -> None:
        """The one beside it is gone; where this one had ended, nothing goes on."""
        self.owed = False
        if self.running and self.session is not None and self.session.finished:
            self.running, self.paused_at = False, None
        self.settle()

    def _replacing(self, before: LoadedModel | None) -> None:
        """Another model for twins is about to be loaded; the branches of the one before are forgotten."""
        gone = [] if before is None else self.branches.forget_model(before)
        for run_id in sorted({run_id for run_id, _ in gone}):
            self.mailbox.put(BranchesGone(run_id, tuple(branch for run, branch in gone if run == run_id)))
        self.enter(WorkerState.LOADING)

    # -- the run

    def pause(self) -> None:
        """Wait before the next unit of work."""
        if not self.running or self.paused_at is not None:
            return
        if self.owed:
            self.steps_left = 1  # both have taken the same steps when they wait
            return
        self.paused_at = perf_counter()
        self.settle()

    def resume(self, max_steps: int | None) -> None:
        """Go on; for so many steps if they are given."""
        if not self.running or self.session is None:
            return
        if self.paused_at is not None:
            self._waited(perf_counter() - self.paused_at)
        elif max_steps is not None and self.steps_left is not None:
            max_steps += self.steps_left  # asked for while a step is being taken
        self.paused_at, self.steps_left = None, max_steps
        self.settle()

    def change(self, command: SetParams | SetInterventions | SetBreakpoints) -> None:
        """Something else for what goes on; what is set for one of two, for the one in use only.

        Raises `ParameterError`.
        """
        for session in self.branches.together if self.running else ():
            own = self.branches.own_settings(session)
            if session.finished:
                continue
            match command:
                case SetParams(changes, epoch):
                    changes = {name: value for name, value in changes.items() if name not in own}
                    if changes:
                        self.mailbox.put(session.set_params(changes, epoch))
                case SetInterventions(run_id, interventions, epoch) if run_id == session.run_id:
                    if "interventions" not in own:
                        self.mailbox.put(session.set_interventions(interventions, epoch))
                case SetBreakpoints(run_id, breakpoints) if run_id == session.run_id:
                    for problem in session.set_breakpoints(breakpoints):
                        self.mailbox.put(problem)

    def refill(self) -> None:
        """Feed some of the positions again whose keys and values were given up."""
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
            self.end()
        if not self.refilling:
            self.settle()
            self._report_branches()

    def advance(self) -> float:
        """One unit of work; returns the seconds it took."""
        session = self.branches.in_turn()
        begun = perf_counter()
        events: tuple[Event, ...] = ()
        with suppress(TokenglassError), session.attached():  # the session keeps it and tells it in its result
            events = session.advance()
        spent_s = perf_counter() - begun
        for other in self.branches.together:
            if other is not session and not other.finished:
                other.note_pause(spent_s)
        steps = [event for event in events if isinstance(event, StepSnapshot)]
        for event in events:
            self.mailbox.put(event)
        self.meter.step(spent_s, sum(s.timing.probes_ms for s in steps[:1]) / 1e3)
        self.owed = self.branches.owes(session) if steps or session.finished else self.owed
        if session.finished and all(one.finished for one in self.branches.together):
            self.end(session)
            return spent_s
        if session.finished:
            self._tell_end(session)
        self._begin_wanted()
        stops = any(isinstance(event, BreakpointHit) for event in events)
        if steps and not self.owed and self.steps_left is not None:
            self.steps_left -= not steps[0].put
            stops = stops or (self.steps_left <= 0 and not session.put)
        if stops:
            self.pause()
        self.settle()
        return spent_s

    def _begin_wanted(self) -> None:
        """The twin that waited, where it can begin now; else it is told why it cannot."""
        try:
            self._begin_twin()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            self.mailbox.put(CommandRefused("StartTwin", error_report(problem)))

    def report_vitals(self, session: Session, now: bool = False) -> None:
        """What looking costs, and what is held; every half second or `now`."""
        if now or self.meter.due():
            self.mailbox.put_latest("vitals", Vitals(session.run_id, self.meter.share(), session.trace_bytes))
            held = self.branches.held()
            if held is not None:
                self.mailbox.put_latest("branches", held)

    def end(self, ended: Session | None = None) -> None:
        """Stop what runs and say how it ended; the session stays for views. ended: the one that ended by itself."""
        self._hooks.close()
        for session in self.branches.together if self.running else ():
            if session is ended or not session.finished:
                self._tell_end(session)
        self.running, self.paused_at, self.owed = False, None, False
        self._without_twin("The run ended before its twin began.")
        self.settle()
        self._report_branches()

    def give_up(self, problem: BaseException) -> None:
        """End what goes on, because of something that nobody has foreseen."""
        if self.session is not None:
            self.session.error = self.session.error or typed_error(problem)
        self.end()

    def forget(self) -> None:
        """No branches any more."""
        self.branches.clear()

    def release(self) -> None:
        """Take the hooks off where nothing goes on: a command has failed half way."""
        if not self.running:
            self._hooks.close()
        self.settle()

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
        """Say how a session ended."""
        if self.paused_at is not None and not session.finished:
            session.note_pause(perf_counter() - self.paused_at)
        session.cancel()
        self.report_vitals(session, now=True)
        self.mailbox.put(session.result())
