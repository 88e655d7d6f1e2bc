"""The caller's own functions, called so that what goes wrong in one is said of it and not of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from core.contract.errors import ParameterError, TokenglassError

T = TypeVar("T")


def name_of(own: object) -> str:
    """What the caller knows it by: the function's name, or the class."""
    return str(getattr(own, "__name__", None) or type(own).__name__)


def call_own(what: str, own: Callable[..., T], *args: object) -> T:
    """`own(*args)`. what: the argument it was given as. Raises `ParameterError` for anything that it raises itself."""
    try:
        return own(*args)
    except TokenglassError:
        raise
    except Exception as problem:
        raise ParameterError(
            f"{name_of(own)}, given as {what}, failed with {type(problem).__name__}: {problem}", detail=repr(problem)
        ) from problem


def own_scores(own: Callable[..., object], ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """What a processor makes of scores (B, V), which stay as they are although it may write into those it is given."""
    found = call_own("logits_processor", own, ids, scores.clone())
    if not isinstance(found, torch.Tensor) or found.shape != scores.shape:
        got = f"a tensor {_shape(found.shape)}" if isinstance(found, torch.Tensor) else _words(found)
        raise ParameterError(
            f"{name_of(own)}, given as logits_processor, returned {got}; it has to return scores "
            f"{_shape(scores.shape)}, as many as it was given."
        )
    return found.to(scores)


def own_answer(own: Callable[..., object], ids: torch.Tensor, scores: torch.Tensor) -> bool:
    """Whether a stopping criterion ends the row with ids (1, T), newest scores (1, V)."""
    answer = call_own("stopping_criteria", own, ids, (scores,))
    try:
        return bool(torch.as_tensor(answer).any())
    except (TypeError, ValueError, RuntimeError):
        raise ParameterError(
            f"{name_of(own)}, given as stopping_criteria, returned {_words(answer)}; it has to return true or false."
        ) from None


def own_tokens(own: Callable[..., object], owner: int, ids: torch.Tensor, vocabulary: int) -> list[int]:
    """The ids, below `vocabulary`, that may follow ids (T,) of a prompt as the caller's function has it."""
    what = "prefix_allowed_tokens_fn"
    answer = call_own(what, own, owner, ids)
    if isinstance(answer, torch.Tensor):
        answer = answer.tolist()
    if not isinstance(answer, Iterable):
        raise ParameterError(f"{what} returned {_words(answer)}; it has to return a list of token ids.")
    try:
        found = [int(i) for i in answer]
    except (TypeError, ValueError):
        raise ParameterError(f"{what} returned {_words(answer)}; it has to return a list of token ids.") from None
    if not found:
        raise ParameterError(f"{what} allows no token to follow in row {owner}; allow one.")
    wrong = next((i for i in found if not 0 <= i < vocabulary), None)
    if wrong is not None:
        raise ParameterError(
            f"{what} allows the token id {wrong}, but this model knows ids 0 to {vocabulary - 1} only."
        )
    return found


def to_functions(what: str, given: Sequence[T]) -> tuple[T, ...]:
    """A list of functions, as the argument `what` takes it. Raises `ParameterError`."""
    if not isinstance(given, list | tuple):
        raise ParameterError(f"{what} is a list; put {name_of(given)} in brackets.")
    wrong = [one for one in given if not callable(one)]
    if wrong:
        raise ParameterError(f"{what} takes functions, not {_words(wrong[0])}.")
    return tuple(given)


def _shape(shape: torch.Size) -> str:
    return f"({', '.join(map(str, shape))})"


def _words(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
