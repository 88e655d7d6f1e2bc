"""How a load talks to whoever asked for it, and how transformers' progress bars are made to do so."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Protocol

from core.contract.errors import LoadCancelledError


class LoadControl(Protocol):
    """Told how far a load is, asked whether to give up. Both are called often, from the loading thread."""

    def progress(self, stage: str, fraction: float | None) -> None:
        """`fraction` in [0, 1], None while unknown."""

    def cancelled(self) -> bool:
        """Whether the load is to be abandoned."""


class Unwatched:
    """A load that nobody follows and nobody gives up."""

    def progress(self, stage: str, fraction: float | None) -> None:
        """Says nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False


def stop_if_cancelled(control: LoadControl) -> None:
    """Raises `LoadCancelledError`."""
    if control.cancelled():
        raise LoadCancelledError("The load was cancelled.")


@contextlib.contextmanager
def watched_transformers(control: LoadControl) -> Iterator[None]:
    """Inside, transformers prints nothing, its bars report to `control`, and a cancel raises out of them.

    The settings are process-wide and restored; loads are never concurrent, one worker does them all.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda _factory, args, kwargs: _Bar(control, *args, **kwargs))
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)


class _Bar:
    """Stands in for a tqdm bar: reports in steps of one per cent, raises when the load is cancelled."""

    def __init__(self, control: LoadControl, iterable: Iterable[Any] = (), *_: Any, **kwargs: Any) -> None:
        self._control = control
        self._items = iterable
        self._stage = str(kwargs.get("desc") or "Loading")
        self._total = kwargs.get("total") or (len(iterable) if isinstance(iterable, Sized) else 0)
        self._done = 0
        stop_if_cancelled(control)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:  # set_postfix, close, refresh, …
        return lambda *_args, **_kwargs: None

    def update(self, n: float = 1) -> None:
        stop_if_cancelled(self._control)
        before, self._done = self._done, self._done + int(n)
        if self._total and self._done * 100 // self._total > before * 100 // self._total:
            self._control.progress(self._stage, min(1.0, self._done / self._total))
