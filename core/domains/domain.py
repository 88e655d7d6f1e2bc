"""The seam between engine and meaning: what a token is for people, be it a word or a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from core.contract.picture import ImageFacts, Picture
from core.contract.specs import ChatMessage

Cancelled = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


class TokenStream(Protocol):
    """Text of generated ids as soon as it is certain."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    def fork(self) -> Self: ...


class Domain(Protocol):
    """What engine, views and parameters need to know of the tokens of one model.

    confined: whether texts are encoded and chats rendered in another process, which may take a second; then, and only
        then, other threads may do it, too, and `cancelled` is asked meanwhile.
    image: what an image model paints, None for text. tokenizer: None where there is none.
    Methods raise `PromptError` for what this kind of model cannot be given.
    """

    tokenizer: Any
    confined: bool

    @property
    def image(self) -> ImageFacts | None: ...

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str, *, add_special_tokens: bool = True, cancelled: Cancelled = never) -> list[int]: ...

    def encode_picture(self, picture: Picture) -> list[int]: ...

    def render_chat(self, messages: Sequence[ChatMessage], cancelled: Cancelled = never) -> str: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def piece(self, token_id: int) -> str: ...

    def vocabulary(self) -> dict[str, int] | None: ...

    def stream(self, prompt_ids: Sequence[int] = ()) -> TokenStream: ...
