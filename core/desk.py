"""The desk where views are asked for: one waiting question a slot, derived in slices that take turns.

What is urgent comes before everything else: what is read off the records first, then what needs a pass of the model.
What takes long lets the others through.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from core.contract.acting import InterventionQuery
from core.contract.commands import Ask
from core.contract.errors import ErrorReport, InternalError, OutOfMemoryError, TokenglassError, ViewUnavailableError
from core.contract.events import Answered, Deriving
from core.contract.looking import AttributionQuery, RolloutQuery, WalkQuery
from core.contract.picture import PictureAnswer, PictureQuery
from core.contract.twins import CompareAttentionQuery, CompareQuery
from core.contract.views import ViewAnswer, ViewQuery
from core.domains.sandboxed import one_line
from core.mailbox import Mailbox

if TYPE_CHECKING:
    from core.decode.session import Session
    from core.models.loaded import LoadedModel

VITALS_EVERY_S = 0.5
PROGRESS_EVERY_S = 0.2
NEEDS_A_PASS = (AttributionQuery, InterventionQuery, RolloutQuery, WalkQuery)  # or as much work as one
TURN_S = 0.1  # of one that is waited for, before another one that is waited for has its turn


@dataclass
class _Deriving:
    """A view being derived."""

    ask: Ask
    slices: Generator[float | None, None, ViewAnswer | PictureAnswer] | None = None
    spent_s: float = 0.0
    fraction: float | None = None  # how far it is, where it says so
    told_s: float = 0.0


class Desk:
    """Questions in, answers to the mailbox. Only the worker thread calls it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._waiting: dict[str, _Deriving] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for an answer."""
        return any(deriving.ask.chosen for deriving in self._waiting.values())

    def ask(self, ask: Ask) -> None:
        """Take a question; an earlier one in the same slot is dropped."""
        self._waiting.pop(ask.slot, None)
        self._waiting[ask.slot] = _Deriving(ask)

    def withdraw(self, slot: str) -> None:
        """Drop the question of a slot."""
        self._waiting.pop(slot, None)

    def clear(self) -> None:
        """Drop all questions."""
        self._waiting.clear()

    def derive_slice(self, find: Callable[[int, int], Session | None], loaded: LoadedModel | None) -> float:
        """One slice of the view that has waited longest, or that somebody waits for; returns the seconds it took.

        find: run, branch → session.
        """
        waiting = self._waiting.items()
        chosen = [one for one in waiting if one[1].ask.chosen]
        slot, deriving = min(chosen, key=lambda one: _weight(one[1])) if chosen else next(iter(waiting))
        query = deriving.ask.query
        session = None if isinstance(query, PictureQuery) else find(query.run_id, query.branch_id)
        other = find(query.run_id, query.other) if isinstance(query, CompareQuery | CompareAttentionQuery) else None
        begun = perf_counter()
        answered = _one_slice(deriving, session, other, loaded)
        spent_s = perf_counter() - begun
        deriving.spent_s += spent_s
        if answered is None and deriving.fraction is not None and begun - deriving.told_s >= PROGRESS_EVERY_S:
            deriving.told_s = begun
            self._mailbox.put_latest(f"deriving:{slot}", Deriving(slot, deriving.ask.generation, deriving.fraction))
        if answered is not None:
            del self._waiting[slot]
            self._mailbox.put_latest(f"view:{slot}", answered)
        elif not deriving.ask.chosen:
            self._waiting[slot] = self._waiting.pop(slot)  # back of the queue: panels take turns
        return spent_s


def _weight(deriving: _Deriving) -> tuple[float, bool]:
    """The lightest first: what was worked on least, and what no pass of the model is needed for."""
    return deriving.spent_s // TURN_S, isinstance(deriving.ask.query, NEEDS_A_PASS)


def _one_slice(
    deriving: _Deriving, session: Session | None, other: Session | None, loaded: LoadedModel | None
) -> Answered | None:
    ask = deriving.ask
    try:
        if deriving.slices is None:
            deriving.slices = _slices(ask.query, session, other, loaded)
        deriving.fraction = next(deriving.slices)
    except StopIteration as done:
        return Answered(ask.slot, ask.generation, done.value, derive_ms=1e3 * deriving.spent_s)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        if session is not None and _broken_off(problem):
            problem = ViewUnavailableError("Computing this again was interrupted; ask once more.", can_recompute=True)
        can_recompute, first = False, 0
        if isinstance(problem, ViewUnavailableError):
            can_recompute, first = problem.can_recompute, problem.first_recorded
        if first and session is not None and not isinstance(ask.query, PictureQuery):
            first = max(0, first - session.rows[ask.query.row].padding)
        return Answered(ask.slot, ask.generation, None, error_report(problem), can_recompute, first_recorded=first)
    return None


def _slices(
    query: ViewQuery | PictureQuery, session: Session | None, other: Session | None, loaded: LoadedModel | None
) -> Generator[float | None, None, ViewAnswer | PictureAnswer]:
    if isinstance(query, PictureQuery):
        from core.decode.score import derive_picture

        if loaded is None:
            raise ViewUnavailableError("No model is loaded; choose one first.")
        return derive_picture(loaded, query)
    if session is None:
        raise ViewUnavailableError("That run is no longer held in memory; run it again.")
    return session.answer_in_slices(query) if other is None else session.answer_in_slices(query, other)


def _broken_off(problem: BaseException) -> bool:
    """Whether a command broke off positions that were being fed again."""
    from core.decode.forward import ForwardCancelled

    return isinstance(problem, ForwardCancelled)


class Meter:
    """Share of the time that goes into looking rather than generating."""

    def __init__(self) -> None:
        self._work_s = self._looking_s = 0.0
        self._since = perf_counter()

    def step(self, step_s: float, probes_s: float) -> None:
        """A unit of the run and the probes inside it."""
        self._work_s += step_s
        self._looking_s += probes_s

    def view(self, view_s: float) -> None:
        """A slice of a view."""
        self._work_s += view_s
        self._looking_s += view_s

    def due(self) -> bool:
        """Whether it is time to report."""
        return perf_counter() - self._since >= VITALS_EVERY_S

    def share(self) -> float:
        """Since the last call, in [0, 1]."""
        share = self._looking_s / self._work_s if self._work_s else 0.0
        self._work_s = self._looking_s = 0.0
        self._since = perf_counter()
        return share


def typed_error(problem: BaseException) -> TokenglassError:
    """Any failure as one sentence, the traceback in the detail where it was not foreseen."""
    if isinstance(problem, TokenglassError):
        return problem
    detail = "".join(traceback.format_exception(problem))
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":  # torch's, not imported here
        return OutOfMemoryError("There is no memory left for this; close something or take less.", detail=detail)
    return InternalError(f"Something unforeseen failed: {one_line(problem)}.", detail=detail)


def error_report(problem: BaseException) -> ErrorReport:
    """The same as plain data, for an event."""
    return typed_error(problem).report()
