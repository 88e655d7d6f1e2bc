"""Writing the graph: trace, translate, write. Runs in the child process, where it may take minutes and memory."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil  # type: ignore[import-untyped]
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
    partial, weights = partial_path(path), weights_path(path)
    drafted = partial.with_name(weights.name)

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
                external = loaded.info.weight_bytes > MOST_IN_ONE_FILE_BYTES
                _sweep(path)
                partial.parent.mkdir()
                _save(translated, partial, drafted, external)
                if external:
                    os.replace(drafted, weights)  # first: a graph without its weights would be of no use
                os.replace(partial, path)
                if not external:
                    weights.unlink(missing_ok=True)  # of an earlier, larger export to the same place
    finally:
        remove_partial(path)
    session = open_graph(path)
    return OnnxExport(
        path=str(path),
        size_bytes=path.stat().st_size + (weights.stat().st_size if weights.exists() else 0),
        opset=opset_of(path),
        past=past,
        inputs=read_tensors(session.get_inputs()),
        outputs=read_tensors(session.get_outputs()),
        stages=tuple(stages),
    )


def partial_path(path: Path) -> Path:
    """Where the graph is written before it is whole: in a folder, so that the weights have their own name at once."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial") / path.name


def weights_path(path: Path) -> Path:
    """The second file of a graph whose weights do not fit into the first."""
    return path.with_name(f"{path.name}.data")


def remove_partial(path: Path) -> None:
    """What an export to `path` that did not end has left."""
    shutil.rmtree(partial_path(path).parent, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Removes what exports to `path` have left that were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _save(translated: Any, partial: Path, weights: Path, external: bool) -> None:
    """The graph, and beside it the weights where they are too large for it."""
    import onnx

    if not external:
        translated.save(str(partial), external_data=False)
        return
    translated.save(str(partial), external_data=True)
    graph = onnx.load(str(partial), load_external_data=False)
    named = {e.value for t in graph.graph.initializer for e in t.external_data if e.key == "location"}
    if named != {weights.name}:
        raise ExportError(f"The weights were written under another name than {weights.name}: {', '.join(named)}.")


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
