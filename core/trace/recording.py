"""What a view is derived from: the records of a run, its cache, and the model's own parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from core.contract.errors import ViewUnavailableError
from core.contract.events import ModelInfo
from core.contract.interventions import Intervention
from core.contract.views import Place
from core.models.anatomy import Anatomy
from core.trace.path import Path
from core.trace.record import Trace
from core.trace.replay import ReadOut, Replay


@dataclass(frozen=True)
class Strand:
    """One sequence of a run as the records hold it. Slots count padding; position p is in slot padding + p.

    token_ids: prompt and continuation, as far as this strand goes; the last one may not have been fed yet.
    fed: slots that were fed of it, padding included; None: all that the trace has. group: of beams.
    """

    row: int
    path: Path
    padding: int
    token_ids: tuple[int, ...]
    fed: int | None = None
    group: int = 0


class KeySource(Protocol):
    """The keys of a run's cache, and who was hidden from whom because the cache keeps less than was fed."""

    def keys(self, layer: int, stop: int) -> torch.Tensor:
        """(H_kv, stop, D) of the slots before `stop` of the only row."""

    def content(self, layer: int, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """K and V (H_kv, T, D) of one row of the batch, and whether each slot is held, (H_kv, T)."""

    def unseen(self, layer: int, padding: int, start: int, stop: int, recorded: bool) -> torch.Tensor | None:
        """(R, stop) or (H_kv, R, stop), True where the queries at slots [start, stop) saw nothing; None: all seen.

        Raises `ViewUnavailableError` where keys that were seen are gone.
        """


class Recompute(Protocol):
    """Feeds the positions [start, stop) of a strand once more; returns their records, and the strand in those."""

    def __call__(self, strand: Strand, start: int, stop: int, *, changed: bool = False) -> tuple[Trace, Strand]:
        """`changed`: the pass is given what the run was not, so that other keys and values come of it."""


@dataclass(frozen=True)
class Recording:
    """Everything a view may read.

    strand: the sequence at a place. Raises `ViewUnavailableError` when there is none.
    source: the keys of the run's cache.
    recompute: records of the positions [start, stop) of a strand, fed again, and the strand in those records.
    final_scores: the pipeline on the logits (V,) that followed a position of a strand.
    replay: the same stage by stage, with changed parameters.
    read_out: what the waterfall looked at last.
    hidden: keys that the queries at positions [start, stop) of a strand did not see, (stop - start, stop); None: none.
    encode: a text as token ids, without special tokens. Raises `PromptError`.
    preview: logits (V,) after a position fed once more under other interventions.
    """

    trace: Trace | None
    strand: Callable[[Place], Strand]
    source: KeySource
    anatomy: Anatomy
    info: ModelInfo
    piece: Callable[[int], str]
    recompute: Recompute
    final_scores: Callable[[Strand, int, torch.Tensor], torch.Tensor]
    replay: Callable[[Strand, int, torch.Tensor, Mapping[str, object]], Replay]
    read_out: ReadOut
    hidden: Callable[[Strand, int, int], torch.Tensor | None]
    encode: Callable[[str], list[int]]
    preview: Callable[[Strand, int, tuple[Intervention, ...]], torch.Tensor]

    def recorded(self) -> Trace:
        """The trace. Raises `ViewUnavailableError` when the run was not recorded."""
        if self.trace is None:
            raise ViewUnavailableError("This run was not recorded; run again with the trace switched on.")
        return self.trace

    def require(self, view: str) -> None:
        """Raises `ViewUnavailableError` when the self-test at load switched the view off."""
        for status in self.info.views:
            if status.view == view and not status.available:
                raise ViewUnavailableError(status.reason)

    def positions(self, strand: Strand) -> int:
        """Positions of this strand that were fed. Raises `ViewUnavailableError` without a trace."""
        recorded = self.recorded().stop
        fed = recorded if strand.fed is None else min(strand.fed, recorded)
        return max(0, min(fed - strand.padding, len(strand.token_ids)))

    def span(self, strand: Strand, wanted: tuple[int, int | None]) -> tuple[int, int]:
        """[start, stop) positions, the end filled in and clipped to what was fed."""
        fed = self.positions(strand)
        start, stop = wanted[0], fed if wanted[1] is None else min(wanted[1], fed)
        if not 0 <= start < stop:
            raise ViewUnavailableError(f"Positions {start} to {stop} were not fed to the model yet; it holds {fed}.")
        return start, stop

    def layer(self, layer: int) -> int:
        """The layer's number, checked."""
        if not 0 <= layer < self.info.layers:
            raise ViewUnavailableError(f"There is no layer {layer}; {self.info.title} has {self.info.layers}.")
        return layer

    def keys(self, trace: Trace, layer: int, strand: Strand, stop: int) -> torch.Tensor:
        """Keys (H_kv, stop, D) of the positions before `stop`."""
        end = strand.padding + stop
        if trace.keeps_keys:
            return trace.keys(layer, strand.padding, end, strand.path)
        return self._source(trace).keys(layer, end)[:, strand.padding :]

    def held(self, trace: Trace, layer: int, strand: Strand, stop: int) -> torch.Tensor | None:
        """Which keys before `stop` the cache still holds, (H_kv, stop); None where it was left or given up: unknown."""
        if strand.fed is not None:
            return None
        end = strand.padding + stop
        try:
            return self._source(trace).content(layer, strand.path.rows(0, end)[-1])[2][:, strand.padding : end]
        except ViewUnavailableError:
            return None

    def unseen(self, trace: Trace, layer: int, strand: Strand, start: int, stop: int) -> torch.Tensor | None:
        """What the cache hid from the queries at positions [start, stop), see `KeySource.unseen`; keys by position."""
        pad = strand.padding
        hidden = self._source(trace).unseen(layer, pad, pad + start, pad + stop, trace.keeps_keys)
        return None if hidden is None else hidden[..., pad:]

    def _source(self, trace: Trace) -> KeySource:
        return self.source if trace.source is None else trace.source

    def queries(self, trace: Trace, layer: int, strand: Strand, start: int, stop: int) -> torch.Tensor:
        """Queries (H, stop - start, D) of the positions [start, stop)."""
        return trace.queries(layer, strand.padding + start, strand.padding + stop, strand.path)

    def residuals(self, layer: int, strand: Strand, start: int, stop: int) -> torch.Tensor:
        """The residual stream (stop - start, E) entering `layer` at the positions [start, stop)."""
        return self.recorded().residuals(layer, strand.padding + start, strand.padding + stop, strand.path)
