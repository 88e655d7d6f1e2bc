"""When a row ends: EOS, a stop string across token borders, the asked length, the model's positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from core.contract.events import FinishReason
from core.contract.params import GenerationParams

# ids (1, T) without padding, a tuple whose last item is the newest scores (1, V) after the pipeline → whether the row
# ends; a tensor of one bool will do.
Criterion = Callable[[torch.Tensor, tuple[torch.Tensor, ...]], object]


class RowStop:
    """Watches one row. `text` is what the row has said; stop strings may begin in the prompt's last characters."""

    def __init__(self, prompt_tokens: int, prompt_tail: str, max_positions: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_positions = max_positions
        self._tail = prompt_tail

    def check(self, token_id: int, text: str, new_tokens: int, params: GenerationParams) -> FinishReason | None:
        """The reason to end after `token_id`, the row's `new_tokens`-th, which completed `text`; None to go on."""
        if token_id in params.eos_token_id or self._completes_stop_string(text, params.stop_strings):
            return FinishReason.STOP
        if new_tokens >= params.max_new_tokens:
            return FinishReason.LENGTH
        # Every position can be fed once; the token chosen after the last one is the end.
        if self.prompt_tokens + new_tokens > self.max_positions:
            return FinishReason.LENGTH_LIMIT
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
    answers = [criterion(ids, (scores,)) for criterion in extra]
    return any(bool(torch.as_tensor(answer).any()) for answer in answers)
