"""Talks to the Hugging Face hub: `python -m core.models.fetch_hub`, as a child that can be ended at any moment.

A download that waits for a silent server cannot be interrupted from inside. What the hub says is checked before a byte
of weights is asked for: that there are safetensors, that no file is beyond its cap, that the disk has room.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from core.contract.errors import ModelLoadError
from core.domains.sandboxed import say, serve
from core.models.files import MIB
from core.models.hub_cache import find_snapshot, hub_cache, wanted_files
from core.models.hub_names import HubModel
from core.models.preflight import CONFIG, SIZE_CAPS_BYTES, check_small_files
from core.models.units import byte_count
from core.models.weight_files import refusal_of_formats

_SPARE_BYTES = 256 * MIB  # left free on the disk


def main() -> None:
    """Serve requests with `repo`, `revision` and `weights` (whether to download those, too).

    The answer: `folder`, `commit`, and `bytes`, the size of what was or would still have to be downloaded.
    """
    serve(_fetch, on_abandoned=_remove_partial_files)


def _fetch(request: dict[str, Any]) -> dict[str, Any]:
    model = HubModel(request["repo"], request["revision"])
    with _hub_errors(model):
        say("Asking the hub")
        commit, sizes, missing_bytes = _survey(model)
        wanted = wanted_files(sizes)
        _check_listing(model, sizes, wanted, missing_bytes)
        small = [name for name in wanted if name in SIZE_CAPS_BYTES]
        folder = _download(model, model.revision, small, None)  # notes which commit the branch means
        if folder.name != commit:
            raise ModelLoadError(f"“{model.name}” was changed on the hub this very moment; try again.")
        check_small_files(folder)  # refused before its weights are paid for
        if request["weights"]:
            say("Downloading", 0.0)
            _download(model, commit, list(wanted), _missing_bytes(model.repo, commit, sizes))
    return {"folder": str(folder), "commit": commit, "bytes": missing_bytes}


def _survey(model: HubModel) -> tuple[str, dict[str, int], int]:
    """The commit, the sizes of all files, and how many bytes of the wanted ones are not in the cache yet."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model.repo, revision=model.revision, files_metadata=True)
    commit = str(info.sha)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or () if "/" not in file.rfilename}
    return commit, sizes, _missing_bytes(model.repo, commit, sizes)


def _missing_bytes(repo: str, commit: str, sizes: dict[str, int]) -> int:
    snapshot = find_snapshot(HubModel(repo, commit))
    return sum(sizes[name] for name in wanted_files(sizes) if snapshot is None or not (snapshot / name).exists())


def _check_listing(model: HubModel, sizes: dict[str, int], wanted: tuple[str, ...], missing_bytes: int) -> None:
    if CONFIG not in sizes:
        raise ModelLoadError(f"“{model.name}” is no transformers model: it has no config.json on the hub.")
    if not any(name.endswith(".safetensors") for name in wanted):
        refusal = refusal_of_formats(sorted(sizes)) or "has no safetensors weights on the hub."
        raise ModelLoadError(f"“{model.name}” {refusal}")
    for name in wanted:
        cap = SIZE_CAPS_BYTES.get(name)
        if cap is not None and sizes[name] > cap:
            raise ModelLoadError(
                f"{name} of “{model.name}” has {byte_count(sizes[name])}, more than the {byte_count(cap)} it may have."
            )
    cache = hub_cache()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if missing_bytes + _SPARE_BYTES > free:
        raise ModelLoadError(
            f"“{model.name}” needs {byte_count(missing_bytes)} of disk for its download and {byte_count(free)} are "
            "free; make room, or let HF_HOME name another place."
        )


def _download(model: HubModel, revision: str, names: list[str], total: int | None) -> Path:
    from huggingface_hub import snapshot_download

    bar = _bar(total)
    return Path(snapshot_download(model.repo, revision=revision, allow_patterns=names, tqdm_class=bar))


def _bar(total: int | None) -> type:
    """A stand-in for tqdm's bars that reports the bytes received, in steps of one per cent of `total`."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        seen = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B" and str(kwargs.get("desc", "")).startswith("Reconstructing")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if not self.counts_bytes or not total:
                return
            before, Bar.seen = Bar.seen, Bar.seen + int(n or 0)
            if Bar.seen * 100 // total > before * 100 // total:
                say("Downloading", min(1.0, Bar.seen / total))

    return Bar


def _remove_partial_files() -> None:
    """The process is about to end: the library, which removes them itself, will not get to it."""
    with suppress(psutil.Error):
        for file in psutil.Process().open_files():
            if file.path.endswith(".incomplete"):
                with suppress(OSError):
                    os.unlink(file.path)


@contextmanager
def _hub_errors(model: HubModel) -> Iterator[None]:
    """Every way in which the hub says no, as one sentence. What it says may quote a request, but never a token."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        detail = _without_tokens(f"{type(error).__name__}: {error}")
        raise ModelLoadError(_sentence(model, error), detail=detail) from error


def _sentence(model: HubModel, error: Exception) -> str:
    from huggingface_hub import errors

    name = model.name
    kinds: tuple[tuple[type[Exception], Callable[[], str]], ...] = (
        (
            errors.GatedRepoError,
            lambda: f"“{name}” asks for an agreement; accept it at {model.page}, then set HF_TOKEN.",
        ),
        (
            errors.RepositoryNotFoundError,
            lambda: f"There is no model “{name}” on the hub, or it is private; then set HF_TOKEN.",
        ),
        (errors.RevisionNotFoundError, lambda: f"“{model.repo}” has no revision “{model.revision}”."),
        (errors.OfflineModeIsEnabled, lambda: f"“{name}” is not in the cache, and HF_HUB_OFFLINE forbids the network."),
        (errors.LocalEntryNotFoundError, lambda: f"“{name}” is not in the cache, and the hub cannot be reached."),
        (errors.HfHubHTTPError, lambda: f"The hub refused “{name}” with status {_status(error)}; try again later."),
    )
    for kind, sentence in kinds:
        if isinstance(error, kind):
            return sentence()
    if isinstance(error, OSError) and error.errno is not None:
        return f"“{name}” could not be downloaded: {error.strerror}; HF_HOME can name another place for downloads."
    if type(error).__module__.startswith("httpx"):  # the library's own client, under whichever name
        return f"“{name}” is not in the cache, and the hub cannot be reached ({type(error).__name__})."
    return f"“{name}” could not be downloaded ({type(error).__name__}); check the connection and try again."


def _status(error: Exception) -> object:
    return getattr(getattr(error, "response", None), "status_code", "unknown")


def _without_tokens(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "…") if token else text


if __name__ == "__main__":
    main()
