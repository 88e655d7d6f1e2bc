"""Text as tokens: what a token id is for people, for one tokenizer, or without any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.contract.errors import PromptError
from core.contract.picture import ImageFacts, Picture
from core.contract.specs import ChatMessage
from core.domains.chat import SandboxedTemplate
from core.domains.domain import Cancelled, never
from core.domains.encoding import SandboxedEncoder
from core.domains.sandboxed import one_line
from core.domains.stream import TextStream
from core.domains.token_bytes import token_bytes_reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextDomain:
    """Encodes, decodes and shows tokens of one tokenizer. Pieces are cached per id.

    confined: whether texts are encoded and chats rendered in another process, which may take a second; then, and only
    then, that may be done in several threads at once.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: SandboxedTemplate | None = None,
        encoder: SandboxedEncoder | None = None,
    ) -> None:
        """`template` and `encoder` work instead of the tokenizer, for models that nobody vouches for."""
        self.tokenizer = tokenizer
        self.confined = encoder is not None
        self._template, self._encoder = template, encoder
        self._bytes_of = token_bytes_reader(tokenizer)
        self._pieces: dict[int, str] = {}

    @property
    def image(self) -> ImageFacts | None:
        """None: this is text."""
        return None

    @property
    def has_chat_template(self) -> bool:
        """Whether `render_chat` can work."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def encode(self, text: str, *, add_special_tokens: bool = True, cancelled: Cancelled = never) -> list[int]:
        """Token ids of `text`. Special tokens written out in it become those tokens. Raises `PromptError`."""
        lone = next((n for n, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
        if lone is not None:
            raise PromptError(f"Character {lone + 1} of the prompt is half of a surrogate pair, not text; remove it.")
        if self._encoder is not None:
            return self._encoder.encode(text, add_special_tokens, cancelled)
        try:
            # verbose: a prompt longer than the model is refused by the engine, with both numbers
            return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust panics outside Exception
            raise PromptError(f"The tokenizer refused the prompt: {one_line(error)}.", detail=repr(error)) from error

    def encode_picture(self, picture: Picture) -> list[int]:
        """Always raises `PromptError`."""
        raise PromptError("This model reads text, not pictures; choose an image model such as tiny-imagegpt.")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of `ids`, incomplete characters as U+FFFD."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token; special tokens are their text, ids outside the vocabulary nothing."""
        return self._bytes_of(token_id) or b""

    def piece(self, token_id: int) -> str:
        """One token as shown: spaces kept, bytes of an unfinished character as `\\xNN`, unknown ids as `⟨id⟩`."""
        piece = self._pieces.get(token_id)
        if piece is None:
            raw = self._bytes_of(token_id)
            piece = nameless_piece(token_id) if raw is None else raw.decode("utf-8", "backslashreplace")
            self._pieces[token_id] = piece
        return piece

    def render_chat(self, messages: Sequence[ChatMessage], cancelled: Cancelled = never) -> str:
        """The prompt text of a chat, ready for the assistant's turn. Raises `PromptError`."""
        if not self.has_chat_template:
            raise PromptError("This model has no chat template; write a plain text prompt instead.")
        if self._template is not None:
            return self._template.render(messages, cancelled)
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise what they like: jinja errors, TypeError, their own messages
            raise PromptError(
                f"The model's chat template refused these messages: {one_line(error)}.", detail=repr(error)
            ) from error

    def vocabulary(self) -> dict[str, int] | None:
        """Token → id; None where ids have no text."""
        return dict(self.tokenizer.get_vocab())

    def stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        """An incremental detokeniser for what follows `prompt_ids`."""
        return TextStream(self.tokenizer, prompt_ids)


class IdDomain(TextDomain):
    """Token ids without a tokenizer: each is shown as `⟨id⟩`, prompts must be given as ids."""

    def __init__(self) -> None:
        self.tokenizer = None
        self.confined = False

    def encode(self, text: str, *, add_special_tokens: bool = True, cancelled: Cancelled = never) -> list[int]:
        """Always raises `PromptError`."""
        raise PromptError("This model has no tokenizer; give the prompt as token ids.")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The pieces of `ids`, joined."""
        return "".join(map(nameless_piece, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """Nothing: without a tokenizer a token has no bytes."""
        return b""

    def piece(self, token_id: int) -> str:
        """The id in brackets."""
        return nameless_piece(token_id)

    def vocabulary(self) -> dict[str, int] | None:
        """Unknown."""
        return None

    def stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        """A stream that shows each id at once."""
        return _IdStream()


class _IdStream(TextStream):
    def __init__(self) -> None:
        pass

    def push(self, token_id: int) -> str:
        return nameless_piece(token_id)

    def flush(self) -> str:
        return ""


def nameless_piece(token_id: int) -> str:
    """How an id without text is shown."""
    return f"⟨{token_id}⟩"
