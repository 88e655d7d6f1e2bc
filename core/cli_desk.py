"""`tokenglass config` and `tokenglass onnx`: what the window's cards of these names show, as text or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.contract import (
    ConfigDescription,
    ExportError,
    OnnxCheck,
    OnnxExport,
    OnnxForm,
    OnnxOutcome,
    OnnxTensor,
    ParameterError,
)

EXIT_DIFFERS = 1
DEFAULT_OPSET = 20
Watched = Callable[[], AbstractContextManager[Any]]  # gives what loads report to and ask


def add_commands(commands: Any, watched: Watched) -> None:
    """Add both to the parser of the command line."""
    _add_config(commands, watched)
    _add_onnx(commands, watched)


def _add_config(commands: Any, watched: Watched) -> None:
    config = commands.add_parser("config", help="explain a configuration, or make a model of it", allow_abbrev=False)
    actions = config.add_subparsers(required=True, metavar="show|diff|save")
    what = {
        "show": ("every field, what it means, what it adds up to", _show),
        "diff": ("the fields that differ from the class's defaults", _diff),
        "save": ("write a model of random weights as a folder", _save),
    }
    for name, (help_text, command) in what.items():
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        action.set_defaults(command=command, watched=watched)
        action.add_argument(
            "subject", metavar="FAMILY|new:NAME|FILE|FOLDER|MODEL", help="gpt2, llama, qwen2, imagegpt, or what has one"
        )
        action.add_argument(
            "--set", dest="changes", action="extend", nargs="+", default=[], metavar="FIELD=VALUE",
            help="fields by their names or aliases, such as n_embd=256",
        )  # fmt: skip
        action.add_argument("--seed", type=int, default=None, help="of the random weights")
        action.add_argument("--json", action="store_true", help="one object")
        if name == "save":
            action.add_argument("--out", required=True, type=Path, metavar="DIR", help="a folder that is new or empty")


def _add_onnx(commands: Any, watched: Watched) -> None:
    onnx = commands.add_parser("onnx", help="a model as an ONNX graph", allow_abbrev=False)
    actions = onnx.add_subparsers(required=True, metavar="describe|export|check")
    what = {
        "describe": ("inputs and outputs, as transformers 4 said and as exported now", _describe_onnx),
        "export": ("write the graph, then check it", _export),
        "check": ("compare a graph with the model in onnxruntime", _check),
    }
    for name, (help_text, command) in what.items():
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        action.set_defaults(command=command, watched=watched)
        action.add_argument("--model", required=True, metavar="NAME|FOLDER", help="see “tokenglass models”")
        action.add_argument("--json", action="store_true", help="one object")
        if name != "check":
            action.add_argument("--opset", type=int, default=DEFAULT_OPSET, help=f"default: {DEFAULT_OPSET}")
        if name == "export":
            action.add_argument("--out", required=True, type=Path, metavar="FILE.onnx")
            action.add_argument("--without-past", action="store_true", help="no keys and values as inputs")
            action.add_argument("--no-check", action="store_true", help="do not compare it afterwards")
        if name == "check":
            action.add_argument("--file", required=True, type=Path, metavar="FILE.onnx")


def _described(options: argparse.Namespace) -> ConfigDescription:
    changes = {}
    for setting in options.changes:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ParameterError(f"“{setting}” is no change; write field=value, such as n_embd=256.")
        changes[name.strip()] = value
    from core.configs.describe import describe

    return describe(options.subject, changes, seed=options.seed)


def _show(options: argparse.Namespace) -> int:
    found = _described(options)
    if options.json:
        print(json.dumps(_plain(found)))
        return _status(found)
    print(f"{found.title} · {found.class_name} (model_type {found.family})")
    for field in found.fields:
        value = json.dumps(field.value)
        mark = f"  (default {json.dumps(field.default)})" if field.changed else ""
        alias = f" = {', '.join(field.aliases)}" if field.aliases else ""
        print(f"  {field.name}{alias:<1} = {value}{mark}\n      {field.meaning}")
    for key in found.output_keys:
        print(f"keys_to_ignore_at_inference: {key.key}")
        for caller, use in key.uses:
            print(f"  {caller:<10} {use}")
    _print_estimate(found)
    return _status(found)


def _status(found: ConfigDescription) -> int:
    """1 where no model can be made of it; the problems say why."""
    return 1 if found.problems else 0


def _print_estimate(found: ConfigDescription) -> None:
    from core.models.units import byte_count

    if found.estimate is not None:
        estimate = found.estimate
        for part in estimate.parts:
            print(f"{part.name:<12} {part.parameters:>16,}  {part.formula}".rstrip())
        print(f"{'parameters':<12} {estimate.parameters:>16,}")
        for dtype in estimate.dtypes:
            whole = dtype.kv_bytes_per_token * estimate.max_positions
            print(
                f"{dtype.dtype:<12} {byte_count(dtype.weight_bytes):>16}  "
                f"KV {byte_count(dtype.kv_bytes_per_token)} a token, {byte_count(whole)} for {estimate.max_positions:,}"
            )
        if estimate.flops_per_token is not None:
            first, last = estimate.flops_at(1), estimate.flops_at(estimate.max_positions)
            print(f"{'FLOPs':<12} {first:>16,}  the first token; {last:,} the last one of a full context")
    for text in (*(p.message for p in found.problems), *found.notices):
        print(text)
    if found.new_name is not None:
        print(found.new_name)


def _diff(options: argparse.Namespace) -> int:
    found = _described(options)
    changed = [field for field in found.fields if field.changed]
    if options.json:
        print(json.dumps({field.name: [field.default, field.value] for field in changed}))
        return _status(found)
    for field in changed:
        print(f"{field.name} {json.dumps(field.default)} → {json.dumps(field.value)}")
    if not changed:
        print(f"No field differs from the defaults of {found.class_name}.")
    for problem in found.problems:
        print(problem.message)
    return _status(found)


def _save(options: argparse.Namespace) -> int:
    from core.configs.save import check_target, save_new

    check_target(options.out.expanduser())
    found = _described(options)
    if found.new_name is None:
        raise ParameterError(found.problems[0].message if found.problems else found.notices[-1])
    with options.watched() as control:
        saved = save_new(found.new_name, options.out, control)
    if options.json:
        print(json.dumps(asdict(saved) | {"name": found.new_name}))
    else:
        print(f"{saved.path}: {', '.join(f'{name} ({size:,} B)' for name, size in saved.files)}")
    return 0


def _describe_onnx(options: argparse.Namespace) -> int:
    from core.models.loader import load
    from core.onnx_desk.describe import describe
    from core.onnx_desk.extra import check_opset

    check_opset(options.opset)
    with options.watched() as control:
        found = describe(load(_spec(options.model), 0, control), options.opset)
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    for pair in found.pairs:
        print("With past keys and values" if pair.past else "Without past")
        for form in (pair.legacy, pair.current):
            _print_form(form)
    if found.missing:
        print(found.missing)
    return 0


def _print_form(form: OnnxForm) -> None:
    print(f"  {form.title}: " + ", ".join(f"{name} {value}" for name, value in form.facts))
    for title, tensors in (("inputs", form.inputs), ("outputs", form.outputs)):
        print(f"    {title}")
        for tensor in tensors:
            print(f"      {tensor.name:<26} {axes_text(tensor)}")
    print("    traced with")
    for dummy in form.dummies:
        print(f"      {dummy.name:<26} {dummy.dtype} {dummy.shape}  {dummy.note}")


def axes_text(tensor: OnnxTensor) -> str:
    """`{0: batch, 1: sequence}`, and the whole shape where it is known."""
    axes = ", ".join(f"{number}: {name}" for number, name in tensor.axes)
    return f"{{{axes}}}" + (f"  ({', '.join(tensor.shape)}) {tensor.dtype}" if tensor.shape else "")


def _export(options: argparse.Namespace) -> int:
    from core.onnx_desk.extra import check_opset, require_packages
    from core.onnx_desk.job import check_request

    require_packages()
    check_opset(options.opset)
    request = _request(options, options.out, opset=options.opset, past=not options.without_past)
    check_request(request)
    return _run(options, request)


def _check(options: argparse.Namespace) -> int:
    return _run(options, _request(options, options.file, export=False))


def _request(options: argparse.Namespace, path: Path, **more: Any) -> Any:
    from core.models.preview import preview
    from core.onnx_desk.job import Request

    weights = next(e.weight_bytes for e in preview(_spec(options.model)).estimates if e.dtype == "fp32")
    checked = not getattr(options, "no_check", False)
    return Request(options.model, path.expanduser(), weights, check=checked, **more)


def _run(options: argparse.Namespace, request: Any) -> int:
    from core.onnx_desk.job import run

    with options.watched() as control:
        outcome: OnnxOutcome = run(request, control.cancelled, control.progress)
    if options.json:
        print(json.dumps(_outcome(outcome)))
    else:
        if outcome.export is not None:
            _print_export(outcome.export)
        if outcome.check is not None:
            _print_check(outcome.check)
    return EXIT_DIFFERS if outcome.check is not None and not outcome.check.passed else 0


def _print_export(export: OnnxExport) -> None:
    stages = ", ".join(f"{name.lower()} {seconds:.1f} s" for name, seconds in export.stages)
    print(f"{export.path}: {export.size_bytes:,} B, opset {export.opset} ({stages})")
    for tensor in (*export.inputs, *export.outputs):
        print(f"  {tensor.name:<26} {axes_text(tensor)}")


def _print_check(check: OnnxCheck) -> None:
    print(f"onnxruntime {check.onnxruntime} against the model without a cache, largest difference of logits:")
    for case in check.cases:
        print(f"  {case.name:<20} {case.max_difference:.2g}  {case.detail}{'' if case.same else '  TOO LARGE'}")
    print(f"  greedy run           {check.same_tokens} of {len(check.engine_ids)} tokens the same as the engine's")


def _outcome(outcome: OnnxOutcome) -> dict[str, Any]:
    content = asdict(outcome)
    if outcome.check is not None:
        content["check"] |= {"passed": outcome.check.passed, "same_tokens": outcome.check.same_tokens}
    return content


def _spec(model: str) -> Any:
    from core.contract import ModelSpec

    if not model.strip():
        raise ExportError("No model was named.")
    return ModelSpec(model, "cpu", "fp32")


def _plain(found: ConfigDescription) -> dict[str, Any]:
    content = asdict(found)
    content["changes"] = dict(found.changes)
    if found.estimate is not None:
        content["estimate"]["parameters"] = found.estimate.parameters
    return content
