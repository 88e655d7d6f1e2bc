"""`python -m core.onnx_desk.child`: loads the model once more, in fp32 on the CPU, exports and checks it."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.domains.sandboxed import say, serve
from core.onnx_desk.extra import silence_onnxruntime


def main() -> None:
    """Serve one request; the answer has the parts of an `OnnxOutcome`."""
    warnings.simplefilter("ignore")
    import torch
    import transformers

    silence_onnxruntime()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the run in the window goes on
    transformers.utils.logging.set_verbosity_error()
    partial: list[Path] = []
    serve(lambda request: _handle(request, partial), on_abandoned=lambda: _remove(partial))


def _handle(request: dict[str, Any], partial: list[Path]) -> dict[str, Any]:
    from core.contract.specs import ModelSpec
    from core.models.loader import load
    from core.onnx_desk.check import check
    from core.onnx_desk.export import export

    say("Loading the model once more, in fp32", 0.0)
    loaded = load(ModelSpec(request["model"], "cpu", "fp32"), 0, _Told())
    path = Path(request["path"])
    answer: dict[str, Any] = {}
    if request["export"]:
        partial.append(path)
        answer["export"] = asdict(export(loaded, path, request["opset"], request["past"], say))
    if request["check"]:
        answer["check"] = asdict(check(loaded, path, say))
    return answer


def _remove(partial: list[Path]) -> None:
    from core.onnx_desk.export import remove_partial

    for path in partial:
        remove_partial(path)


class _Told:
    """What the loader says goes to the parent."""

    def progress(self, stage: str, fraction: float | None) -> None:
        say(stage, None if fraction is None else fraction / 10)

    def cancelled(self) -> bool:
        return False


if __name__ == "__main__":
    main()
