"""Models from the Hugging Face hub: from the cache where they are whole, else downloaded by a child process."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from core.contract.errors import LoadCancelledError, ModelLoadError
from core.domains.sandbox import Limits, Sandbox, SandboxError
from core.models.hub_cache import find_snapshot, is_offline, may_lack_tokenizer, missing_files
from core.models.hub_names import HubModel
from core.models.load_control import LoadControl

_DAY_S = 86_400.0  # a download may take long; silence of the server is the library's to notice
_SURVEY_S = 30.0
_PATIENCE_S = 0.5  # to remove partial files
_ASKED_AGAIN_S = 60.0
_unanswered: dict[Path, float] = {}  # since when a hub has not said whether a tokenizer belongs to a snapshot


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a model on the hub before its weights are there; `folder` holds its small files."""

    folder: Path
    missing_bytes: int


def cached_folder(model: HubModel) -> Path | None:
    """The snapshot of this revision where it is whole; no network is asked whether there is a newer one."""
    snapshot = _with_weights(model)
    if snapshot is None or is_offline() or not may_lack_tokenizer(snapshot):
        return snapshot
    return snapshot if monotonic() - _unanswered.get(snapshot, -inf) < _ASKED_AGAIN_S else None


def _with_weights(model: HubModel) -> Path | None:
    """The snapshot where it can be loaded, be it as a model of token ids."""
    snapshot = find_snapshot(model)
    return snapshot if snapshot is not None and not missing_files(snapshot) else None


def ensure_downloaded(model: HubModel, control: LoadControl) -> Path:
    """The folder of a whole snapshot, downloading what is missing. Raises `ModelLoadError`, `LoadCancelledError`."""
    folder = cached_folder(model)
    if folder is None:
        _refuse_offline(model)
        folder = Path(_ask_for_what_is_missing(model, control, weights=True)["folder"])
    return folder


def survey(model: HubModel, control: LoadControl) -> Survey:
    """The small files of a model and how much of it is still to be downloaded. Raises as `ensure_downloaded` does."""
    folder = cached_folder(model)
    if folder is not None:
        return Survey(folder, 0)
    _refuse_offline(model)
    answer = _ask_for_what_is_missing(model, control, weights=False)
    return Survey(Path(answer["folder"]), int(answer["bytes"]))


def _ask_for_what_is_missing(model: HubModel, control: LoadControl, *, weights: bool) -> dict[str, Any]:
    """Where only a tokenizer may be, of this very commit; a hub that cannot say so leaves a model of token ids.

    Nothing else is asked for then, so that a silent hub holds up what is on this disk for `_SURVEY_S`, and once only.
    """
    folder = _with_weights(model)
    if folder is None:
        return _ask(model, control, weights=weights)
    try:
        return _ask(HubModel(model.repo, folder.name), control, weights=False)
    except LoadCancelledError:
        raise
    except ModelLoadError:
        _unanswered[folder] = monotonic()
        return {"folder": str(folder), "bytes": 0}


def _refuse_offline(model: HubModel) -> None:
    if not is_offline():
        return
    snapshot = find_snapshot(model)
    if snapshot is None:
        raise ModelLoadError(
            f"“{model.name}” is neither a folder here nor in the cache of downloaded models, and HF_HUB_OFFLINE "
            "forbids the network."
        )
    raise ModelLoadError(
        f"“{model.name}” is only partly downloaded ({missing_files(snapshot)[0]} is missing), and HF_HUB_OFFLINE "
        "forbids the network."
    )


def _ask(model: HubModel, control: LoadControl, *, weights: bool) -> dict[str, Any]:
    sandbox = Sandbox("core.models.fetch_hub", patience_s=_PATIENCE_S)
    request = {"repo": model.repo, "revision": model.revision, "weights": weights}
    limits = Limits(wall_s=_DAY_S if weights else _SURVEY_S, may_write=True)
    try:
        return sandbox.ask(request, limits, cancelled=control.cancelled, progress=control.progress)
    except SandboxError as error:
        if error.failure == "cancelled":
            raise LoadCancelledError("The download was cancelled.") from error
        if error.failure == "said":
            raise ModelLoadError(error.message, detail=error.detail) from error
        why = "the hub did not answer in time" if error.failure == "time" else error.message.rstrip(".")
        raise ModelLoadError(f"“{model.name}” could not be downloaded: {why}.", detail=error.detail) from error
    finally:
        sandbox.close()
