"""What a configuration adds up to, in the words of the model chooser."""

from __future__ import annotations

import json

from app.state.model_facts import Facts, Precision, count
from app.state.texts import tr
from app.widgets.numbers import byte_count, significant
from core.contract import ConfigDescription, ConfigEstimate

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def config_facts(found: ConfigDescription) -> Facts:
    """Parameters by part, FLOPs, bytes, and why it cannot be."""
    problems = [problem.message for problem in found.problems]
    estimate = found.estimate
    if estimate is None:
        return Facts(found.title, (), (), "\n".join(problems), False, found.notices)
    lines = [(part.name, f"{count(part.parameters):<8} {part.formula}".rstrip()) for part in estimate.parts]
    lines.append((tr("parameters"), f"{count(estimate.parameters):<8} {estimate.parameters:,}"))
    first, last = estimate.flops_at(1), estimate.flops_at(estimate.max_positions)
    if first is not None and last is not None:
        lines.append((tr("FLOPs a token"), tr("{0} first, {1} with a full context").format(flops(first), flops(last))))
    if estimate.buffer_bytes:
        lines.append((tr("masks"), byte_count(estimate.buffer_bytes)))
    precisions = tuple(
        Precision(
            e.dtype,
            byte_count(e.weight_bytes),
            byte_count(e.kv_bytes_per_token),
            byte_count(e.kv_bytes_per_token * estimate.max_positions),
            e.dtype == estimate.dtype,
        )
        for e in estimate.dtypes
    )
    verdict = "\n".join(problems) or _fits(estimate)
    return Facts(found.title, tuple(lines), precisions, verdict, not problems, found.notices)


def _fits(estimate: ConfigEstimate) -> str:
    used = next(e for e in estimate.dtypes if e.dtype == estimate.dtype)
    needed = byte_count(used.needed_bytes(estimate.max_positions) + estimate.buffer_bytes)
    text = tr("{0} · {1}: {2} with a full context of {3} positions, {4} are free.")
    free = byte_count(estimate.available_bytes)
    return text.format(estimate.device, estimate.dtype, needed, f"{estimate.max_positions:,}", free)


def flops(number: float) -> str:
    """`247 M`, `1.3 T`: three significant digits."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{significant(number / size)} {unit}"
    return significant(number)


def written(value: object) -> str:
    """A value as a field shows it: as it stands in a config.json, texts without quotes."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
