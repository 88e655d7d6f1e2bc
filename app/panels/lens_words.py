"""What the lens panel says: empty states, tooltips (escaped), sentences for screen readers. Pure."""

from __future__ import annotations

import math
from html import escape

import numpy as np
from numpy.typing import NDArray

from app.state import select
from app.state.state import AppState
from app.state.texts import tr
from app.widgets import numbers, step_text
from app.widgets.attribution_plot import signed
from app.widgets.lens_columns import LensColour, LensColumn, LensColumns, stream_words
from app.widgets.visible_text import one_line
from core.contract import AttributionAnswer, NormsAnswer

MEANING: dict[LensColour, str] = {
    "probability": "Probability of the likeliest token, read out of this layer",
    "rank": "Rank of the final layer’s likeliest token in this layer; logarithmic",
    "KL": "Kullback-Leibler divergence of this layer’s distribution from the final one",
}


def meaning(by: LensColour) -> str:
    """What a colour of the table stands for."""
    return tr(MEANING[by])


def nothing(reason: str, state: AppState) -> tuple[str, str]:
    """Title and hint while there is no run, or no read-out."""
    if reason:
        return tr("The lens is not available for this model"), reason
    run = tr("Press Ctrl+Enter to run. Every layer’s residual stream is read out as if it were the last.")
    return tr("What each layer would say appears here"), select.next_step(state, run)


def waiting(state: AppState, parts: bool, live: bool) -> tuple[str, str]:
    """Title and hint while an answer is missing. parts: of the attribution; live: while tokens come, none selected."""
    run, index = state.run, select.token_index(state)
    if parts and run is not None and index is not None and index == -run.prompt_tokens:
        return tr("Nothing comes before the first token, so no logit led to it"), ""
    if parts and live:
        return (
            tr("The parts of the chosen token’s logit appear here"),
            tr("Select a token or pause: its position is fed once more for them."),
        )
    return tr("Deriving…"), ""


def cell_tooltip(columns: LensColumns, column: LensColumn | None, label: str, layer: int, position: int) -> str:
    """The top tokens of a cell, and where the final token stands."""
    if column is None:
        return ""
    last = len(column.rank) - 1
    where = stream_words(layer, last)
    lines = [escape(tr("after {0} at {1}, {2}").format(step_text.quoted(label), position, where)), ""]
    pairs = zip(column.token_ids[layer].tolist(), np.exp(column.logprob[layer]).tolist(), strict=True)
    lines += [
        f"<span style='font-family:monospace'>{p:.4f}  {escape(one_line(columns.pieces[i][:24]))}</span>"
        for i, p in pairs
    ]
    final = columns.pieces[int(column.token_ids[last, 0])]
    own = tr("final token {0}: rank {1}, probability {2}").format(
        step_text.quoted(final), f"{int(column.rank[layer]):,}", f"{math.exp(column.final_logprob[layer]):.4f}"
    )
    depth = tr("KL {0} bits; {1}").format(f"{column.kl_bits[layer]:.2f}", _on_top(column.commit))
    return "<div style='white-space:pre'>" + "<br>".join([*lines, "", escape(own), escape(depth)]) + "</div>"


def _on_top(commit: int) -> str:
    return tr("on top after layer {0} and later").format(commit - 1) if commit else tr("on top from the input on")


def norm_series(answer: NormsAnswer) -> tuple[NDArray[np.float64], ...]:
    """residual, update, attention and MLP where they are there, 1 − cosine: (L + 1,) each, NaN at the end."""
    added = () if answer.attention is None or answer.mlp is None else (answer.attention, answer.mlp)
    rows = (answer.update, *added, 1.0 - answer.cosine)
    return (np.asarray(answer.residual, np.float64), *(np.r_[np.asarray(row, np.float64), np.nan] for row in rows))


def norms_tooltip(answer: NormsAnswer, layer: int) -> str:
    """The numbers of one layer, plain text."""
    lines = [tr("entering layer {0}: norm {1}").format(layer, numbers.significant(float(answer.residual[layer])))]
    if layer < len(answer.update):
        lines.append(tr("update {0}").format(numbers.significant(float(answer.update[layer]))))
        if answer.attention is not None and answer.mlp is not None:
            added = (numbers.significant(float(part[layer])) for part in (answer.attention, answer.mlp))
            lines.append(tr("attention {0}, MLP {1}").format(*added))
        lines.append(tr("cosine {0}").format(f"{float(answer.cosine[layer]):.4f}"))
    return "\n".join(lines)


def part_tooltip(answer: AttributionAnswer, column: int, head: int | None) -> str:
    """One part of the logit, plain text."""
    layers = len(answer.mlp)
    if head is not None:
        return tr("layer {0}, head {1}: {2}").format(column, head, signed(float(answer.heads[column, head])))
    if column < 0:
        return tr("embedding: {0}").format(signed(answer.embedding))
    if column == layers:
        return tr("bias of norm and head: {0}").format(signed(answer.bias))
    if column > layers:
        return tr("rounding: {0}").format(f"{answer.rounding:+.1e}")
    found = (signed(float(part[column])) for part in (answer.attention, answer.mlp, answer.between))
    return tr("layer {0}: attention {1}, MLP {2}, between {3}").format(column, *found)


def sentence(
    state: AppState | None,
    page: int,
    columns: LensColumns,
    norms: NormsAnswer | None,
    parts: AttributionAnswer | None,
) -> str:
    """The shown step on the active page, for a screen reader."""
    run = state.run if state else None
    position = select.shown_position(state) if state else None
    if run is None or position is None:
        return tr("No lens yet.")
    column = columns.by_position.get(position)
    if page == 0 and column is not None:
        final = columns.pieces[int(column.token_ids[-1, 0])]
        text = tr("Position {0}: the final layer’s likeliest token {1} is {2}; there are {3} layers.")
        return text.format(position, step_text.spoken(final), _on_top(column.commit), run.model.layers)
    if page == 1 and norms is not None:
        ends = (numbers.significant(float(norms.residual[i])) for i in (0, -1))
        return tr("Position {0}: the residual stream grows from norm {1} to {2}.").format(position, *ends)
    if page == 2 and parts is not None:
        best = int(np.argmax(np.abs(parts.mlp) + np.abs(parts.attention)))
        text = tr("The logit of {0} is {1}; layer {2} adds most to it: attention {3}, MLP {4}.")
        values = (signed(float(part[best])) for part in (parts.attention, parts.mlp))
        return text.format(step_text.spoken(parts.piece), signed(parts.logit), best, *values)
    return tr("Deriving the view of position {0}.").format(position)
