"""Exports and checks from outside: one child process a job, which can be given up at any time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from core.contract.errors import ExportError, LoadCancelledError
from core.contract.onnx import OnnxCase, OnnxCheck, OnnxExport, OnnxOutcome, OnnxTensor
from core.domains.sandbox import Limits, Sandbox, SandboxError
from core.models.units import byte_count
from core.onnx_desk.extra import check_opset, require_packages

WALL_S = 3600.0
# Weights, their copy in the graph, the graph being written: measured 3.6 × for 25 MB.
COPIES = 4
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """A job: export `model` (a `ModelSpec.name`) to `path`, or check what is there."""

    model: str
    path: Path
    weight_bytes: int  # in fp32
    export: bool = True
    opset: int = 0
    past: bool = True
    check: bool = True


def check_request(request: Request) -> None:
    """All that can be said before a process is started. Raises `ExportError`."""
    require_packages()
    path = request.path
    if not request.export:
        if not path.is_file():
            raise ExportError(f"There is no file “{path}”; export the model first.")
        return
    check_opset(request.opset)
    _check_folder(path)
    free = int(psutil.virtual_memory().available)
    if request.weight_bytes * COPIES > free:
        raise ExportError(
            f"Exporting takes about {byte_count(request.weight_bytes * COPIES)} of memory and {byte_count(free)} are "
            "free; close something, or choose a smaller model."
        )
    room = shutil.disk_usage(path.parent).free
    if request.weight_bytes * 1.1 > room:
        raise ExportError(
            f"The graph takes {byte_count(request.weight_bytes)} and “{path.parent}” has room for {byte_count(room)}; "
            "choose another disk."
        )


def _check_folder(path: Path) -> None:
    if path.suffix.lower() != ".onnx":
        raise ExportError(f"“{path.name}” is no name of a graph; end it with .onnx.")
    if path.is_dir():
        raise ExportError(f"“{path}” is a folder; give the name of a file in it, such as model.onnx.")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"“{folder}” cannot be made: {error.strerror or error}; choose another folder.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"“{folder}” cannot be written to; choose another folder.")


def run(request: Request, cancelled: Callable[[], bool], progress: Callable[[str, float | None], None]) -> OnnxOutcome:
    """Do the job and wait for it. Raises `ExportError`, and `LoadCancelledError` once `cancelled` says so."""
    check_request(request)
    progress("Starting", None)
    sandbox = Sandbox("core.onnx_desk.child", patience_s=PATIENCE_S)
    asked = {
        "model": request.model,
        "path": str(request.path.absolute()),
        "export": request.export,
        "opset": request.opset,
        "past": request.past,
        "check": request.check,
    }
    try:
        answer = sandbox.ask(asked, Limits(WALL_S, may_write=True), cancelled=cancelled, progress=progress)
    except SandboxError as error:
        if error.failure == "cancelled":
            raise LoadCancelledError("The export was cancelled.") from error
        why = " ".join(error.message.split())[:300].rstrip(".")
        sentence = f"{why}." if error.failure == "said" else f"The export failed: {why}."
        raise ExportError(sentence, detail=error.detail) from error
    finally:
        sandbox.close()
    return _outcome(answer)


def _outcome(answer: dict[str, Any]) -> OnnxOutcome:
    """The contract's data from the child's JSON."""
    export, check = answer.get("export"), answer.get("check")
    return OnnxOutcome(
        export=None
        if export is None
        else OnnxExport(
            **{
                **export,
                "inputs": tuple(map(_tensor, export["inputs"])),
                "outputs": tuple(map(_tensor, export["outputs"])),
                "stages": tuple((str(name), float(seconds)) for name, seconds in export["stages"]),
            }
        ),
        check=None
        if check is None
        else OnnxCheck(
            **{
                **check,
                "cases": tuple(OnnxCase(**case) for case in check["cases"]),
                **{name: tuple(check[name]) for name in ("prompt_ids", "engine_ids", "onnx_ids")},
            }
        ),
    )


def _tensor(content: dict[str, Any]) -> OnnxTensor:
    axes = tuple((int(i), str(name)) for i, name in content["axes"])
    return OnnxTensor(**{**content, "axes": axes, "shape": tuple(content["shape"])})
