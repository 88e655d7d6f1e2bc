"""The tables and sentences of the ONNX card. Pure functions, no Qt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.state.desk_state import OnnxDesk
from app.state.texts import tr
from app.widgets.numbers import byte_count
from app.widgets.table_data import Column, Table
from core.contract import OnnxCheck, OnnxDescription, OnnxExport, OnnxForm, OnnxOutcome, OnnxTensor

KINDS = ("input", "output", "dummy")


@dataclass(frozen=True, slots=True)
class Notes:
    """What is said below the tables."""

    lines: tuple[str, ...]
    error: bool = False


def pair_table(legacy: OnnxForm, current: OnnxForm) -> Table:
    """Every input, output and dummy input, the two descriptions side by side."""
    then, now = _lines(legacy), _lines(current)
    keys = list(dict.fromkeys((*now, *then)))
    keys.sort(key=lambda key: KINDS.index(key[0]))
    more = _more(legacy) | _more(current)
    columns = (
        Column(tr("name"), [f"{tr(kind)} {name}" for kind, name in keys], numeric=False),
        Column(legacy.title, [then.get(key, "–") for key in keys], numeric=False),
        Column(current.title, [now.get(key, "–") for key in keys], numeric=False),
        Column(tr("shape, or what it holds"), [more.get(key, "") for key in keys], numeric=False),
    )
    return Table(columns, len(keys), (legacy, current))


def _lines(form: OnnxForm) -> dict[tuple[str, str], str]:
    """What a description says of each tensor, by kind and name."""
    found = {("input", t.name): axes(t) for t in form.inputs}
    found |= {("output", t.name): axes(t) for t in form.outputs}
    return found | {("dummy", d.name): f"{d.shape} {d.dtype}" for d in form.dummies}


def _more(form: OnnxForm) -> dict[tuple[str, str], str]:
    found = {("input", t.name): shape(t) for t in form.inputs if t.shape}
    found |= {("output", t.name): shape(t) for t in form.outputs if t.shape}
    return found | {("dummy", d.name): d.note for d in form.dummies}


def shape(tensor: OnnxTensor) -> str:
    """`(batch, 8, past_sequence, 32) float32`."""
    return f"({', '.join(tensor.shape)}) {tensor.dtype}"


def facts_line(form: OnnxForm) -> str:
    """`transformers 4: class GPT2OnnxConfig · opset 13 · …`."""
    return f"{form.title}: " + " · ".join(f"{name} {value}" for name, value in form.facts)


def axes(tensor: OnnxTensor) -> str:
    """`{0: batch, 1: sequence}`: the axes that move."""
    return "{" + ", ".join(f"{number}: {name}" for number, name in tensor.axes) + "}"


def with_opset(form: OnnxForm, opset: int) -> OnnxForm:
    """The description with another opset, before it is exported."""
    facts = tuple((name, str(opset) if name == "opset" else value) for name, value in form.facts)
    return replace(form, opset=opset, facts=facts)


def read_back(form: OnnxForm, export: OnnxExport) -> OnnxForm:
    """The same from the file that was written."""
    title = tr("read from the file")
    return replace(with_opset(form, export.opset), title=title, inputs=export.inputs, outputs=export.outputs)


def check_table(check: OnnxCheck) -> Table:
    """Every case with its largest difference, and the greedy run."""
    rows = [
        (c.name, f"{c.max_difference:.1e}", tr("same") if c.same else tr("too large"), c.detail) for c in check.cases
    ]
    tokens = f"{check.same_tokens} / {len(check.engine_ids)}"
    run = tr("same") if check.engine_ids == check.onnx_ids else tr("differs")
    rows.append((tr("greedy run"), tokens, run, tr("tokens as the engine chooses them")))
    titles = (tr("case"), tr("difference"), tr("verdict"), tr("what was compared"))
    columns = tuple(Column(title, [row[i] for row in rows], numeric=False) for i, title in enumerate(titles))
    return Table(columns, len(rows), check)


def notes(desk: OnnxDesk, found: OnnxDescription | None, outcome: OnnxOutcome | None, model_id: int | None) -> Notes:
    """What is missing, what went wrong, or what came out."""
    if model_id is None:
        return Notes((tr("Two descriptions of the loaded model appear here; choose a model in the toolbar."),))
    if found is None:
        return Notes((desk.error.message,), True) if desk.error is not None else Notes((tr("Looking at it…"),))
    if found.missing:
        return Notes((found.missing,), True)
    if desk.failure is not None:
        cancelled = desk.failure.code == "load_cancelled"
        return Notes((desk.failure.message,), not cancelled)
    if outcome is None:
        return Notes(())
    lines = []
    if outcome.export is not None:
        export = outcome.export
        stages = ", ".join(f"{name.lower()} {seconds:.1f} s" for name, seconds in export.stages)
        size = byte_count(export.size_bytes)
        lines.append(tr("{0}: {1}, opset {2} ({3})").format(export.path, size, export.opset, stages))
    if outcome.check is not None:
        check = outcome.check
        text = (
            tr("onnxruntime {0} says the same as the model: within 1e-4, and the same {1} tokens.")
            if check.passed
            else tr("onnxruntime {0} says something else than the model; {1} tokens of the greedy run are the same.")
        )
        lines.append(text.format(check.onnxruntime, check.same_tokens))
    return Notes(tuple(lines), outcome.check is not None and not outcome.check.passed)
