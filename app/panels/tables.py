"""The tables of the plots: the same columns of the state, written out. Pure functions, no Qt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.state import select
from app.state.run import RunView, columns_of, returned_as
from app.state.texts import tr
from app.widgets import numbers, parameter_text
from app.widgets.candidate_rows import CandidateRow, Segment
from app.widgets.detail_rows import DetailRow, Quantity
from app.widgets.heat_matrix import HeatMatrix
from app.widgets.row_list import RowLine
from app.widgets.series_plot import Flag, Series
from app.widgets.table_data import Column, Table
from app.widgets.visible_text import one_line
from core.contract import BeamDetail, CacheReport, Hypothesis, LabTable, StageReport, StepSnapshot, WaterfallAnswer

LONGEST = 40  # characters of a token in a cell
OUT_OF_REACH = -1e7  # less than any sum of log-probabilities of a real text


def token(piece: str) -> str:
    """A token in a cell."""
    return one_line(piece[:LONGEST])


def significant(value: float) -> str:
    """A number as the plots write it; nothing for one that is not there."""
    return "" if math.isnan(value) else numbers.significant(value)


def _weight(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _piece(step: StepSnapshot) -> str:
    return token(step.piece)


def _count(value: int) -> str:
    return f"{int(value):,}"


def output_table(run: RunView, selected: int | None, other: RunView | None = None) -> Table:
    """Every generated token, with what may colour it; and what another branch has there."""
    columns = (
        Column(tr("step"), range(run.count)),
        Column(tr("token"), run.columns.snapshots, _piece, numeric=False),
        Column("id", run.column("token_id")),
        Column(tr("probability"), select.probability(run), numbers.probability),
        Column(tr("rank"), run.column("rank"), _count),
        Column(tr("entropy, bits"), run.column("entropy_bits"), significant),
        Column(tr("surprisal, bits"), select.surprisal_bits(run), significant),
    )
    if other is None:
        return Table(columns, run.count, run.key, selected)
    theirs = Column(
        tr("other branch"), range(run.count), lambda n: _token_at(other, run.prompt_tokens + n), numeric=False
    )
    return Table((*columns[:2], theirs, *columns[2:]), run.count, (run.key, other.key, other.count), selected)


def _token_at(run: RunView, position: int) -> str:
    index = position - run.prompt_tokens
    return _piece(run.step(index)) if 0 <= index < run.count else ""


def rows_table(run: RunView, lines: Sequence[RowLine]) -> Table:
    """Every row of the batch: what it said last, its length, its mean entropy, the padding in front of it."""
    count, longest = len(lines), max(len(row.token_ids) for row in run.started.rows)
    columns = [columns_of(run, r) for r in range(count)]
    entropies = [float(c.column("entropy_bits", c.count).mean()) if c.count else math.nan for c in columns]
    return Table(
        (
            Column(tr("row"), range(1, count + 1)),
            Column(tr("text"), lines, lambda line: line.text[-LONGEST:], numeric=False),
            Column(tr("tokens"), [c.count for c in columns], _count),
            Column(tr("mean entropy, bits"), entropies, significant),
            Column(tr("padding"), [longest - len(row.token_ids) for row in run.started.rows], _count),
            Column(tr("ended"), lines, lambda line: line.ended, numeric=False),
        ),
        count,
        (run.run_id, sum(c.count for c in columns)),
        run.row,
    )


def beams_table(run: RunView) -> Table:
    """Every beam after every step; with groups the penalty of its token, with constraints how far it is."""
    steps = [step for at in run.sequences.lanes[run.row] for _, step in sorted(at.items())]
    details = [step.detail for step in steps if isinstance(step.detail, BeamDetail)]
    columns = [
        Column(tr("step"), [step.id.index for step in steps]),
        Column(tr("beam"), [step.id.beam + 1 for step in steps]),
        Column(tr("token"), steps, _piece, numeric=False),
        Column(tr("continues"), [detail.parent + 1 for detail in details]),
        Column(tr("probability"), [math.exp(step.logprob) for step in steps], numbers.probability),
        Column(tr("score"), [detail.score for detail in details], beam_score),
    ]
    if run.params.num_beam_groups > 1:
        columns.append(Column(tr("group"), [detail.group + 1 for detail in details]))
        columns.append(Column(tr("diversity penalty"), [detail.penalty for detail in details], significant))
    if run.params.force_words_ids:
        columns.append(Column(tr("constraints"), details, constraints, numeric=False))
        columns.append(Column(tr("bank"), [detail.bank or 0 for detail in details]))
    return Table(tuple(columns), len(steps), (run.run_id, run.row))


def beam_score(score: float, places: int = 3) -> str:
    """As it is written; a dash for beams that only hold a place, which searches give a score out of reach."""
    return f"{score:.{places}f}" if score > OUT_OF_REACH else "–"


def constraints(detail: BeamDetail) -> str:
    """Tokens said and needed of each constraint."""
    return "  ".join(f"{said}/{needed}" for said, needed in zip(detail.fulfilled, detail.needed, strict=True))


def hypotheses_table(run: RunView, ended: Sequence[Hypothesis]) -> Table:
    """The complete hypotheses, best first."""
    return Table(
        (
            Column(tr("score"), [one.score for one in ended], beam_score),
            Column(tr("tokens"), [len(one.token_ids) for one in ended], _count),
            Column(tr("step"), [one.index for one in ended]),
            Column(tr("text"), ended, lambda one: token(one.text[-LONGEST:]), numeric=False),
            Column(tr("became"), ended, lambda one: hypothesis_end(run, one), numeric=False),
        ),
        len(ended),
        (run.run_id, run.row, len(ended), run.finish is not None),
    )


def hypothesis_end(run: RunView, one: Hypothesis) -> str:
    """What became of a complete hypothesis: returned, with its number where there are several, kept or dropped."""
    number = returned_as(run, one.row, one.beam, one.index)
    if number is None:
        return tr("kept") if one.kept else tr("dropped")
    return tr("returned") if run.params.num_return_sequences == 1 else tr("returned {0}").format(number + 1)


def waterfall_table(answer: WaterfallAnswer) -> Table:
    """The stages: parameters, tokens killed and left, mass kept, entropy before and after."""
    stages = answer.stages

    def values(stage: StageReport) -> str:
        return ", ".join(parameter_text.written(value) for value in stage.params.values())

    return Table(
        (
            Column(tr("stage"), stages, lambda stage: stage.name, numeric=False),
            Column(tr("value"), stages, values, numeric=False),
            Column(tr("killed"), [stage.killed for stage in stages], _count),
            Column(tr("left"), [stage.survivors for stage in stages], _count),
            Column(tr("mass kept"), [stage.mass_kept for stage in stages], numbers.probability),
            Column(tr("entropy before, bits"), [stage.entropy_before_bits for stage in stages], significant),
            Column(tr("after"), [stage.entropy_after_bits for stage in stages], significant),
        ),
        len(stages),
        (answer.query.run_id, answer.query.position, tuple(answer.query.changes.items())),
    )


def detail_table(quantities: Sequence[Quantity], rows: Sequence[DetailRow], key: object) -> Table:
    """What a mode did at a step."""
    columns = [
        Column(quantity.title or tr("outcome"), [row.texts[n] for row in rows], str, numeric=False)
        for n, quantity in enumerate(quantities)
    ]
    chosen = next((n for n, row in enumerate(rows) if row.chosen), None)
    return Table((Column(tr("name"), rows, lambda row: row.name, numeric=False), *columns), len(rows), key, chosen)


def timeline_table(run: RunView, series: Sequence[Series], flags: Sequence[Flag], selected: int | None) -> Table:
    """Every step with the series of the plot, and what changed from it on."""
    changes = {flag.index: flag.text for flag in flags}
    titles = (tr("entropy, bits"), tr("surprisal, bits"), tr("ms"))
    columns = (
        Column(tr("step"), range(run.count)),
        Column(tr("token"), run.columns.snapshots, _piece, numeric=False),
        *(Column(t, s.values, significant, s.scale) for t, s in zip(titles, series, strict=True)),
        Column(tr("changed"), range(run.count), lambda index: changes.get(index, ""), numeric=False),
    )
    return Table(columns, run.count, (run.key, len(flags)), selected)


def candidates_table(rows: Sequence[CandidateRow], segments: Sequence[Segment], key: object) -> Table:
    """The candidates of a step: both probabilities, its part of the cumulative bar, what became of it."""
    ends = {segment.token_id: segment.stop for segment in segments}
    columns = (
        Column(tr("token"), rows, lambda row: token(row.piece), numeric=False),
        Column("id", [row.token_id for row in rows]),
        Column(tr("raw"), [row.raw for row in rows], numbers.probability),
        Column(tr("final"), [row.final for row in rows], numbers.probability),
        Column(tr("drawn up to"), [ends.get(row.token_id, math.nan) for row in rows], _weight),
        Column(tr("fate"), rows, _fate, numeric=False),
    )
    chosen = next((i for i, row in enumerate(rows) if row.chosen), None)
    return Table(columns, len(rows), key, chosen)


def _fate(row: CandidateRow) -> str:
    if row.chosen:
        return tr("chosen")
    return tr("removed by {0}").format(row.killed_by) if row.killed_by else tr("kept")


def layers_table(report: CacheReport, key: object) -> Table:
    """Bytes of each layer."""
    columns = (
        Column(tr("layer"), range(len(report.key_used_bytes))),
        Column(tr("K used, B"), report.key_used_bytes, _count),
        Column(tr("K allocated, B"), report.key_allocated_bytes, _count),
        Column(tr("V used, B"), report.value_used_bytes, _count),
        Column(tr("V allocated, B"), report.value_allocated_bytes, _count),
        *_layout_columns(report),
    )
    return Table(columns, len(report.key_used_bytes), key)


def _layout_columns(report: CacheReport) -> tuple[Column, ...]:
    """What else is known of each layer: beyond the window, scales, shape, precision, device, dropped positions."""
    if not report.layouts or report.key_beyond_bytes is None or report.value_beyond_bytes is None:
        return ()
    layouts, scales = report.layouts, report.scale_bytes
    return (
        Column(tr("beyond the window, B"), report.key_beyond_bytes + report.value_beyond_bytes, _count),
        Column(tr("scales, B"), [0] * len(layouts) if scales is None else scales, _count),
        Column(tr("shape"), [str(layout.shape) for layout in layouts], str, numeric=False),
        Column(tr("precision"), [layout.dtype for layout in layouts], str, numeric=False),
        Column(tr("device"), [layout.device for layout in layouts], str, numeric=False),
        Column(tr("dropped"), [layout.dropped for layout in layouts], _count),
    )


def lab_table(table: LabTable, key: object) -> Table:
    """What an experiment measured."""
    columns = []
    for place, title in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        if any(isinstance(cell, str) for cell in cells):
            columns.append(Column(tr(title), [cell or "" for cell in cells], str, numeric=False))
        else:
            whole = all(cell is None or isinstance(cell, int) for cell in cells)
            values = [math.nan if cell is None else cell for cell in cells]
            columns.append(Column(tr(title), values, _whole if whole else _measured))
    return Table(tuple(columns), len(table.rows), (key, len(table.rows)))


def _whole(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _measured(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else significant(value)


def growth_table(run: RunView, selected: int | None) -> Table:
    """The bytes of the whole cache after each step."""
    columns = (
        Column(tr("step"), range(run.count)),
        Column(tr("positions"), run.column("cache_length"), _count),
        Column(tr("used, B"), run.column("used_bytes"), _count),
        Column(tr("allocated, B"), run.column("allocated_bytes"), _count),
    )
    return Table(columns, run.count, run.key, selected)


def attention_table(matrix: HeatMatrix, labels: Sequence[str], query: int, origin: int = 0) -> Table:
    """The row of a query as the map has it: each key (or block of keys, where the map is pooled) and its weight.

    query: counted from `origin`, the position of the map's first row.
    """
    factor = matrix.factor
    weights = matrix.values[query // factor, : query // factor + 1]
    starts = range(origin, origin + query + 1, factor)

    def names(start: int) -> str:
        return "".join(token(label) for label in labels[start : min(start + factor, origin + query + 1)])[:LONGEST]

    columns = (
        Column(tr("position") if factor == 1 else tr("from position"), starts),
        Column(tr("key"), starts, names, numeric=False),
        Column(tr("weight") if factor == 1 else tr("largest weight"), weights, _weight),
    )
    return Table(columns, len(starts), (id(matrix), query, matrix.rows, origin))
