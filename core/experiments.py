"""The experiment in progress: one pass of the model at a time, between commands; never beside a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from core.contract.cache_lab import ExperimentFinished, ExperimentProgress, RunExperiment, StopExperiment
from core.contract.errors import PromptCancelledError, PromptError
from core.controls import Flags
from core.desk import error_report
from core.mailbox import Mailbox

if TYPE_CHECKING:
    from core.cache_lab.board import Bench, Report
    from core.models.loaded import LoadedModel

TELL_EVERY_S = 1 / 15


class Experiments:
    """Only the worker thread calls it. `interrupted`: whether a command waits that ends all that is going on."""

    def __init__(self, mailbox: Mailbox, flags: Flags, interrupted: Callable[[], bool]) -> None:
        self._mailbox, self._flags, self._interrupted = mailbox, flags, interrupted
        self._met = 0
        self._number = 0
        self._bench: Bench | None = None
        self._reports: Iterator[Report] | None = None
        self._told = 0.0

    def __bool__(self) -> bool:
        return self._reports is not None

    def _cancelled(self) -> bool:
        return self._interrupted() or self._flags.experiments_given_up > self._met

    def take(self, command: RunExperiment | StopExperiment, loaded: LoadedModel | None, running: bool) -> None:
        """Both end the experiment in progress."""
        self._met += 1
        self.stop()
        if isinstance(command, RunExperiment):
            self._begin(command, loaded, running)

    def _begin(self, command: RunExperiment, loaded: LoadedModel | None, running: bool) -> None:
        """Start it; what cannot begin becomes an event."""
        from core.cache_lab import begin

        try:
            if running:
                raise PromptError("A run is in progress; stop it first, so that nothing disturbs the measurement.")
            if loaded is None:
                raise PromptError("No model is loaded; choose one first.")
            self._bench, self._reports = begin(loaded, command.experiment, self._cancelled)
            self._number = command.number
        except (KeyboardInterrupt, SystemExit):
            raise
        except PromptCancelledError:
            self._mailbox.put(ExperimentFinished(command.number, None, stopped=True))
        except BaseException as problem:
            self._mailbox.put(ExperimentFinished(command.number, None, error=error_report(problem)))

    def advance(self) -> None:
        """One pass, and what is known after it."""
        from core.decode.forward import ForwardCancelled

        assert self._reports is not None
        assert self._bench is not None
        try:
            report = next(self._reports, None)
        except ForwardCancelled:
            self.stop()
            return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            self._finish(error=problem)
            return
        if report is None:
            self._finish()
        elif perf_counter() - self._told >= TELL_EVERY_S:
            self._told = perf_counter()
            progress = ExperimentProgress(self._number, report.stage, report.fraction, self._bench.result())
            self._mailbox.put_latest("experiment", progress)

    def stop(self) -> None:
        """Give it up; what was found until now is told."""
        if self._reports is not None:
            self._finish(stopped=True)

    def _finish(self, stopped: bool = False, error: BaseException | None = None) -> None:
        bench, reports = self._bench, self._reports
        self._bench = self._reports = None
        if reports is not None:
            close: Callable[[], None] = reports.close  # type: ignore[attr-defined]
            close()
        result = None if bench is None else bench.result(complete=not stopped and error is None)
        problem = None if error is None else error_report(error)
        self._mailbox.put(ExperimentFinished(self._number, result, stopped, problem))
