"""The numbers of the canvas, written out. Pure functions."""

from __future__ import annotations

import math

import numpy as np

from app.panels.tables import significant
from app.state import select
from app.state.run import RunView
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.table_data import Column, Table
from core.contract import ImageFacts, PictureAnswer


def pixels_table(run: RunView, image: ImageFacts, selected: int | None) -> Table:
    """Every pixel that was painted, a row each."""
    places = run.prompt_tokens - 1 + np.arange(run.count)
    columns = (
        Column(tr("row"), places // image.width),
        Column(tr("column"), places % image.width),
        Column(tr("colour"), run.columns.snapshots, lambda step: step.piece, numeric=False),
        Column(tr("probability"), select.probability(run), numbers.probability),
        Column(tr("final"), np.exp(run.column("final_logprob")), numbers.probability),
        Column(tr("rank"), run.column("rank"), lambda rank: f"{int(rank):,}"),
        Column(tr("entropy, bits"), run.column("entropy_bits"), significant),
        Column(tr("surprisal, bits"), select.surprisal_bits(run), significant),
    )
    return Table(columns, run.count, run.key, selected)


def completions_table(run: RunView) -> Table:
    """Every completion: how far it is, what its pixels cost on average, how it ended."""
    count = len(run.started.rows)
    columns = [run.sequences.row(row) for row in range(count)]
    bits = [_mean(-c.column("logprob", c.count) / select.LN2) for c in columns]
    entropies = [_mean(c.column("entropy_bits", c.count)) for c in columns]
    ended = [str(c.snapshots[-1].finish_reason or "") if c.count else "" for c in columns]
    return Table(
        (
            Column(tr("completion"), range(1, count + 1)),
            Column(tr("pixels"), [c.count for c in columns], lambda n: f"{n:,}"),
            Column(tr("bits per pixel"), bits, significant),
            Column(tr("mean entropy, bits"), entropies, significant),
            Column(tr("ended"), ended, numeric=False),
        ),
        count,
        (run.run_id, sum(c.count for c in columns)),
        run.row,
    )


def bits_table(answer: PictureAnswer, image: ImageFacts) -> Table:
    """Every pixel of a picture and the bits it costs."""
    bits, ids = answer.surprisal_bits.reshape(-1), answer.token_ids.reshape(-1)
    places = np.arange(len(bits))
    columns = (
        Column(tr("row"), places // image.width),
        Column(tr("column"), places % image.width),
        Column(tr("colour"), ids, lambda i: _hex(image, int(i)), numeric=False),
        Column(tr("bits"), bits, significant),
    )
    return Table(columns, len(bits), id(answer))


def _mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _hex(image: ImageFacts, token_id: int) -> str:
    red, green, blue = image.rgb(token_id) or (0, 0, 0)
    return f"#{red:02x}{green:02x}{blue:02x}"
