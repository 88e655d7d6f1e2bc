"""Writing the graph: trace, translate, write. Runs in the child process, where it may take minutes and memory."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from core.contract.errors import ExportError
from core.contract.onnx import OnnxExport
from core.models.loaded import LoadedModel
from core.onnx_desk.extra import check_opset
from core.onnx_desk.graph import (
    Graph,
    check_exportable,
    dummy_inputs,
    input_names,
    moving_axes,
    output_names,
    read_tensors,
)
from core.onnx_desk.sizes import graph_sizes

Say = Callable[[str, float | None], None]
MOST_IN_ONE_FILE_BYTES = (1 << 31) - (64 << 20)  # a protobuf ends at 2 GiB; larger weights go into a second file


def export(loaded: LoadedModel, path: Path, opset: int, past: bool, say: Say) -> OnnxExport:
    """The model as `path`, which appears at once or not at all. Raises `ExportError`."""
    check_opset(opset)
    check_exportable(loaded)
    stages: list[tuple[str, float]] = []
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    @contextlib.contextmanager
    def stage(name: str, fraction: float) -> Iterator[None]:
        say(name, fraction)
        begun = perf_counter()
        yield
        stages.append((name, perf_counter() - begun))

    try:
        with torch.no_grad(), _quiet():
            with stage("Tracing", 0.1):
                program = _trace(loaded, past)
            with stage("Translating", 0.35):
                translated = _translate(program, loaded, past, opset)
            with stage("Writing", 0.85):
                translated.save(str(partial), external_data=loaded.info.weight_bytes > MOST_IN_ONE_FILE_BYTES)
                os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    session = open_graph(path)
    return OnnxExport(
        path=str(path),
        size_bytes=path.stat().st_size,
        opset=opset_of(path),
        past=past,
        inputs=read_tensors(session.get_inputs()),
        outputs=read_tensors(session.get_outputs()),
        stages=tuple(stages),
    )


def _trace(loaded: LoadedModel, past: bool) -> torch.export.ExportedProgram:
    sizes = graph_sizes(loaded)
    axes = moving_axes(sizes.layers, past, lambda _name: torch.export.Dim.DYNAMIC)
    graph = Graph(loaded.module, past).eval()
    return torch.export.export(graph, dummy_inputs(loaded, sizes, past), dynamic_shapes=axes, strict=False)


def _translate(program: torch.export.ExportedProgram, loaded: LoadedModel, past: bool, opset: int) -> Any:
    layers = loaded.info.layers
    return torch.onnx.export(
        program,
        dynamo=True,
        input_names=input_names(layers, past),
        output_names=output_names(layers, past),
        opset_version=opset,
        dynamic_shapes=moving_axes(layers, past, str),
        verbose=False,
    )


def open_graph(path: Path) -> Any:
    """A graph in onnxruntime, on the CPU in one thread. Raises `ExportError`."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ExportError(f"onnxruntime cannot read “{path.name}”: {first}.", detail=str(error)) from error


def opset_of(path: Path) -> int:
    """The version of the standard operators that the file asks for."""
    import onnx

    imports = onnx.load(str(path), load_external_data=False).opset_import
    return max(int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells on every channel what it skips (torchvision's operators)."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
