"""Positions deleted from the cache: unlike other interventions they belong to a run, for good. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from app.state import select
from app.state.acting_state import Act, Acting
from app.state.run import RunView
from core.contract import DeletePositions, deleted_positions


def with_positions(acting: Acting, row: int, positions: Iterable[int]) -> tuple[Act, ...]:
    """The list with more of them; those of a row share a line."""
    for act in acting.acts:
        one = act.intervention
        if isinstance(one, DeletePositions) and one.row == row:
            more = replace(one, positions=tuple(sorted({*one.positions, *positions})))
            return tuple(replace(x, intervention=more, on=True) if x is act else x for x in acting.acts)
    return (*acting.acts, Act(acting.last_id + 1, DeletePositions(row, tuple(positions))))


def is_final(act: Act, run: RunView | None) -> bool:
    """Whether it deletes what is gone from the run shown, so that it stays in the list."""
    one = act.intervention
    if run is None or not isinstance(one, DeletePositions):
        return False
    return bool(deleted_positions(select.interventions(run), one.row).intersection(one.positions))


def settled(acting: Acting, run: RunView | None) -> Acting:
    """The list with exactly what is deleted in `run`, another one than before or one that was refused something."""
    made = select.interventions(run) if run is not None else ()
    rows = {one.row: deleted_positions(made, one.row) for one in made if isinstance(one, DeletePositions)}
    acts, last = list[Act](), acting.last_id
    for act in acting.acts:
        one = act.intervention
        if not isinstance(one, DeletePositions):
            acts.append(act)
        elif positions := rows.pop(one.row, None):
            acts.append(replace(act, intervention=replace(one, positions=tuple(sorted(positions))), on=True))
    for row, positions in rows.items():
        last += 1
        acts.append(Act(last, DeletePositions(row, tuple(sorted(positions)))))
    return acting if tuple(acts) == acting.acts else replace(acting, acts=tuple(acts), last_id=last)
