"""The pictures of a run side by side: the rows of a batch and what was repainted of them, or the beams. Pure, no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.panels import branch_rows
from app.state import branches
from app.state.branch_intents import ShowBranch
from app.state.intents import Intent, ShowBeam, ShowRow
from app.state.run import RunColumns, RunView
from app.state.state import AppState
from core.contract import BeamDetail, StepSnapshot

COLUMNS = ("token_id", "logprob", "entropy_bits")
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Completion:
    """One picture.

    key: with the same key and count it is the same picture. prompt: token ids, the start included. numbers: (3, steps),
    see COLUMNS. shown: every panel shows this one. go: what makes it so. ended: its finish reason, if it is over.
    """

    name: str
    key: object
    prompt: tuple[int, ...]
    numbers: Numbers | tuple[NDArray[np.int64], Numbers, Numbers]
    shown: bool
    go: tuple[Intent, ...]
    ended: str = ""

    @property
    def count(self) -> int:
        """Pixels painted."""
        return len(self.numbers[0])

    def painted(self, blank: NDArray[np.int64]) -> NDArray[np.int64]:
        """(H · W,) token ids, as in `blank` where nothing is painted."""
        ids, given = np.array(blank), len(self.prompt) - 1
        stop = min(len(ids), given + self.count)
        ids[:given] = self.prompt[1:]
        ids[given:stop] = self.numbers[0][: stop - given]
        return ids


class Completions:
    """Those of the run in use; none where it paints one picture only."""

    def __init__(self) -> None:
        self._lanes: _Lanes | None = None
        self._best: tuple[object, list[Completion]] = (None, [])

    def of(self, state: AppState, run: RunView) -> list[Completion]:
        """The completions now."""
        if not run.has_beams:
            root = branches.view(state, (run.run_id, 0)) or run
            rows = len(root.started.rows)
            return [] if rows < 2 else [*_rows(root, run, rows), *_branches(state, run)]
        wanted, key = run.started.params.num_return_sequences, (run.run_id, run.row)
        if wanted < 2:
            return []
        if run.finish is None or not run.finish.places:
            if self._lanes is None or self._lanes.key != key:
                self._lanes = _Lanes(run)
            return self._lanes.follow(run)[:wanted]
        if self._best[0] != key:  # what they consist of is looked up once
            self._best, self._lanes = (key, _returned(run)), None
        own = run.row, run.beam, run.count - 1
        return [replace(one, shown=one.key == own) for one in self._best[1]]


def only(run: RunView) -> Completion:
    """The sequence shown, for a run that has no others."""
    return _of("1", run.columns, run.count, run.prompt.token_ids, True, ())


def _rows(root: RunView, run: RunView, rows: int) -> list[Completion]:
    """Of a batch, which go on one beside the other."""
    back = () if run.branch_id == 0 else (ShowBranch(0),)
    found = []
    for row in range(rows):
        columns, shown = root.sequences.row(row), run.branch_id == 0 and run.row == row
        prompt = root.started.rows[row].token_ids
        found.append(_of(str(row + 1), columns, columns.count, prompt, shown, (*back, ShowRow(row))))
    return found


def _branches(state: AppState, run: RunView) -> list[Completion]:
    """What was repainted of one of them."""
    found = []
    for key, _ in branches.lanes(state):
        one = branches.view_of(state, key)
        if one.branch_id:
            name, shown = branch_rows.name_of(state, key), run.branch == key
            found.append(_of(name, one.columns, one.count, one.prompt.token_ids, shown, (ShowBranch(key[1]),)))
    return found


def _of(
    name: str, columns: RunColumns, count: int, prompt: tuple[int, ...], shown: bool, go: tuple[Intent, ...]
) -> Completion:
    ids, logprob, entropy = (columns.column(column, count) for column in COLUMNS)
    ended = str(columns.snapshots[count - 1].finish_reason or "") if count else ""
    return Completion(name, columns.serial, prompt, (ids, logprob, entropy), shown, go, ended)


# beams


class _Lanes:
    """Every beam as it is now. Each step takes over what its parents said, so that none is followed back."""

    def __init__(self, run: RunView) -> None:
        self.key = run.run_id, run.row
        self._steps = 0
        self._numbers = np.zeros((len(COLUMNS), run.params.num_beams, 64))  # (3, beams, steps)

    def follow(self, run: RunView) -> list[Completion]:
        """Best first, as far as all beams of a step are there."""
        steps = run.sequences.lanes[run.row]
        while self._steps < len(steps) and (self._steps + 1 < len(steps) or self._is_whole(steps[self._steps])):
            self._add(steps[self._steps])
        newest, prompt = self._steps - 1, run.started.rows[run.row].token_ids
        found = []
        for beam in range(self._numbers.shape[1] if self._steps else 0):
            shown = run.beam == beam and run.count == self._steps
            go = ShowRow(run.row) if not beam else ShowBeam(run.row, beam, newest)
            numbers = self._numbers[:, beam, : self._steps]
            found.append(Completion(str(beam + 1), (run.row, beam), prompt, numbers, shown, (go,)))
        return found

    def _is_whole(self, step: dict[int, StepSnapshot]) -> bool:
        return all(beam in step for beam in range(self._numbers.shape[1]))

    def _add(self, step: dict[int, StepSnapshot]) -> None:
        if self._steps == self._numbers.shape[2]:
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)], axis=2)
        beams = [beam for beam in range(self._numbers.shape[1]) if beam in step]
        parents = [detail.parent for b in beams if isinstance(detail := step[b].detail, BeamDetail)]
        self._numbers[:, beams] = self._numbers[:, parents]
        self._numbers[:, beams, self._steps] = _numbers([step[beam] for beam in beams])
        self._steps += 1


def _returned(run: RunView) -> list[Completion]:
    """The sequences that the run gave back, best first."""
    assert run.finish is not None
    lanes, prompt = run.sequences.lanes.get(run.row, []), run.started.rows[run.row].token_ids
    found = list[Completion]()
    for (row, beam, index), reason in zip(run.finish.places, run.finish.finish_reasons, strict=True):
        if row == run.row and index is not None and index < len(lanes) and beam in lanes[index]:
            go = ShowBeam(row, beam, index) if found else ShowRow(row)
            numbers = _numbers(run.sequences.path(row, beam, index))
            found.append(Completion(str(len(found) + 1), (row, beam, index), prompt, numbers, False, (go,), reason))
    return found


def _numbers(steps: Sequence[StepSnapshot]) -> Numbers:
    """(3, steps)"""
    return np.array([[s.token_id, s.logprob, s.entropy_bits] for s in steps], np.float64).reshape(-1, len(COLUMNS)).T
