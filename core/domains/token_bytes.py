"""The exact bytes behind one token id, for every way in which tokenizers hide them.

A vocabulary holds printable stand-ins, not text: byte-level BPE maps each byte to a visible character
(Radford et al. 2019, `bytes_to_unicode` in openai/gpt-2 `encoder.py`), sentencepiece writes a space as `▁` and a byte
outside its vocabulary as `<0xE4>`. Only the decoder knows which of them a tokenizer uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BytesOfToken = Callable[[str], bytes]
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "▁"


def token_bytes_reader(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bytes | None]:
    """A function from a token id to its raw bytes; None for an id that the tokenizer does not know.

    Added and special tokens are their text. Bytes of consecutive ids, joined, are the bytes of the decoded text
    (but for the space some sentencepiece decoders strip from the very beginning).
    """
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    of_token = _bytes_of_token(tokenizer)

    def read(token_id: int) -> bytes | None:
        if token_id in added:
            return _utf8(added[token_id])
        token = tokenizer.convert_ids_to_tokens(token_id)
        return None if token is None else of_token(token)

    return read


def _bytes_of_token(tokenizer: PreTrainedTokenizerBase) -> BytesOfToken:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    # The only description of a decoder that names the members of a sequence, too.
    description = "" if decoder is None else decoder.__getstate__().decode("utf-8")
    if "ByteLevel" in description:
        return _from_byte_level
    if _SPACE_MARK in description or "ByteFallback" in description or "Metaspace" in description:
        return _from_sentencepiece
    return _by_decoding(tokenizer)


def _from_byte_level(token: str) -> bytes:
    table = byte_of_character()
    return b"".join(bytes((table[c],)) if c in table else _utf8(c) for c in token)


def _from_sentencepiece(token: str) -> bytes:
    match = _BYTE_FALLBACK.fullmatch(token)
    return bytes((int(match[1], 16),)) if match else _utf8(token.replace(_SPACE_MARK, " "))


def _by_decoding(tokenizer: PreTrainedTokenizerBase) -> BytesOfToken:
    """For all other kinds: what the decoder adds for this token after another one."""

    def read(token: str) -> bytes:
        alone = tokenizer.convert_tokens_to_string(["a"])
        return _utf8(tokenizer.convert_tokens_to_string(["a", token])[len(alone) :])

    return read


@cache
def byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
