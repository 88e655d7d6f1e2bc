"""The packages that only ONNX needs, which need not be installed."""

from __future__ import annotations

import importlib.util
import os

from core.contract.errors import ExportError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# What torch's exporter writes and onnxruntime reads, tried out: below 18 the graph cannot be converted, because
# LayerNormalization came with 17 and Split changed with 18.
OPSETS = (18, 19, 20, 21, 22, 23)
DEFAULT_OPSET = 20


def missing_packages() -> str:
    """One sentence about what has to be installed; empty where nothing has."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return f"ONNX needs {' and '.join(missing)}, which {verb} not installed; run “pip install {' '.join(missing)}”."


def silence_onnxruntime() -> None:
    """Keep it from sending usage data, which it does with an id of this machine; call it before its first import."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)


def require_packages() -> None:
    """Raises `ExportError` where something has to be installed."""
    missing = missing_packages()
    if missing:
        raise ExportError(missing)


def check_opset(opset: int) -> None:
    """Raises `ExportError` for an opset that cannot be written."""
    if opset not in OPSETS:
        raise ExportError(f"Opset {opset} cannot be written; choose {OPSETS[0]} to {OPSETS[-1]}.")
