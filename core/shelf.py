"""The models that are held: the one in use, the one that drafts for it, the one that a twin runs on.

Only the worker thread calls it. Loading changes process-wide torch state, so it never happens beside a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.contract.specs import ModelSpec
from core.controls import LoadControl, QuietControl

if TYPE_CHECKING:
    from core.models.loaded import LoadedModel


@dataclass
class Shelf:
    """loaded: in use. assistant, beside: of the newest run that wanted one, kept for the next."""

    loaded: LoadedModel | None = None
    assistant: LoadedModel | None = None
    beside: LoadedModel | None = None

    def load(self, spec: ModelSpec, control: LoadControl) -> LoadedModel:
        """Another model, not in use yet. Raises `ModelLoadError`, or `LoadCancelledError`."""
        from core.decode.selftest import qualify
        from core.models.loader import load

        return qualify(load(spec, control.model_id, control), control.cancelled)

    def use(self, loaded: LoadedModel) -> None:
        """The model in use from now on; the others were for the one before."""
        self.loaded, self.assistant, self.beside = loaded, None, None

    def clear(self) -> None:
        """Let go of all."""
        self.loaded = self.assistant = self.beside = None

    def draft_model(
        self, spec: ModelSpec | None, cancelled: Callable[[], bool], loading: Callable[[], None]
    ) -> LoadedModel | None:
        """The model that drafts. Raises `ModelLoadError`."""
        from core.models.loader import load

        if spec is None:
            return None
        if self.loaded is not None and spec.name == self.loaded.spec.name:
            return self.loaded
        if self.assistant is None or self.assistant.spec != spec:
            self.assistant = None  # gives its memory back first
            loading()
            self.assistant = load(spec, 0, QuietControl(cancelled))
        return self.assistant

    def twin_model(
        self, spec: ModelSpec, cancelled: Callable[[], bool], replacing: Callable[[LoadedModel | None], None]
    ) -> LoadedModel:
        """The model that a twin runs on. replacing: told before a load, with the one that gives way.

        Raises `ModelLoadError`.
        """
        from core.decode.selftest import qualify
        from core.models.loader import load

        if self.loaded is not None and spec == self.loaded.spec:
            return self.loaded
        if self.beside is None or self.beside.spec != spec:
            before, self.beside = self.beside, None
            replacing(before)
            before = None
            self.beside = qualify(load(spec, 0, QuietControl(cancelled)), cancelled)
        return self.beside
