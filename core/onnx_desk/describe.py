"""Both descriptions of a loaded model's graph, with past and without."""

from __future__ import annotations

import torch

from core.contract.onnx import OnnxDescription, OnnxPair
from core.models.loaded import LoadedModel
from core.onnx_desk.extra import DEFAULT_OPSET, OPSETS, missing_packages
from core.onnx_desk.graph import check_exportable, current_form
from core.onnx_desk.legacy import legacy_form
from core.onnx_desk.sizes import graph_sizes


def describe(loaded: LoadedModel, opset: int = DEFAULT_OPSET) -> OnnxDescription:
    """The pairs of tables; nothing is exported. Raises `ExportError` for families that cannot be."""
    check_exportable(loaded)
    sizes = graph_sizes(loaded)
    with_past, without = (
        OnnxPair(past, legacy_form(sizes, past), current_form(sizes, past, opset)) for past in (True, False)
    )
    return OnnxDescription(
        model_id=loaded.info.model_id,
        title=loaded.info.title,
        pairs=(with_past, without),
        opsets=OPSETS,
        default_opset=DEFAULT_OPSET,
        weight_bytes=loaded.info.parameters * torch.float32.itemsize,
        missing=missing_packages(),
    )
