"""Which sequence of the run the panels show."""

from __future__ import annotations

from dataclasses import replace

from app.state import intents as i
from app.state.run import RunView, show_beam, show_row
from app.state.state import EMPTY, AppState


def of_sequence(state: AppState, run: RunView) -> AppState:
    """The state with `run`; where that shows another sequence, answers about the one before count no more."""
    if state.run is None or state.run.columns is run.columns:
        return replace(state, run=run)
    selected = state.selected if state.selected is None or state.selected < run.count else None
    floor = state.last_generation
    return replace(state, run=run, selected=selected, asked=EMPTY, answers=EMPTY, answer_floor=floor)


def show(state: AppState, intent: i.ShowRow | i.ShowBeam) -> AppState:
    """Another sequence of the run, where there is one; the selected step stays where it exists there, too."""
    run = state.run
    if run is None:
        return state
    if isinstance(intent, i.ShowBeam):
        lanes = run.sequences.lanes.get(intent.row, [])
        if not 0 <= intent.index < len(lanes) or intent.beam not in lanes[intent.index]:
            return state
        return of_sequence(state, show_beam(run, intent.row, intent.beam, intent.index))
    if not 0 <= intent.row < len(run.started.rows):
        return state
    return of_sequence(state, show_row(run, intent.row))
