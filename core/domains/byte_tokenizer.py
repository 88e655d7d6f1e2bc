"""A tokenizer that needs no training: one id a byte, and one that ends the text.

New models have no vocabulary of their own; with this one, anything can be typed and everything they say is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.domains.token_bytes import byte_of_character

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 256
BYTE_VOCABULARY = 257


def build_byte_tokenizer() -> PreTrainedTokenizerBase:
    """Ids 0 to 255 are the bytes, 256 is BOS and EOS; ids beyond have no text."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocabulary = {**byte_of_character(), END_OF_TEXT: END_OF_TEXT_ID}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    return wrapped
