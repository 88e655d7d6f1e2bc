"""What a finished run offers to a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from core.contract import (
    AttentionAnswer,
    AttentionQuery,
    BreakpointHit,
    DistributionAnswer,
    DistributionQuery,
    Intervention,
    InterventionAnswer,
    InterventionQuery,
    ModelInfo,
    RunFinished,
    RunStarted,
    StepSnapshot,
    ViewQuery,
    ViewUnavailableError,
    WalkAnswer,
    WalkQuery,
    WaterfallAnswer,
    WaterfallQuery,
)
from core.contract.picture import RgbArray
from core.contract.snapshot import FloatArray
from core.prompts import to_interventions

if TYPE_CHECKING:
    import torch
    from transformers.cache_utils import Cache

    from core.decode.session import Session


class RunResult:
    """A finished run, and views of what happened inside, derived when they are asked for.

    It keeps the run's KV cache and records in memory as long as it lives, or until `close`.
    Rows: prompt by prompt, each `num_return_sequences` times; with beams the best ones, the best first.

    It has what `generate(return_dict_in_generate=True)` returns, but derived when asked for and one row at a time:
    `generate()` has tuples with an item a step, whose first hidden states and attentions cover the whole prompt; here
    steps and positions are an axis. Ended rows have no padding. `config.keys_to_ignore_at_inference`, mostly
    `past_key_values`, says what `Trainer` leaves out of predictions, nothing more: `forward` returns the cache when
    `use_cache` is on, `generate()` when it returns a dictionary, `pipeline()` never, and this result always has it.

    session: the engine's run; what it holds is no public interface. lock: held while the model computes.
    """

    def __init__(
        self,
        session: Session,
        steps: Sequence[StepSnapshot],
        lock: AbstractContextManager[object] | None = None,
        breakpoints: Sequence[BreakpointHit] = (),
    ) -> None:
        self._session, self._lock = session, lock or nullcontext()
        self._finished = session.result()
        self.steps: tuple[StepSnapshot, ...] = tuple(steps)
        self.breakpoints: tuple[BreakpointHit, ...] = tuple(breakpoints)  # that ended the run

    @property
    def model(self) -> ModelInfo:
        """The model in numbers."""
        return self._session.loaded.info

    @property
    def started(self) -> RunStarted:
        """Tokenised prompts, resolved parameters and the plan."""
        return self._session.started

    @property
    def finished(self) -> RunFinished:
        """Everything the run reported at its end, times included."""
        return self._finished

    @property
    def sequences(self) -> list[list[int]]:
        """Ids of prompt and continuation, one list a returned sequence, without padding.

        After `inputs_embeds` those of the continuation alone, as in `generate()`.
        """
        return [[i for i in ids if i >= 0] for ids in self._finished.sequences]

    @property
    def sequences_scores(self) -> list[float] | None:
        """Of beams, one a sequence: the sum of its log-probabilities divided by length ** length_penalty; else None."""
        scores = self._finished.scores
        return None if scores is None else list(scores)

    @property
    def finish_reason(self) -> str:
        """Why the first row ended: `stop`, `length`, `length_limit`, …; `finished.finish_reasons` has all."""
        return str(self._finished.finish_reason)

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """The changes to what the model computed that were in force at the end; all along, in a run by `core.run`."""
        return self._session.acts.now.asked

    @property
    def text(self) -> str:
        """What the first row said, the prompt excluded."""
        return self._finished.texts[0]

    @property
    def texts(self) -> list[str]:
        """What each row said."""
        return list(self._finished.texts)

    @property
    def session(self) -> Session:
        """The run in the engine."""
        return self._session

    @property
    def pictures(self) -> list[RgbArray]:
        """What each row painted, (H, W, 3) uint8, grey where it stopped before the end; empty for text."""
        image = self.model.image
        return [] if image is None else [image.paint(ids) for ids in self._finished.sequences]

    def positions(self, row: int = 0) -> int:
        """T: tokens of this row that were fed to the model, that is all but the last one chosen."""
        return len(self._finished.sequences[row]) - 1

    def attention(
        self,
        layer: int,
        rows: int | tuple[int, int | None] | None = None,
        heads: Sequence[int] | None = None,
        *,
        row: int = 0,
    ) -> FloatArray:
        """Attention weights (H, rows, T) float32 over all T positions fed to the model.

        rows: query positions, all (None), one (negative counts from the end), or [start, stop). The token that step
        i chose comes from the query at position P - 1 + i of a prompt of P tokens. row: which sequence of the batch.
        Raises `ViewUnavailableError` when the run was not recorded or the positions do not exist.
        """
        total = self.positions(row)
        span = _span(rows, total)
        chosen = None if heads is None else tuple(heads)
        where, beam, index = self._finished.places[row]
        query = AttentionQuery(
            self._finished.run_id, layer, chosen, rows=span, recompute=True, row=where, beam=beam, index=index
        )
        answer = self._answer(query)
        assert isinstance(answer, AttentionAnswer)
        missing = total - answer.weights.shape[2]  # keys after the last query asked for weigh nothing
        return np.pad(answer.weights, ((0, 0), (0, 0), (0, missing)))

    def logits(self, steps: int | Sequence[int] | None = None, *, row: int = 0) -> FloatArray:
        """The model's logits (steps, V) float32 that the tokens of a row were chosen by, before the pipeline.

        steps: all (None), one (negative counts from the end) or several, such as `range(10, 20)`. Read out of the
        recorded residuals. Raises `ViewUnavailableError`.
        """
        chosen = self._steps(steps, row)
        return self._compute(lambda outputs: outputs.step_logits(self._session, row, chosen))

    def scores(self, steps: int | Sequence[int] | None = None, *, row: int = 0) -> FloatArray:
        """The same after the pipeline, -inf for tokens ruled out, by running its stages again.

        With beams they are log-probabilities along the sequence that was returned, whichever beams it came through.
        Raises `ViewUnavailableError`, also for a stage that depends on more than the tokens.
        """
        chosen = self._steps(steps, row)
        return self._compute(lambda outputs: outputs.step_scores(self._session, row, chosen))

    def hidden_states(
        self, layer: int | None = None, positions: int | tuple[int, int | None] | None = None, *, row: int = 0
    ) -> FloatArray:
        """Hidden states (L + 1, positions, E) float32, or (positions, E) of one `layer`.

        They count as `output_hidden_states` does: 0 is the embeddings, i what layer i - 1 returned, L the last one's
        after the final norm. positions: all that were fed (None), one (negative counts from the end), or [start, stop).
        Raises `ViewUnavailableError`.
        """
        start, stop = _span(positions, self.positions(self._row(row)))
        layers = range(self.model.layers + 1) if layer is None else [layer]
        found = self._compute(lambda outputs: outputs.hidden_states(self._session, row, layers, start, stop))
        return found if layer is None else found[0]

    def past_key_values(self, row: int = 0, positions: tuple[int, int | None] | None = None) -> Cache:
        """A copy of a row's KV cache as a transformers `DynamicCache`, without padding; made when asked for.

        positions: all that were fed, or [start, stop). A row that left its batch before the others, or was moved in it,
        is fed again. Raises `ViewUnavailableError`.
        """
        from core.decode.outputs import row_cache

        start, stop = _span(positions, self.positions(self._row(row)))
        with self._lock:
            return row_cache(self._session, row, start, stop)

    def _row(self, row: int) -> int:
        count = len(self._finished.sequences)
        if not 0 <= row < count:
            raise ViewUnavailableError(f"There is no row {row}; the run has {count}.")
        return row

    def _steps(self, steps: int | Sequence[int] | None, row: int) -> list[int]:
        count = len(self._finished.sequences[self._row(row)]) - self._finished.prompt_tokens[row]
        if isinstance(steps, int):
            steps = [steps + count if steps < 0 else steps]
        chosen = list(range(count) if steps is None else steps)
        wrong = next((step for step in chosen if not 0 <= step < count), None)
        if wrong is not None or not chosen:
            what = "No step was asked for" if wrong is None else f"There is no step {wrong}"
            raise ViewUnavailableError(f"{what}; row {row} has {count}.")
        return chosen

    def _compute(self, derive: Callable[[ModuleType], torch.Tensor]) -> FloatArray:
        from core.decode import outputs

        with self._lock:
            array: FloatArray = derive(outputs).float().cpu().numpy()
        array.flags.writeable = False
        return array

    def distribution(
        self, position: int, *, layer: int | None = None, final: bool = False, top: int = 50, row: int = 0
    ) -> DistributionAnswer:
        """The `top` likeliest tokens after a fed position (negative counts from the end), natural logarithms.

        layer: read the residual stream entering this layer (the logit lens) instead of the final one.
        final: after the pipeline instead of before. Raises `ViewUnavailableError`.
        """
        start, _ = _span(position, self.positions(row))
        where, beam, index = self._finished.places[row]
        query = DistributionQuery(self._finished.run_id, start, layer, final, top, row=where, beam=beam, index=index)
        answer = self._answer(query)
        assert isinstance(answer, DistributionAnswer)
        return answer

    def waterfall(
        self, position: int, changes: Mapping[str, object] | None = None, *, top: int = 20, row: int = 0
    ) -> WaterfallAnswer:
        """What each stage of the pipeline did at a fed position (negative counts from the end), or would have done.

        changes: other values for some parameters; the draw stays the same. Raises `ViewUnavailableError`.
        """
        start, _ = _span(position, self.positions(row))
        where, beam, index = self._finished.places[row]
        query = WaterfallQuery(
            self._finished.run_id, start, dict(changes or {}), top, row=where, beam=beam, index=index
        )
        answer = self._answer(query)
        assert isinstance(answer, WaterfallAnswer)
        return answer

    def preview(
        self, position: int, interventions: Sequence[Intervention | str], *, top: int = 20, row: int = 0
    ) -> InterventionAnswer:
        """What would have followed a fed position (negative counts from the end) under these interventions.

        That position alone is fed once more; those before it keep their keys and values. Raises
        `ViewUnavailableError`, or `ParameterError` for what the model has not.
        """
        start, _ = _span(position, self.positions(row))
        where, beam, index = self._finished.places[row]
        asked = to_interventions(interventions)
        query = InterventionQuery(self._finished.run_id, start, asked, top, row=where, beam=beam, index=index)
        answer = self._answer(query)
        assert isinstance(answer, InterventionAnswer)
        return answer

    def walk(
        self,
        positions: int | tuple[int, int] = -1,
        *,
        token_type: int | None = None,
        encoder_states: ArrayLike | None = None,
        row: int = 0,
    ) -> WalkAnswer:
        """One forward pass over some positions (negative counts from the end), fed once more: module by module.

        token_type: an id that the pass adds to every position. encoder_states: (S, E), what cross attention looks at.
        Each for GPT-2 and models that have the like. Raises `ViewUnavailableError`.
        """
        span = _span(positions, self.positions(row))
        where, beam, index = self._finished.places[row]
        given = np.empty((0, 0)) if encoder_states is None else np.asarray(encoder_states, np.float64)
        if given.ndim != 2:
            raise ViewUnavailableError(f"Encoder states are (S, E), not {given.shape}.")
        states = tuple(tuple(row) for row in given.tolist())
        query = WalkQuery(self._finished.run_id, span, where, 0, beam, index, token_type, states)
        answer = self._answer(query)
        assert isinstance(answer, WalkAnswer)
        return answer

    def _answer(self, query: ViewQuery) -> object:
        with self._lock:
            return self._session.answer(query)

    def close(self) -> None:
        """Free cache and records; sequences, texts and steps stay."""
        self._session.close()

    def __repr__(self) -> str:
        new, count = self._finished.new_tokens, len(self._finished.sequences)
        return f"<RunResult {self.model.title}: {count} × {new} tokens, {self.finish_reason}: {self.text[:60]!r}>"


def _span(rows: int | tuple[int, int | None] | None, total: int) -> tuple[int, int]:
    start, stop = (0, total) if rows is None else (rows, rows + 1) if isinstance(rows, int) else rows
    if isinstance(rows, int) and rows < 0:
        start, stop = rows + total, rows + total + 1
    stop = total if stop is None else stop
    if not 0 <= start < stop <= total:
        raise ViewUnavailableError(f"Positions {start} to {stop} do not exist; {total} were fed to the model.")
    return start, stop
