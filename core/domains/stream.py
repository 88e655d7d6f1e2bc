"""Incremental detokenisation: text as soon as it is certain, and in sum exactly the decoded text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 8  # tokens; a UTF-8 character has at most 4 bytes, so at most 4 byte tokens

Step = Callable[[int], str | None]


class TextStream:
    """Detokenises generated ids one at a time; special tokens are skipped.

    All pushed texts and the flushed one together equal `decode(prompt_ids + ids)` without `decode(prompt_ids)`.
    When the prompt ends inside a UTF-8 character, that character is returned whole with the id that completes it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._context, unfinished = self._split(list(prompt_ids))
        self._ids: list[int] = []
        self._emitted = 0  # characters
        self._step = self._start(self._context)
        for token_id in unfinished:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Add one id; returns the text that is complete now, empty inside a UTF-8 character."""
        self._ids.append(token_id)
        try:
            text = self._step(token_id) or ""
        except Exception:  # a decoder whose output is not a prefix of its later output; tokenizers gives up there
            text = self._resume()
        self._emitted += len(text)
        return text

    def flush(self) -> str:
        """The rest: what was held back because a character stayed incomplete (as U+FFFD)."""
        text = self._all()[self._emitted :]
        self._emitted += len(text)
        return text

    def _resume(self) -> str:
        text = self._all()
        if text.endswith(_INCOMPLETE):
            return ""
        self._step = self._start(self._context + self._ids)
        return text[self._emitted :]

    def _all(self) -> str:
        return self._decode(self._context + self._ids)[len(self._decode(self._context)) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _split(self, prompt: list[int]) -> tuple[list[int], list[int]]:
        """The prompt up to its last complete character, and the ids of the incomplete one.

        `DecodeStream` would repeat the whole prompt if it were given one that ends inside a character.
        """
        end = len(prompt)
        while end and self._decode(prompt[max(0, end - _LONGEST_CHARACTER) : end]).endswith(_INCOMPLETE):
            end -= 1
        return prompt[:end], prompt[end:]

    def _start(self, context: list[int]) -> Step:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return self._python_step(context)
        stream = DecodeStream(ids=context, skip_special_tokens=True)
        return lambda token_id: stream.step(backend, token_id)

    def _python_step(self, context: list[int]) -> Step:
        """For tokenizers written in Python: decode everything again, which is slow but needs no knowledge."""
        seen = self._decode(context)
        ids = list(context)

        def step(token_id: int) -> str | None:
            nonlocal seen
            ids.append(token_id)
            text = self._decode(ids)
            if text.endswith(_INCOMPLETE):
                return None
            seen, new = text, text[len(seen) :]
            return new

        return step
