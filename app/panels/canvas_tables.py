"""The numbers of the canvas, written out. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from app.panels.completions import Completion
from app.panels.tables import significant
from app.state import select
from app.state.run import RunView
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.table_data import Column, Table
from core.contract import ImageFacts, PictureAnswer


def pixels_table(run: RunView, image: ImageFacts, selected: int | None) -> Table:
    """Every pixel that is there, a row each; of those that were given nothing but the colour is known."""
    given = run.prompt_tokens - 1
    rows, nothing = given + run.count, np.full(given, math.nan)
    places = np.arange(rows)
    ids = np.r_[np.asarray(run.prompt.token_ids[1:], np.int64), run.column("token_id")]
    columns = (
        Column(tr("row"), places // image.width),
        Column(tr("column"), places % image.width),
        Column(tr("colour"), ids, lambda i: _hex(image, int(i)), numeric=False),
        Column(tr("came"), places, lambda place: tr("given") if place < given else tr("painted"), numeric=False),
        Column(tr("probability"), np.r_[nothing, select.probability(run)], _probability),
        Column(tr("final"), np.r_[nothing, np.exp(run.column("final_logprob"))], _probability),
        Column(tr("rank"), np.r_[nothing, run.column("rank")], lambda n: "" if math.isnan(n) else f"{int(n):,}"),
        Column(tr("entropy, bits"), np.r_[nothing, run.column("entropy_bits")], significant),
        Column(tr("surprisal, bits"), np.r_[nothing, select.surprisal_bits(run)], significant),
    )
    return Table(columns, rows, run.key, None if selected is None else given + selected)


def _probability(value: float) -> str:
    return "" if math.isnan(value) else numbers.probability(value)


def completions_table(run: RunView, completions: Sequence[Completion]) -> Table:
    """Every completion: how far it is, what its pixels cost on average, how it ended."""
    shown = [number for number, one in enumerate(completions) if one.shown]
    return Table(
        (
            Column(tr("completion"), [one.name for one in completions], numeric=False),
            Column(tr("pixels"), [one.count for one in completions], lambda n: f"{n:,}"),
            Column(tr("bits per pixel"), [_mean(-one.numbers[1] / select.LN2) for one in completions], significant),
            Column(tr("mean entropy, bits"), [_mean(one.numbers[2]) for one in completions], significant),
            Column(tr("ended"), [one.ended for one in completions], numeric=False),
        ),
        len(completions),
        (run.run_id, *((one.key, one.count, one.ended) for one in completions)),
        shown[0] if shown else None,
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
