"""Chores of the worker that need no run: the config desk, saving a model, ONNX.

Descriptions are answered at once. An export waits for its child process in a thread of its own, so that runs go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.contract.commands import CancelOnnx, CheckOnnx, DescribeConfig, DescribeOnnx, ExportOnnx, SaveModel
from core.contract.errors import ExportError, ModelLoadError
from core.contract.events import (
    ConfigDescribed,
    ModelSaved,
    OnnxDescribed,
    OnnxFinished,
    OnnxProgress,
    SaveProgress,
)
from core.desk import error_report
from core.mailbox import Mailbox

if TYPE_CHECKING:
    from core.models.loaded import LoadedModel

Chore = DescribeConfig | SaveModel | DescribeOnnx | ExportOnnx | CheckOnnx | CancelOnnx
JOIN_S = 5.0


class Chores:
    """Only the worker thread calls it. `cancelled`: whether what takes long is to be given up."""

    def __init__(self, mailbox: Mailbox, cancelled: Callable[[], Callable[[], bool]]) -> None:
        self._mailbox, self._cancelled = mailbox, cancelled
        self._job: _Job | None = None

    def carry_out(self, chore: Chore, loaded: LoadedModel | None) -> None:
        """Do it, or begin it. Failures become events."""
        match chore:
            case DescribeConfig():
                self._describe_config(chore, loaded)
            case SaveModel():
                self._save(chore)
            case DescribeOnnx():
                self._describe_onnx(chore, loaded)
            case ExportOnnx() | CheckOnnx():
                self._begin(chore, loaded)
            case CancelOnnx():
                if self._job is not None:
                    self._job.stop.set()

    def close(self) -> None:
        """Give up the export in progress and wait for its end."""
        if self._job is not None:
            self._job.stop.set()
            self._job.thread.join(JOIN_S)
            self._job = None

    def _describe_config(self, chore: DescribeConfig, loaded: LoadedModel | None) -> None:
        from core.configs.describe import describe

        try:
            if not chore.subject and loaded is None:
                raise ModelLoadError("No model is loaded; choose one first, or a family.")
            found = describe(chore.subject, chore.changes, seed=chore.seed, loaded=loaded)
            answer = ConfigDescribed(chore.generation, found)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            answer = ConfigDescribed(chore.generation, None, error_report(problem))
        self._mailbox.put_latest("config", answer)

    def _save(self, chore: SaveModel) -> None:
        from core.configs.save import save_new

        try:
            saved = save_new(chore.name, Path(chore.folder), _Told(chore.save_id, self._mailbox, self._cancelled()))
            answer = ModelSaved(chore.save_id, saved)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            answer = ModelSaved(chore.save_id, None, error_report(problem))
        self._mailbox.put(answer)

    def _describe_onnx(self, chore: DescribeOnnx, loaded: LoadedModel | None) -> None:
        from core.onnx_desk.describe import describe

        try:
            answer = OnnxDescribed(chore.generation, describe(_needed(loaded)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            answer = OnnxDescribed(chore.generation, None, error_report(problem))
        self._mailbox.put_latest("onnx", answer)

    def _begin(self, chore: ExportOnnx | CheckOnnx, loaded: LoadedModel | None) -> None:
        from core.onnx_desk.graph import check_exportable
        from core.onnx_desk.job import Request, check_request

        try:
            if self._job is not None and self._job.thread.is_alive():
                raise ExportError("An export is in progress already; wait for it, or cancel it.")
            model = _needed(loaded)
            check_exportable(model)
            common: Any = {
                "model": model.spec.name,
                "path": Path(chore.path).expanduser(),
                "weight_bytes": 4 * model.info.parameters,
            }
            if isinstance(chore, ExportOnnx):
                request = Request(**common, opset=chore.opset, past=chore.past, check=chore.check)
            else:
                request = Request(**common, export=False)
            check_request(request)
            self._job = _Job(chore.job_id, request, self._mailbox)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            self._mailbox.put(OnnxFinished(chore.job_id, None, error_report(problem)))


class _Job:
    """An export or a check in progress, in its thread."""

    def __init__(self, job_id: int, request: Any, mailbox: Mailbox) -> None:
        self.stop = threading.Event()
        self._job_id, self._request, self._mailbox = job_id, request, mailbox
        self.thread = threading.Thread(target=self._run, name="tokenglass-onnx", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        from core.onnx_desk.job import run

        try:
            finished = OnnxFinished(self._job_id, run(self._request, self.stop.is_set, self._progress))
        except BaseException as problem:
            finished = OnnxFinished(self._job_id, None, error_report(problem))
        self._mailbox.put(finished)

    def _progress(self, stage: str, fraction: float | None) -> None:
        self._mailbox.put_latest("onnx-progress", OnnxProgress(self._job_id, stage, fraction))


class _Told:
    """What a save reports to and asks."""

    def __init__(self, save_id: int, mailbox: Mailbox, cancelled: Callable[[], bool]) -> None:
        self._save_id, self._mailbox = save_id, mailbox
        self.cancelled = cancelled

    def progress(self, stage: str, fraction: float | None) -> None:
        """To whoever reads the mailbox."""
        self._mailbox.put_latest("save", SaveProgress(self._save_id, stage, fraction))


def _needed(loaded: LoadedModel | None) -> LoadedModel:
    if loaded is None:
        raise ExportError("No model is loaded; choose one first.")
    return loaded
