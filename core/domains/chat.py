"""The chat template of a model that nobody vouches for, rendered where it can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from core.contract.errors import PromptCancelledError, PromptError
from core.contract.specs import ChatMessage
from core.domains.confined import Confined, Kept
from core.domains.sandbox import Limits, SandboxError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIMITS = Limits(wall_s=1.0, cpu_s=1.0, memory_bytes=64 << 20)


class SandboxedTemplate:
    """Renders in a child process, started with the first rendering and ended with this object. For any thread.

    A rendering takes 0.3 ms, the first one half a second more. Nothing is shared with the model, so a template that
    breaks a limit costs its process and one `PromptError`.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, str | list[str]]) -> None:
        self._template, self._special_tokens = template, dict(special_tokens)
        self._child = Confined("core.domains.render_chat")
        self._kept: Kept[tuple[ChatMessage, ...], str] = Kept()

    def render(self, messages: Sequence[ChatMessage], cancelled: Callable[[], bool] = lambda: False) -> str:
        """The prompt text, ready for the assistant's turn. Raises `PromptError`, `PromptCancelledError`."""
        known = self._kept.get(tuple(messages))
        if known is not None:
            return known
        turns = [{"role": m.role, "content": m.content} for m in messages]
        request = {"template": self._template, "messages": turns, "special_tokens": self._special_tokens}
        try:
            text = str(self._child.ask(request, LIMITS, cancelled)["text"])
        except SandboxError as error:
            if error.failure == "cancelled":
                raise PromptCancelledError("It was stopped before the chat was rendered.") from error
            raise PromptError(_sentence(error), detail=error.detail) from error
        self._kept.put(tuple(messages), text)
        return text


def sandboxed_template(tokenizer: PreTrainedTokenizerBase) -> SandboxedTemplate | None:
    """The tokenizer's default chat template; None where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return SandboxedTemplate(template, tokenizer.special_tokens_map) if isinstance(template, str) and template else None


def _sentence(error: SandboxError) -> str:
    if error.failure == "said":
        return error.message
    if error.failure == "raised":
        return f"The model's chat template refused these messages: {error.message.rstrip('.')}."
    why = {
        "time": f"took longer than the {LIMITS.wall_s:g} s it may take",
        "memory": f"needed more than the {(LIMITS.memory_bytes or 0) >> 20} MB it may use",
    }.get(error.failure, "broke down")
    return f"The model's chat template {why} and was stopped; write a plain text prompt instead."
