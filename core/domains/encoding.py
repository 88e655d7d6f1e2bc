"""The tokenizer of a model that nobody vouches for, encoding where it can be stopped."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.contract.errors import PromptCancelledError, PromptError
from core.domains.confined import Confined, Kept, Request
from core.domains.sandbox import Limits, SandboxError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MIB = 1 << 20
_MEMORY_BYTES = 1024 * _MIB


class SandboxedEncoder:
    """Encodes in a child process, started with the first text and ended with this object. For any thread.

    A text takes 0.2 ms more than in this process, the first one a quarter of a second. The last results are kept: a
    plan or a run begins with the drafts that were encoded while they were typed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """`folder` holds the tokenizer's files; it may go once this returns."""
        self._tokenizer = tokenizer
        self._copy: str | None = None
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            self._copy = tempfile.mkdtemp(prefix="tokenglass-")
            weakref.finalize(self, shutil.rmtree, self._copy, ignore_errors=True)
            shutil.copytree(folder, self._copy, dirs_exist_ok=True)
        self._child = Confined("core.domains.encode_text", self._first)
        self._kept: Kept[tuple[str, bool], list[int]] = Kept()

    def encode(self, text: str, special: bool, cancelled: Callable[[], bool]) -> list[int]:
        """Token ids. Raises `PromptError`, or `PromptCancelledError` when `cancelled` says so."""
        known = self._kept.get((text, special))
        if known is not None:
            return list(known)
        limits = encode_limits(len(text))
        try:
            ids = self._child.ask({"text": text, "special": special}, limits, cancelled)["ids"]
        except SandboxError as error:
            raise _refusal(error, limits) from error
        self._kept.put((text, special), ids)
        return list(ids)

    def _first(self) -> Request:
        if self._copy is not None:
            return {"folder": self._copy}, Limits(wall_s=10.0, memory_bytes=_MEMORY_BYTES)
        content = self._tokenizer.backend_tokenizer.to_str()
        size_mib = len(content) / _MIB
        split = bool(getattr(self._tokenizer, "split_special_tokens", False))
        limits = Limits(wall_s=4 + 1.5 * size_mib, memory_bytes=int(_MEMORY_BYTES + 40 * len(content)))
        return {"tokenizer": content, "split_special_tokens": split}, limits


def encode_limits(characters: int) -> Limits:
    """Five times what honest tokenizers take on a slow machine (0.3 µs a character)."""
    return Limits(wall_s=2 + 4 * characters / _MIB, cpu_s=2 + 4 * characters / _MIB, memory_bytes=_MEMORY_BYTES)


def _refusal(error: SandboxError, limits: Limits) -> PromptError:
    if error.failure == "cancelled":
        return PromptCancelledError("It was stopped before the prompt was encoded.")
    if error.failure in ("said", "raised"):
        return PromptError(f"The tokenizer refused the prompt: {error.message.rstrip('.')}.", detail=error.detail)
    why = {
        "time": f"took longer than the {limits.wall_s:.2g} s it may take",
        "memory": f"needed more than the {(limits.memory_bytes or 0) >> 20} MB it may use",
    }.get(error.failure, "broke down")
    return PromptError(
        f"The model's tokenizer {why} for this text and was stopped; change the text, or choose another model.",
        detail=error.detail,
    )
