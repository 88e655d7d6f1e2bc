"""Whether the token ids of two models mean the same."""

from __future__ import annotations

from core.contract.errors import ParameterError
from core.models.loaded import LoadedModel


def same_vocabulary(one: LoadedModel, other: LoadedModel) -> bool:
    """Every token the same; where a tokenizer does not tell them, as many of them."""
    ours, theirs = one.text.vocabulary(), other.text.vocabulary()
    return ours == theirs and (ours is not None or one.info.vocab_size == other.info.vocab_size)


def check_same_vocabulary(ours: LoadedModel, theirs: LoadedModel) -> None:
    """Raises `ParameterError` where tokens of two models cannot be compared."""
    if not same_vocabulary(ours, theirs):
        names = f"{ours.info.title} and {theirs.info.title}"
        raise ParameterError(f"{names} have different vocabularies, so their tokens cannot be compared.")
