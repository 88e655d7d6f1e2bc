"""The tables of lens, norms, attribution and heads. Pure functions, no Qt."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from app.panels.tables import significant, token
from app.state.texts import tr
from app.widgets import numbers
from app.widgets.attribution_plot import signed
from app.widgets.lens_columns import LensColumn, LensColumns, stream_name
from app.widgets.table_data import Column, Table
from core.contract import AttributionAnswer, HeadsAnswer, NormsAnswer

KINDS = {"sink": "sink", "induction": "induction", "previous": "previous token", "": ""}


def lens_table(columns: LensColumns, column: LensColumn, key: object) -> Table:
    """Every layer of one position."""
    layers = len(column.rank) - 1
    pieces = [token(columns.pieces[i]) for i in column.token_ids[:, 0].tolist()]
    cells = (
        Column(tr("after layer"), [stream_name(row, layers) for row in range(layers + 1)], numeric=False),
        Column(tr("likeliest"), pieces, numeric=False),
        Column(tr("probability"), np.exp(column.logprob[:, 0]), numbers.probability),
        Column(tr("final token"), np.exp(column.final_logprob), numbers.probability),
        Column(tr("its rank"), column.rank, lambda rank: f"{int(rank):,}"),
        Column(tr("KL, bits"), column.kl_bits, significant),
    )
    return Table(cells, layers + 1, key, column.commit)


def norms_table(answer: NormsAnswer) -> Table:
    """Every layer: what enters it, what it adds, how far it turns the stream."""
    layers = len(answer.update)
    nothing = np.full(layers, math.nan, np.float32)
    attention = nothing if answer.attention is None else answer.attention
    mlp = nothing if answer.mlp is None else answer.mlp
    cells = (
        Column(tr("layer"), range(layers + 1)),
        Column(tr("norm entering"), answer.residual, significant),
        Column(tr("norm of update"), np.r_[answer.update, math.nan], significant),
        Column(tr("attention"), np.r_[attention, math.nan], significant),
        Column(tr("MLP"), np.r_[mlp, math.nan], significant),
        Column(tr("cosine"), np.r_[answer.cosine, math.nan], lambda v: "" if math.isnan(v) else f"{v:.4f}"),
    )
    return Table(cells, layers + 1, (answer.query, "norms"))


def parts_table(answer: AttributionAnswer) -> Table:
    """Every part of the logit; they sum to it."""
    layers = range(len(answer.mlp))
    rows = [(tr("embedding"), answer.embedding)]
    for layer in layers:
        rows.append((tr("attention of layer {0}").format(layer), float(answer.attention[layer])))
        rows.append((tr("MLP of layer {0}").format(layer), float(answer.mlp[layer])))
    rows.append((tr("between, all layers"), float(answer.between.sum())))
    rows.append((tr("bias"), answer.bias))
    rows.append((tr("rounding"), answer.rounding))
    rows.append((tr("logit of {0}").format(token(answer.piece)), answer.logit))
    cells = (
        Column(tr("part"), [name for name, _ in rows], numeric=False),
        Column(tr("of the logit"), [value for _, value in rows], _signed),
    )
    return Table(cells, len(rows), (answer.query, "parts"))


def heads_parts_table(answer: AttributionAnswer) -> Table:
    """Every head's part of the logit, the largest first."""
    layers, heads = answer.heads.shape
    flat = answer.heads.ravel()
    order = np.argsort(-np.abs(np.nan_to_num(flat)), kind="stable")
    cells = (
        Column(tr("layer"), order // heads),
        Column(tr("head"), order % heads),
        Column(tr("of the logit"), flat[order], _signed),
    )
    return Table(cells, layers * heads, (answer.query, "heads"))


def heads_table(
    answers: Mapping[int, tuple[HeadsAnswer, int]], version: int, muted: frozenset[tuple[int, int]] = frozenset()
) -> Table:
    """Every head whose summary is there, by layer: (answer, index of the layer in it). muted: (layer, head)."""
    layers = sorted(answers)
    heads = answers[layers[0]][0].first.shape[1] if layers else 0

    def joined(name: str) -> list[float]:
        return [value for n in layers for value in getattr(answers[n][0], name)[answers[n][1]].tolist()]

    def kind(layer: int, head: int) -> str:
        answer, index = answers[layer]
        found = tr(KINDS[answer.kind(index, head)])
        return f"{found} · {tr('muted')}".strip(" ·") if (layer, head) in muted else found

    kinds = [kind(n, head) for n in layers for head in range(heads)]
    cells = (
        Column(tr("layer"), np.repeat(np.array(layers, np.int64), heads)),
        Column(tr("head"), np.tile(np.arange(heads), len(layers))),
        Column(tr("kind"), kinds, numeric=False),
        Column(tr("entropy, bits"), joined("entropy_bits"), significant),
        Column(tr("on position 0"), joined("first"), _weight),
        Column(tr("on previous"), joined("previous"), _weight),
        Column(tr("induction"), joined("induction"), _weight),
    )
    return Table(cells, len(layers) * heads, (version, muted))


def _weight(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else signed(value) if abs(value) >= 0.005 or value == 0 else f"{value:+.0e}"
