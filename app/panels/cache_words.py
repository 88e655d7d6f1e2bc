"""What the cache panel says in words: the formula beside the measured bytes, shapes, and when it is full."""

from __future__ import annotations

from collections.abc import Sequence

from app.state.run import RunView
from app.state.texts import tr
from app.state.units import counted, paints
from app.widgets import numbers
from core.contract import (
    CacheReport,
    CacheShape,
    CacheSpec,
    ModelInfo,
    StepSnapshot,
    differences,
    plain_bytes,
    predict,
    rows_of,
)

MINUS = "−"


def rows_in(run: RunView, report: CacheReport) -> int:
    """Rows of the batch as stored, beams and candidates included."""
    return rows_of(report) if report.layouts else len(run.started.rows) * run.started.params.num_return_sequences


def formula(run: RunView, report: CacheReport, terse: bool = False) -> str:
    """K and V × rows × positions × layers × heads × head dimension × bytes of a number, beside the measured bytes.

    What is measured differs from it for reasons that have a name, and add up.
    """
    info = run.model
    rows = rows_in(run, report)
    shape = CacheShape.of(info)
    width = info.kv_bytes_per_token / shape.position_elements()
    expected = rows * report.length * info.kv_bytes_per_token
    layers, heads = (str(info.layers), str(info.kv_heads))
    if not terse:
        layers, heads = tr("{0} layers").format(layers), tr("{0} heads").format(heads)
    each = (heads, str(info.head_dim)) if shape.latent is None else (str(shape.latent),)
    factors = ("2", str(rows), str(report.length), layers, *each, f"{width:g}\u00a0B")
    factors = factors if shape.latent is None else factors[1:]
    # Lines break before an operator, never inside a quantity.
    product = ("×" if terse else " ×\u00a0").join(factor.replace(" ", "\u00a0") for factor in factors)
    result = f"{product} =\u00a0{expected:,}\u00a0B"
    difference = report.used_bytes - expected
    if not difference:
        return f"{result}\u00a0✓" if terse else f"{result} " + tr("=\u00a0measured\u00a0✓")
    if report.layouts or report.kind == "off":
        named = " ".join(
            f"{MINUS if d.bytes < 0 else '+'} {abs(d.bytes):,} B ({tr(d.name)})".replace(" ", "\u00a0")
            for d in differences(shape, info.dtype, report)
        )
        return f"{result} {named} =\u00a0{report.used_bytes:,}\u00a0B\u00a0" + tr("measured")
    measured = tr("measured {0} B, {1} B more") if difference > 0 else tr("measured {0} B, {1} B less")
    return f"{result}; " + measured.format(f"{report.used_bytes:,}", f"{abs(difference):,}")


def other_form(run: RunView, report: CacheReport) -> str:
    """The same with d_model, for plain multi-head models; empty for others."""
    info, shape = run.model, CacheShape.of(run.model)
    if shape.plain_width is None or not report.layouts:
        return ""
    whole = plain_bytes(shape, info.dtype, report)
    width = info.kv_bytes_per_token // shape.position_elements()
    factors = (2, rows_in(run, report), report.length, info.layers, shape.plain_width, width)
    product = " ×\u00a0".join(f"{n:,}" for n in factors)
    return tr("with d_model") + f" {product}\u00a0B =\u00a0{whole:,}\u00a0B"


def storage(run: RunView, step: StepSnapshot) -> str:
    """Shape, precision, device; slack, what is beyond the window, padding; a second cache and the records, apart."""
    report, second = step.cache, step.second_cache
    parts = []
    if report.layouts:
        first = report.layouts[0]
        each = tr("each layer") if len({layout.shape for layout in report.layouts}) == 1 else tr("layer 0")
        parts.append(tr("K and V of {0} {1} {2} on {3}").format(each, first.shape, first.dtype, first.device))
    parts += [f"{numbers.byte_count(extra.bytes)} {tr(extra.name)}" for extra in report.unused]
    if report.beyond_bytes:
        parts.append(tr("{0} beyond the window").format(numbers.byte_count(report.beyond_bytes)))
    if report.scales_bytes:
        parts.append(tr("{0} of scales").format(numbers.byte_count(report.scales_bytes)))
    if report.score_ms:
        parts.append(tr("choosing what to keep took {0} ms").format(f"{report.score_ms:.3g}"))
    share = padding_share(report, padding_at(run, step.id.index))
    if share:
        several = tr("{0} of it padding, in {1} rows") if rows_in(run, report) > 1 else tr("{0} of it padding")
        parts.append(several.format(numbers.percent(share), rows_in(run, report)))
    if second is not None:
        whose = tr("draft model’s cache {0} used, {1} allocated, apart")
        if step.guidance is not None:
            whose = tr("negative prompt’s cache {0} used, {1} allocated, apart")
        held = (second.used_bytes, second.allocated_bytes)
        parts.append(whose.format(*map(numbers.byte_count, held)))
    parts.append(tr("records of the views {0}, apart").format(numbers.byte_count(step.trace_bytes)))
    return "\u00a0· ".join(part.replace(" ", "\u00a0") for part in parts)


def padding_at(run: RunView, index: int) -> tuple[int, ...]:
    """Slots of padding in front of each row that the cache held at the step with this index; rows leave when they end.

    Of a branch, which is alone, its own.
    """
    if run.slots is not None:
        return (run.slots,)
    rows, widest = run.started.rows, max(len(row.token_ids) for row in run.started.rows)
    return tuple(widest - len(row.token_ids) for n, row in enumerate(rows) if run.sequences.reached(n) > index)


def padding_share(report: CacheReport, padding: Sequence[int]) -> float:
    """The part of the positions held that is padding; 0 where that is not known, because each head keeps others."""
    if not padding or report.kind == "heavy_hitters":
        return 0.0
    held = found = 0
    for layout in report.layouts:
        gone = 0 if report.kind == "sink" else layout.dropped  # sinks stand behind the padding, which stays with them
        held += layout.held * len(padding)
        found += sum(max(0, count - gone) for count in padding)
    return found / held if held else 0.0


def outlook(
    info: ModelInfo, report: CacheReport, step_ms: float, terse: bool = False, spec: CacheSpec | None = None
) -> str:
    """Bytes a token, and when the model's positions are used up at the speed of the last steps."""
    left = max(0, info.max_positions - report.length)
    duration = numbers.duration(left * step_ms)
    if not left:
        when = tr("full")
    elif terse:
        when = tr("full in {0}").format(duration)
    else:
        when = tr("full at {0} in {1}, {2}").format(f"{info.max_positions:,}", counted(info, left), duration)
    a_token = info.kv_bytes_per_token
    if spec is not None and spec.kind != "growing":
        a_token = predict(CacheShape.of(info), spec, info.dtype, 1, 1).position_bytes
        if spec.budget is not None:
            most = predict(CacheShape.of(info), spec, info.dtype, 1, info.max_positions).kept
            a_token = 0 if report.held >= most else a_token
            when += " · " + tr("at most {0} positions a layer and row").format(f"{most:,}")
    each = tr("{0} B a pixel") if paints(info) else tr("{0} B a token")
    return each.format(f"{a_token:,}") + f" · {when}"
