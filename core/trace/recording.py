"""What a view is derived from: the records of a run, its cache, and the model's own parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from core.contract.errors import ViewUnavailableError
from core.contract.events import ModelInfo
from core.models.anatomy import Anatomy
from core.trace.record import Trace


@dataclass(frozen=True)
class Recording:
    """Everything a view may read. Slots count padding; the position of a slot in row r is slot - padding[r].

    lengths: tokens of each row; what is fed after a row's end is padding.
    keys: cached keys (B, H_kv, slots, D) of a layer.
    tokens: ids of a row, the prompt first.
    recompute: records of the slots [start, stop), fed again.
    final_scores: the pipeline on the logits (V,) that followed a slot of a row.
    """

    trace: Trace | None
    keys: Callable[[int], torch.Tensor]
    padding: tuple[int, ...]
    lengths: tuple[int, ...]
    anatomy: Anatomy
    info: ModelInfo
    piece: Callable[[int], str]
    tokens: Callable[[int], tuple[int, ...]]
    recompute: Callable[[int, int], Trace]
    final_scores: Callable[[int, int, torch.Tensor], torch.Tensor]

    def positions(self, row: int) -> int:
        """Positions of this row that were fed. Raises `ViewUnavailableError` without a trace."""
        if not 0 <= row < len(self.padding):
            raise ViewUnavailableError(f"There is no row {row}; the run has {len(self.padding)}.")
        return max(0, min(self.recorded().stop - self.padding[row], self.lengths[row]))

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

    def span(self, row: int, wanted: tuple[int, int | None]) -> tuple[int, int]:
        """[start, stop) positions, the end filled in and clipped to what was fed."""
        fed = self.positions(row)
        start, stop = wanted[0], fed if wanted[1] is None else min(wanted[1], fed)
        if not 0 <= start < stop:
            raise ViewUnavailableError(f"Positions {start} to {stop} were not fed to the model yet; it holds {fed}.")
        return start, stop

    def layer(self, layer: int) -> int:
        """The layer's number, checked."""
        if not 0 <= layer < self.info.layers:
            raise ViewUnavailableError(f"There is no layer {layer}; {self.info.title} has {self.info.layers}.")
        return layer
