"""Attention over the text: where the shown token looks, who looks at it, where rollout says it came from. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.state import select
from app.state.run import RunView
from app.state.state import AppState
from app.widgets.flow_painter import NO_FILL
from core.contract import (
    AttentionAnswer,
    AttentionQuery,
    ColumnAnswer,
    ColumnQuery,
    PictureAnswer,
    RolloutAnswer,
    RolloutQuery,
    ViewAnswer,
)

Source = Literal["attention", "column", "rollout"]
SOURCES: tuple[Source, ...] = ("attention", "column", "rollout")
SOURCE_TEXT: dict[Source, str] = {
    "attention": "attention row",
    "column": "attention column",
    "rollout": "attention rollout",
}
Query = AttentionQuery | ColumnQuery | RolloutQuery


def query_of(run: RunView, state: AppState, source: Source, recompute: bool = False) -> Query | None:
    """What to ask for the shown step; recompute: also where records were dropped.

    The column is that of the shown token itself once it was fed; of the newest one, which nothing has seen yet, that
    of the token before it.
    """
    index, fed = select.token_index(state), select.fed_positions(run)
    position, layer = select.shown_position(state), state.focus.layer
    if index is None or position is None or not fed:
        return None
    heads, reduce = select.heads_of(state.focus)
    rows, at = (position, position + 1), run.place.named
    if source == "attention":
        return AttentionQuery(run.run_id, layer, heads, reduce, rows, recompute=recompute, **at)
    if source == "column":
        key = min(run.prompt_tokens + index, fed - 1)
        return ColumnQuery(
            run.run_id,
            layer,
            key,
            heads,
            reduce,
            (0, fed),
            recompute=recompute,
            **at,
        )
    return RolloutQuery(run.run_id, rows, recompute=recompute, **at)


def levels_of(answer: ViewAnswer | PictureAnswer | None) -> NDArray[np.int16] | None:
    """Weights by token as levels of the map, on the square-root scale; None for an answer to something else."""
    if isinstance(answer, AttentionAnswer | RolloutAnswer):
        weights = answer.weights[..., -1, :].reshape(-1, answer.weights.shape[-1])[0]
    elif isinstance(answer, ColumnAnswer):
        weights = answer.weights[0]
    else:
        return None
    levels = np.asarray(np.sqrt(np.clip(weights, 0.0, 1.0)) * 255.0, np.int16)
    if isinstance(answer, ColumnAnswer):
        levels[: answer.query.key] = NO_FILL  # what came before the key could not see it
    return levels


def same_view(one: object, other: Query) -> bool:
    """Whether a question looks in the same way, through the same layer and heads of the same run, at any token."""
    if type(one) is not type(other):
        return False
    names = ("run_id", "layer", "heads", "reduce")
    return all(getattr(one, name, None) == getattr(other, name, None) for name in names)
