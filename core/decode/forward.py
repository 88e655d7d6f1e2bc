"""One forward pass, observed: the unmodified model, with hooks that record and that can break it off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from core.decode.kv import cache_length, crop_cache
from core.models.anatomy import find_anatomy
from core.models.attention import tapped, use_our_attention
from core.models.loaded import LoadedModel
from core.trace.record import Trace


class ForwardCancelled(BaseException):
    """Raised inside the model, before a layer, when the stop flag is up; never leaves this file's callers."""


class Forward:
    """Feeds slots to one model: positions, masks, cache, hooks.

    Slots count padding; the position of slot s in row r is s - padding[r]. The hooks exist only inside
    `attached()`.
    """

    def __init__(self, loaded: LoadedModel, padding: torch.Tensor, cancelled: Callable[[], bool]) -> None:
        self.model = loaded.module
        self.anatomy = find_anatomy(loaded.module)
        self.padding = padding  # (B,)
        self._padded = bool(padding.any())
        self._last_position = loaded.info.max_positions - 1
        self._cancelled = cancelled
        self._trace: Trace | None = None
        self._attached = False
        use_our_attention(self.model)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks in front of every layer and of the final norm, for the time of the outermost block."""
        if self._attached:
            yield
            return
        with ExitStack() as stack:
            self._attached = True
            stack.callback(setattr, self, "_attached", False)
            for layer in self.anatomy.layers:
                handle = layer.register_forward_pre_hook(self._before_layer, with_kwargs=True)
                stack.callback(handle.remove)
            if self.anatomy.final_norm is not None:
                handle = self.anatomy.final_norm.register_forward_pre_hook(self._before_norm)
                stack.callback(handle.remove)
            yield

    def _before_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._cancelled():
            raise ForwardCancelled
        if self._trace is not None:
            self._trace.take_residual(args[0] if args else kwargs["hidden_states"])

    def _before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._trace is not None:
            self._trace.take_residual(args[0])

    def __call__(self, ids: torch.Tensor, cache: Cache, trace: Trace | None) -> torch.Tensor:
        """Feed ids (B, n) after what the cache holds; returns the last position's logits (B, V) float32.

        Raises `ForwardCancelled` within one layer's time, with cache and trace as they were before.
        """
        start = cache_length(cache)
        self._trace = trace
        try:
            with tapped(trace):
                output = self.model(**self._arguments(ids, start, cache))
        except BaseException:
            crop_cache(cache, start)
            if trace is not None:
                trace.rollback()
            raise
        finally:
            self._trace = None
        if trace is not None:
            trace.commit()
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def _arguments(self, ids: torch.Tensor, start: int, cache: Cache) -> dict[str, Any]:
        stop = start + ids.shape[1]
        arguments: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        accepts = self.anatomy.accepts
        if self._padded:
            slots = torch.arange(stop, device=ids.device)
            arguments["attention_mask"] = (slots >= self.padding[:, None]).long()  # (B, stop)
        if "position_ids" in accepts:
            slots = torch.arange(start, stop, device=ids.device)[None]
            # Padding, before a row and after its end, is masked or ignored: any position that exists will do.
            padded = (slots - self.padding[:, None]).clamp(0, self._last_position) if self._padded else slots
            arguments["position_ids"] = padded  # (B, n)
        if "logits_to_keep" in accepts:
            arguments["logits_to_keep"] = 1
        return arguments
