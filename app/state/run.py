"""One run as the window sees it: immutable facts, append-only columns of its steps, and which sequence is shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract import (
    BeamDetail,
    BranchStarted,
    GenerationParams,
    GenerationPlan,
    HypothesisEnded,
    Intervention,
    InterventionsApplied,
    ModelInfo,
    ParamsApplied,
    PrefillProgress,
    PromptRow,
    RunFinished,
    RunStarted,
    StepSnapshot,
    from_row,
    of_row,
)

_COLUMNS: dict[str, type] = {
    "token_id": np.int64,
    "logprob": np.float64,
    "final_logprob": np.float64,
    "entropy_bits": np.float64,
    "final_entropy_bits": np.float64,
    "rank": np.int64,
    "u": np.float64,  # NaN where nothing was drawn
    "forward_ms": np.float64,
    "pipeline_ms": np.float64,
    "probes_ms": np.float64,
    "step_ms": np.float64,
    "cache_length": np.int64,
    "used_bytes": np.int64,
    "allocated_bytes": np.int64,
    "trace_bytes": np.int64,
    "epoch": np.int64,
    "text_end": np.int64,  # characters of the generated text up to and including this step
}


_SERIALS = itertools.count()


class RunColumns:
    """Columns of the steps of one sequence, growing at the end only.

    An identity object shared by successive states: a state sees the first `RunView.count` entries, which never
    change. Growth doubles the buffers, so views handed out earlier stay valid. serial: of the object; panels that
    see another one begin anew. rest: what the last text has of a character that was never finished.
    """

    __slots__ = ("_buffers", "count", "rest", "serial", "snapshots", "texts")

    def __init__(self) -> None:
        self.serial = next(_SERIALS)
        self._buffers: dict[str, NDArray[Any]] = {name: np.empty(256, dtype) for name, dtype in _COLUMNS.items()}
        self.snapshots: list[StepSnapshot] = []
        self.texts: list[str] = []
        self.count = 0
        self.rest = ""

    def append(self, step: StepSnapshot) -> None:
        """Add the next step."""
        i = self.count
        if i == len(self._buffers["token_id"]):
            self._buffers = {name: np.concatenate([b, np.empty_like(b)]) for name, b in self._buffers.items()}
        end = (int(self._buffers["text_end"][i - 1]) if i else 0) + len(step.text)
        row = (
            step.token_id,
            step.logprob,
            step.final_logprob,
            step.entropy_bits,
            step.final_entropy_bits,
            step.rank,
            np.nan if step.u is None else step.u,
            step.timing.forward_ms,
            step.timing.pipeline_ms,
            step.timing.probes_ms,
            step.timing.step_ms,
            step.cache.length,
            step.cache.used_bytes,
            step.cache.allocated_bytes,
            step.trace_bytes,
            step.id.epoch,
            end,
        )
        for buffer, value in zip(self._buffers.values(), row, strict=True):
            buffer[i] = value
        self.snapshots.append(step)
        self.texts.append(step.text)
        self.count = i + 1

    def fork(self, count: int) -> RunColumns:
        """Columns of their own that begin with the first `count` steps of these."""
        twin = RunColumns()
        twin._buffers = {name: buffer.copy() for name, buffer in self._buffers.items()}
        twin.snapshots, twin.texts, twin.count = self.snapshots[:count], self.texts[:count], count
        if self.rest and count == self.count:  # who goes on from here may finish the character
            twin._end(self.texts[-1].removesuffix(self.rest))
        return twin

    def ended(self, text: str) -> RunColumns:
        """These, or where the whole text says more than they do, others whose last step says it, too."""
        said = "".join(self.texts)
        if not self.count or len(text) == len(said) or not text.startswith(said):
            return self
        twin = self.fork(self.count)
        twin.rest = text[len(said) :]
        twin._end(twin.texts[-1] + twin.rest)
        return twin

    def _end(self, text: str) -> None:
        """Another text of the last step."""
        self._buffers["text_end"][self.count - 1] += len(text) - len(self.texts[-1])
        self.snapshots[-1] = replace(self.snapshots[-1], text=text)
        self.texts[-1] = text

    def column(self, name: str, count: int) -> NDArray[Any]:
        """The first `count` values of a column, a read-only view."""
        view = self._buffers[name][:count]
        view.flags.writeable = False
        return view


class Sequences:
    """Everything that a run has said: columns of each row, or of modes with beams, every beam after every step.

    An identity object like `RunColumns`: it only grows.
    """

    __slots__ = ("_best", "hypotheses", "lanes", "rows")

    def __init__(self) -> None:
        self._best: dict[int, tuple[RunColumns, list[int]]] = {}  # row → the sequence shown of it, its beams
        self.rows: dict[int, RunColumns] = {}
        self.lanes: dict[int, list[dict[int, StepSnapshot]]] = {}  # row → step → beam
        self.hypotheses: list[HypothesisEnded] = []

    def row(self, row: int) -> RunColumns:
        """The columns of a row; empty ones at first."""
        return self.rows.setdefault(row, RunColumns())

    def reached(self, row: int) -> int:
        """How many steps this row, or its beams, took part in."""
        return len(self.lanes[row]) if row in self.lanes else self.row(row).count

    def newest(self) -> StepSnapshot | None:
        """A step of a row that went furthest."""
        row = max((*self.rows, *self.lanes), key=self.reached, default=0)
        if not self.reached(row):
            return None
        return next(iter(self.lanes[row][-1].values())) if row in self.lanes else self.rows[row].snapshots[-1]

    def append(self, step: StepSnapshot) -> None:
        """Add a step where it belongs."""
        if not isinstance(step.detail, BeamDetail):
            self.row(step.id.row).append(step)
            return
        steps = self.lanes.setdefault(step.id.row, [])
        if step.id.index == len(steps):
            steps.append({})
        steps[step.id.index][step.id.beam] = step

    def shown(self, row: int, at: tuple[int, int] | None = None) -> RunColumns:
        """What a list of rows shows of one; with beams the best at its newest step, or beam and step `at`.

        Only what differs from the answer before is looked at, so that asking after every step costs little.
        """
        lanes = self.lanes.get(row)
        if not lanes:
            return self.row(row)
        beam, index = (min(lanes[-1]), len(lanes) - 1) if at is None else at
        columns, beams = self._best.get(row, (RunColumns(), []))
        own: list[StepSnapshot] = []
        # A beam of a step has one past: where the two meet, all before is the same.
        while index >= len(beams) or (index >= 0 and beams[index] != beam):
            step = lanes[index][beam]
            assert isinstance(step.detail, BeamDetail)
            own.append(step)
            index, beam = index - 1, step.detail.parent
        if index + 1 < columns.count:
            columns, beams = columns.fork(index + 1), beams[: index + 1]
        for step in reversed(own):
            columns.append(step)
            beams.append(step.id.beam)
        self._best[row] = columns, beams
        return columns

    def path(self, row: int, beam: int, index: int) -> list[StepSnapshot]:
        """The steps of the sequence that was this beam after step `index`, from the first one on."""
        steps: list[StepSnapshot] = []
        lanes = self.lanes[row]
        for at in range(index, -1, -1):
            step = lanes[at][beam]
            assert isinstance(step.detail, BeamDetail)
            steps.append(step)
            beam = step.detail.parent
        return steps[::-1]


@dataclass(frozen=True, slots=True)
class RunView:
    """The newest run, and the sequence of it that the window shows.

    params: in force for the newest step. flags: the changes made while it ran, with the index they act from; acts:
    those of interventions, which were `base` at first.
    sequences: everything it said. columns: of the sequence shown; another object when another one is shown.
    count: steps of it that this state sees. row: that it belongs to.
    beam: it is at its newest step. follows: it is the best beam, whichever that is.
    branch_id: 0 for the run itself. kept: steps that a branch has in common with the one it parts from. slots: of
    padding in front of a branch, which is alone but stays where its row was. origin: of a branch, that row of the run;
    interventions name it here, although core knows the branch as a run of one row.
    """

    started: RunStarted
    model: ModelInfo
    params: GenerationParams
    sequences: Sequences
    columns: RunColumns
    count: int = 0
    row: int = 0
    beam: int = 0
    follows: bool = True
    flags: tuple[ParamsApplied, ...] = ()
    acts: tuple[InterventionsApplied, ...] = ()
    base: tuple[Intervention, ...] = ()
    prefill: PrefillProgress | None = None
    finish: RunFinished | None = None
    branch_id: int = 0
    kept: int = 0
    slots: int | None = None
    origin: int | None = None

    @property
    def branch(self) -> tuple[int, int]:
        """The run and the branch."""
        return self.run_id, self.branch_id

    @property
    def run_id(self) -> int:
        """The identifier that commands, events and view queries carry."""
        return self.started.run_id

    @property
    def plan(self) -> GenerationPlan:
        """What the run does, with the changes made so far."""
        both: tuple[ParamsApplied | InterventionsApplied, ...] = (*self.flags, *self.acts)
        own = (change for change in both if change.branch_id == self.branch_id)
        changes = sorted(own, key=lambda change: change.epoch, reverse=True)
        return next((change.plan for change in changes if change.plan is not None), self.started.plan)

    @property
    def key(self) -> tuple[int, int]:
        """Of the sequence shown: as long as it stays the same, steps are only added."""
        return self.started.run_id, self.columns.serial

    @property
    def has_beams(self) -> bool:
        """Whether the run decodes with beams."""
        return bool(self.sequences.lanes)

    @property
    def place(self) -> Place:
        """Where views find the sequence shown."""
        index = self.count - 1 if self.has_beams and self.count else None
        return Place(self.row, self.beam, index, self.branch_id)

    @property
    def prompt(self) -> PromptRow:
        """The prompt of the row shown."""
        return self.started.rows[self.row]

    @property
    def padding(self) -> int:
        """Slots of padding in front of the row shown: shorter prompts of a batch are filled up on the left."""
        if self.slots is not None:
            return self.slots
        return max(len(row.token_ids) for row in self.started.rows) - self.prompt_tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; the step with index i was chosen by the query at position prompt_tokens - 1 + i."""
        return len(self.prompt.token_ids)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the steps this state sees, a read-only view; names as in `app.state.run`."""
        return self.columns.column(name, self.count)

    def step(self, index: int) -> StepSnapshot:
        """The step with this index; IndexError outside of what this state sees."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.columns.snapshots[index]

    def steps(self, start: int = 0) -> Sequence[StepSnapshot]:
        """The steps from `start` on."""
        return self.columns.snapshots[start : self.count]

    def text(self) -> str:
        """The generated text so far."""
        return "".join(self.columns.texts[: self.count])


@dataclass(frozen=True, slots=True)
class Place:
    """A sequence of a run and branch, as queries name it: the beam it was after step `index` (None: the newest)."""

    row: int = 0
    beam: int = 0
    index: int | None = None
    branch_id: int = 0

    @property
    def named(self) -> dict[str, Any]:
        """As keyword arguments of a query."""
        return {"row": self.row, "beam": self.beam, "index": self.index, "branch_id": self.branch_id}


def begin(started: RunStarted, model: ModelInfo) -> RunView:
    """The run before its first step."""
    sequences = Sequences()
    return RunView(started, model, started.params, sequences, sequences.row(0), base=started.interventions)


def begin_branch(parent: RunView, started: BranchStarted) -> RunView:
    """The branch before its own first step: it begins with what it has in common with its parent."""
    sequences = Sequences()
    columns = parent.sequences.row(started.row).fork(started.kept_tokens)
    sequences.rows[0] = columns
    origin = started.row if parent.origin is None else parent.origin
    acts = tuple(act for act in parent.acts if act.index < started.kept_tokens)
    own = from_row(started.started.interventions, origin)
    before = from_row(of_row(acts[-1].interventions if acts else parent.base, origin), origin)
    if own != before:  # the same branch under other interventions
        acts += (InterventionsApplied(started.run_id, 0, started.kept_tokens, own, None, started.branch_id),)
    return RunView(
        started.started,
        parent.model,
        started.started.params,
        sequences,
        columns,
        columns.count,
        flags=tuple(flag for flag in parent.flags if flag.index < started.kept_tokens),
        branch_id=started.branch_id,
        kept=started.kept_tokens,
        slots=started.padding,
        acts=acts,
        base=parent.base,
        origin=origin,
    )


def with_acts(run: RunView, event: InterventionsApplied) -> RunView:
    """The run under other interventions from the next token on."""
    asked = event.interventions if run.origin is None else from_row(event.interventions, run.origin)
    return replace(run, acts=(*run.acts, replace(event, interventions=asked)))


def with_step(run: RunView, step: StepSnapshot) -> RunView:
    """The run one token further on: of the sequence shown, or of another one."""
    run.sequences.append(step)
    if step.id.row != run.row:
        return replace(run)  # panels that show all rows see another object and look again
    if not isinstance(step.detail, BeamDetail):
        return replace(run, count=run.columns.count)
    if not run.follows or step.id.beam != 0:
        return replace(run)  # beams are in descending order of their scores: beam 0 is the best one
    if step.id.index == run.count and (run.count == 0 or step.detail.parent == run.beam):
        run.columns.append(step)
        return replace(run, count=run.columns.count, beam=step.id.beam)
    return show_beam(run, run.row, step.id.beam, step.id.index, follows=True)


def show_row(run: RunView, row: int) -> RunView:
    """Another row of the batch; with beams the best one of it."""
    if row == run.row and run.follows:
        return run
    lanes = run.sequences.lanes.get(row)
    if lanes:
        best = _returned(run, row)
        beam, index = (min(lanes[-1]), len(lanes) - 1) if best is None else best
        return show_beam(run, row, beam, index, follows=True)
    columns = run.sequences.row(row)
    return replace(run, row=row, columns=columns, count=columns.count, beam=0, follows=True)


def show_beam(run: RunView, row: int, beam: int, index: int, follows: bool = False) -> RunView:
    """The sequence that was this beam after step `index`."""
    columns = RunColumns()
    for step in run.sequences.path(row, beam, index):
        columns.append(step)
    columns = _told(run, columns, (row, beam, index))
    return replace(run, row=row, columns=columns, count=columns.count, beam=beam, follows=follows)


def with_end(run: RunView, finish: RunFinished) -> RunView:
    """The run is over; who followed the best beam sees the best sequence returned.

    A run that was stopped inside a character tells what it held back of it only now.
    """
    run = replace(run, finish=finish)
    if not run.has_beams:
        rows = run.sequences.rows
        for row, text in enumerate(finish.texts):
            if row in rows:
                rows[row] = rows[row].ended(text)
        return replace(run, columns=run.sequences.row(run.row))
    best = _returned(run, run.row)
    if run.follows and best is not None and best != (run.beam, run.count - 1):
        return show_beam(run, run.row, *best, follows=True)
    return replace(run, columns=_told(run, run.columns, (run.row, run.beam, run.count - 1)))


def _told(run: RunView, columns: RunColumns, place: tuple[int, int, int]) -> RunColumns:
    """The steps of a sequence of beams with what the end told of it, if it was returned."""
    if run.finish is None or place not in run.finish.places:
        return columns
    return columns.ended(run.finish.texts[run.finish.places.index(place)])


def columns_of(run: RunView, row: int) -> RunColumns:
    """What a row has said; with beams the best of it, in the end the best one returned."""
    return run.sequences.shown(row, _returned(run, row))


def ended_as(run: RunView, row: int) -> str:
    """The finish reason of a row, with beams that of its best sequence; empty while it runs."""
    if run.finish is not None:
        for place, reason in zip(run.finish.places, run.finish.finish_reasons, strict=False):
            if place[0] == row:
                return reason
        if not run.finish.places and row < len(run.finish.finish_reasons):
            return run.finish.finish_reasons[row]
    columns = run.sequences.row(row)
    return (columns.snapshots[columns.count - 1].finish_reason or "") if columns.count else ""


def returned_as(run: RunView, row: int, beam: int, index: int) -> int | None:
    """As which of the row's sequences this beam was returned after step `index`, 0 the best; None: it was not."""
    places = [place for place in run.finish.places if place[0] == row] if run.finish else []
    return places.index((row, beam, index)) if (row, beam, index) in places else None


def _returned(run: RunView, row: int) -> tuple[int, int] | None:
    """Beam and step of the best sequence returned for a row; None where its steps never came."""
    lanes = run.sequences.lanes.get(row, ())
    for own, beam, index in run.finish.places if run.finish else ():
        if own == row and index is not None and index < len(lanes) and beam in lanes[index]:
            return beam, index
    return None
