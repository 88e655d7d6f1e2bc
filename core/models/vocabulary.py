"""Whether the token ids of two models mean the same."""

from __future__ import annotations

from core.models.loaded import LoadedModel


def same_vocabulary(one: LoadedModel, other: LoadedModel) -> bool:
    """Every token the same; where a tokenizer does not tell them, as many of them."""
    ours, theirs = one.text.vocabulary(), other.text.vocabulary()
    return ours == theirs and (ours is not None or one.info.vocab_size == other.info.vocab_size)
