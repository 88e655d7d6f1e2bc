"""What the attention panel says: tooltips (escaped), sentences, empty states. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.state import select
from app.state.state import AppState, AttentionFocus
from app.state.texts import tr
from app.widgets import numbers, step_text
from app.widgets.heat_matrix import HeatMatrix
from core.contract import WorkerState

LETTERS = {"sink": "S", "induction": "I", "previous": "P"}


def heads_name(focus: AttentionFocus) -> str:
    """`4`, `mean`, `mean of 2, 5`."""
    if isinstance(focus.head, int) or not focus.chosen:
        return str(focus.head)
    return tr("{0} of {1}").format(focus.head, ", ".join(map(str, focus.chosen)))


def head_options(state: AppState, heads: int) -> list[tuple[str, str]]:
    """The heads of the focused layer to choose from; those that were muted at the shown step say so."""
    run, index = state.run, select.step_index(state)
    muted = select.muted_heads(select.interventions(run, index)) if run and index is not None else frozenset()
    marked = {head for layer, head in muted if layer == state.focus.layer}
    return [(str(head), tr("{0} (muted)").format(head) if head in marked else str(head)) for head in range(heads)]


def cell_tooltip(
    matrix: HeatMatrix, origin: int, labels: Sequence[str], focus: AttentionFocus, at: tuple[int, int], what: str = ""
) -> str:
    """Query, key and weight under the pointer. what: another name for what is a weight else."""
    query, key = at
    if query >= len(labels) or key >= len(labels):
        return ""
    names = tr("{0} at {1} → {2} at {3}").format(
        step_text.quoted(labels[query]), query, step_text.quoted(labels[key]), key
    )
    weight = tr("{0} {1}, layer {2}, head {3}").format(
        what or tr("weight"), f"{matrix.at(query - origin, key - origin):.4f}", focus.layer, heads_name(focus)
    )
    pooled = tr("largest of {0} × {0} positions").format(matrix.factor)
    lines = (names, weight, pooled) if matrix.factor > 1 else (names, weight)
    return "<div style='white-space:pre'>" + "<br>".join(map(escape, lines)) + "</div>"


def sentence(matrix: HeatMatrix, origin: int, labels: Sequence[str], focus: AttentionFocus, position: int) -> str:
    """Where the query at a position looks most, for a screen reader."""
    query = max(0, min(position - origin, matrix.rows - 1))
    weights = [(matrix.at(query, key), key + origin) for key in range(0, query + 1, matrix.factor)]
    most = sorted(weights, reverse=True)[:3]
    with_ = tr("{0} at position {1} with {2}")
    names = ", ".join(with_.format(step_text.spoken(labels[k]), k, numbers.percent(w)) for w, k in most)
    return tr("Layer {0}, head {1}: {2} at position {3} attends most to {4}.").format(
        focus.layer, heads_name(focus), step_text.spoken(labels[query + origin]), query + origin, names
    )


def empty(reason: str, state: AppState) -> tuple[str, str]:
    """Title and hint while there is no map."""
    if reason:
        return tr("Attention is not available for this model"), reason
    if select.has_nothing(state):
        run = tr("Press Ctrl+Enter to run. Rows are queries, columns are the keys they attend to.")
        return tr("Where each token looks appears here"), select.next_step(state, run)
    return (tr("Reading the prompt…") if state.worker is WorkerState.PREFILL else tr("Deriving…")), ""
