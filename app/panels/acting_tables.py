"""The tables of previews and watched tokens. Pure functions, no Qt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.panels.tables import token
from app.panels.watch_columns import WatchColumn
from app.state.run import RunView
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.candidate_rows import CandidateRow
from app.widgets.table_data import Column, Table


def preview_table(rows: Sequence[CandidateRow], key: object) -> Table:
    """The candidates of a preview: probability before and after the interventions, and the difference."""
    columns = (
        Column(tr("token"), rows, lambda row: token(row.piece), numeric=False),
        Column("id", [row.token_id for row in rows]),
        Column(tr("before"), [row.raw for row in rows], numbers.probability),
        Column(tr("after"), [row.final for row in rows], numbers.probability),
        Column(tr("change"), [row.final - row.raw for row in rows], lambda value: f"{value:+.3f}"),
    )
    return Table(columns, len(rows), key, next((i for i, row in enumerate(rows) if row.chosen), None))


def watch_table(run: RunView, columns: Sequence[WatchColumn], selected: int | None) -> Table:
    """Probability and rank of every watched token, step by step."""
    shown = [Column(tr("step"), range(run.count))]
    for column in columns:
        named = token(column.piece)
        shown.append(Column(tr("p of {0}").format(named), column.probability(run.count), _probability))
        shown.append(Column(tr("rank of {0}").format(named), column.rank(run.count), _rank))
    return Table(tuple(shown), run.count, (run.key, tuple(column.pin for column in columns)), selected)


def _probability(value: float) -> str:
    return "" if math.isnan(value) else numbers.probability(value)


def _rank(value: float) -> str:
    return "" if math.isnan(value) else f"{int(value):,}"
