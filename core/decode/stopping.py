"""When a row ends: EOS, a stop string across token borders, a complete grammar, lengths, time, own criteria."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from time import perf_counter

import torch

from core.contract.events import FinishReason
from core.contract.params import GenerationParams
from core.decode.own_code import own_answer

# ids (1, T) without padding, a tuple whose last item is the newest scores (1, V) after the pipeline → whether the row
# ends; a tensor of one bool will do.
Criterion = Callable[[torch.Tensor, tuple[torch.Tensor, ...]], object]


class Timer:
    """Seconds of work since the first forward pass, pauses left out; what `max_time` is measured by."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._paused_s = 0.0

    def start(self) -> None:
        """The first forward pass begins; later calls change nothing."""
        if self._begun is None:
            self._begun = self._clock()

    def pause(self, seconds: float) -> None:
        """So long the user has paused."""
        if self._begun is not None:
            self._paused_s += seconds

    @property
    def seconds(self) -> float:
        """0 before the first forward pass."""
        return 0.0 if self._begun is None else self._clock() - self._begun - self._paused_s


class RowStop:
    """Watches one row. Stop strings may begin in the prompt's last characters.

    timer: of the run. finished: whether a grammar leaves nothing to be said after these generated ids.
    replaced: parameters in whose place the caller's own criteria are, `Extras.replaced`.
    """

    def __init__(
        self,
        prompt_tokens: int,
        prompt_tail: str,
        max_positions: int,
        timer: Timer | None = None,
        finished: Callable[[Sequence[int]], bool] | None = None,
        replaced: Collection[str] = (),
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_positions = max_positions
        self._tail = prompt_tail
        self._timer = timer
        self._finished = finished
        self._replaced = replaced

    def resume(self, text: str, params: GenerationParams) -> None:
        """As if the row had said `text` and had not ended."""
        seen, longest = self._tail + text, max((len(s) for s in params.stop_strings), default=1)
        self._tail = seen[-max(longest, 64) :]

    def check(self, token_ids: Sequence[int], text: str, params: GenerationParams) -> FinishReason | None:
        """The reason to end after the newest of the row's own `token_ids`, which completed `text`; None to go on."""
        if token_ids[-1] in params.eos_token_id and "eos_token_id" not in self._replaced:
            return FinishReason.STOP
        if self._completes_stop_string(text, () if "stop_strings" in self._replaced else params.stop_strings):
            return FinishReason.STOP
        # With EOS tokens the model still says one, as it would without a grammar.
        if self._finished is not None and not params.eos_token_id and self._finished(token_ids):
            return FinishReason.STOP
        if len(token_ids) >= params.max_new_tokens:
            return FinishReason.LENGTH
        # Every position can be fed once; the token chosen after the last one is the end.
        if self.prompt_tokens + len(token_ids) > self.max_positions:
            return FinishReason.LENGTH_LIMIT
        timer = None if "max_time" in self._replaced else self._timer
        if params.max_time is not None and timer is not None and timer.seconds > params.max_time:
            return FinishReason.TIME
        return None

    def _completes_stop_string(self, text: str, stop_strings: tuple[str, ...]) -> bool:
        seen = self._tail + text
        longest = max((len(s) for s in stop_strings), default=1)
        self._tail = seen[-max(longest, 64) :]
        # Only ends that lie in the new text count: earlier ones would have stopped the row before.
        return any(seen.find(s, max(0, len(seen) - len(text) - len(s) + 1)) >= 0 for s in stop_strings if text)


def asked_to_stop(extra: Iterable[Criterion], ids: torch.Tensor, scores: torch.Tensor) -> bool:
    """Whether one of the caller's own criteria ends the row: ids (1, T) with the newest token, scores (1, V).

    They are called as `generate()` calls a `StoppingCriteria`, all of them, so that those with state see every step.
    """
    answers = [own_answer(criterion, ids, scores) for criterion in extra]
    return any(answers)
