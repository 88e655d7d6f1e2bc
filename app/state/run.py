"""One run as the window sees it: immutable facts, and append-only columns of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.contract import (
    GenerationParams,
    GenerationPlan,
    ModelInfo,
    ParamsApplied,
    PrefillProgress,
    PromptRow,
    RunFinished,
    RunStarted,
    StepSnapshot,
)

_COLUMNS: dict[str, type] = {
    "token_id": np.int64,
    "logprob": np.float64,
    "final_logprob": np.float64,
    "entropy_bits": np.float64,
    "final_entropy_bits": np.float64,
    "rank": np.int64,
    "u": np.float64,  # NaN where nothing was drawn
    "forward_ms": np.float64,
    "pipeline_ms": np.float64,
    "probes_ms": np.float64,
    "step_ms": np.float64,
    "cache_length": np.int64,
    "used_bytes": np.int64,
    "allocated_bytes": np.int64,
    "trace_bytes": np.int64,
    "epoch": np.int64,
    "text_end": np.int64,  # characters of the generated text up to and including this step
}


class RunColumns:
    """Columns of a run's steps, growing at the end only.

    An identity object shared by successive states: a state sees the first `RunView.count` entries, which never
    change. Growth doubles the buffers, so views handed out earlier stay valid.
    """

    __slots__ = ("_buffers", "count", "snapshots", "texts")

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {name: np.empty(256, dtype) for name, dtype in _COLUMNS.items()}
        self.snapshots: list[StepSnapshot] = []
        self.texts: list[str] = []
        self.count = 0

    def append(self, step: StepSnapshot) -> None:
        """Add the next step."""
        i = self.count
        if i == len(self._buffers["token_id"]):
            self._buffers = {name: np.concatenate([b, np.empty_like(b)]) for name, b in self._buffers.items()}
        end = (int(self._buffers["text_end"][i - 1]) if i else 0) + len(step.text)
        row = (
            step.token_id,
            step.logprob,
            step.final_logprob,
            step.entropy_bits,
            step.final_entropy_bits,
            step.rank,
            np.nan if step.u is None else step.u,
            step.timing.forward_ms,
            step.timing.pipeline_ms,
            step.timing.probes_ms,
            step.timing.step_ms,
            step.cache.length,
            step.cache.used_bytes,
            step.cache.allocated_bytes,
            step.trace_bytes,
            step.id.epoch,
            end,
        )
        for buffer, value in zip(self._buffers.values(), row, strict=True):
            buffer[i] = value
        self.snapshots.append(step)
        self.texts.append(step.text)
        self.count = i + 1

    def column(self, name: str, count: int) -> NDArray[Any]:
        """The first `count` values of a column, a read-only view."""
        view = self._buffers[name][:count]
        view.flags.writeable = False
        return view


@dataclass(frozen=True, slots=True)
class RunView:
    """The newest run. Row 0, beam 0 is what the window shows.

    params: in force for the newest step. flags: the changes made while it ran, with the index they act from.
    count: steps this state sees.
    """

    started: RunStarted
    model: ModelInfo
    params: GenerationParams
    columns: RunColumns
    count: int = 0
    flags: tuple[ParamsApplied, ...] = ()
    prefill: PrefillProgress | None = None
    finish: RunFinished | None = None

    @property
    def run_id(self) -> int:
        """The identifier that commands, events and view queries carry."""
        return self.started.run_id

    @property
    def plan(self) -> GenerationPlan:
        """What the run does, with the changes made so far."""
        changed = (flag.plan for flag in reversed(self.flags) if flag.plan is not None)
        return next(changed, self.started.plan)

    @property
    def prompt(self) -> PromptRow:
        """The prompt of the row shown."""
        return self.started.rows[0]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; the step with index i was chosen by the query at position prompt_tokens - 1 + i."""
        return len(self.started.rows[0].token_ids)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the steps this state sees, a read-only view; names as in `app.state.run`."""
        return self.columns.column(name, self.count)

    def step(self, index: int) -> StepSnapshot:
        """The step with this index; IndexError outside of what this state sees."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.columns.snapshots[index]

    def steps(self, start: int = 0) -> Sequence[StepSnapshot]:
        """The steps from `start` on."""
        return self.columns.snapshots[start : self.count]

    def text(self) -> str:
        """The generated text so far."""
        return "".join(self.columns.texts[: self.count])
