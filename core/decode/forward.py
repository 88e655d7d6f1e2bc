"""One forward pass, observed: the unmodified model, with hooks that record and that can break it off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import nn

from core.decode.acts import NO_ACTS, Acts
from core.decode.kv import NoCache, RunCache, cache_length, crop_cache, keys_since
from core.models.anatomy import find_anatomy
from core.models.attention import gated, tapped, taps_attached, use_our_attention
from core.models.loaded import LoadedModel
from core.models.shortcut import Shortcuts
from core.trace.record import Trace


class ForwardCancelled(BaseException):
    """Raised inside the model, before a layer, when the stop flag is up; never leaves this file's callers."""


class _Left(Exception):
    """A pass was left before a layer on purpose, with the residual stream (B, n, E) that would have entered it."""

    def __init__(self, residual: torch.Tensor) -> None:
        super().__init__()
        self.residual = residual


class _Newest:
    """Hands only the last positions of a pass on to the record."""

    def __init__(self, trace: Trace, count: int) -> None:
        self._trace, self._count = trace, count

    def take(self, module: nn.Module, query: torch.Tensor, scaling: float | None, extras: Mapping[str, Any]) -> None:
        self._trace.take(module, query[:, :, -self._count :], scaling, extras)


class Forward:
    """Feeds slots to one model: positions, masks, cache, hooks.

    Slots count padding; the position of slot s in row r is s - padding[r]. The hooks exist only inside
    `attached()`. keeps_residuals: hold the residual stream of each pass, for modes that look into it; `take_residuals`
    gives it. spent_s: seconds in the model so far.
    """

    def __init__(self, loaded: LoadedModel, padding: Sequence[int], cancelled: Callable[[], bool]) -> None:
        self.model = loaded.module
        self.anatomy = find_anatomy(loaded.module)
        self.spent_s = 0.0
        self.keeps_residuals = False
        self._residuals: list[torch.Tensor] = []
        self._passing = False
        self._newest: int | None = None  # positions of the pass that count, where more are fed again
        self._device = loaded.device
        self._last_position = loaded.info.max_positions - 1
        self._cancelled = cancelled
        self._trace: Trace | None = None
        self._exit_at: int | None = None  # leave the pass before this layer
        self._entered = 0
        self._attached = False
        self._shortcuts = Shortcuts(loaded.module)
        self.acts = NO_ACTS
        self.place_rows(padding)
        use_our_attention(self.model)

    def place_rows(self, padding: Sequence[int], rows: Sequence[int] | None = None) -> None:
        """What the batch consists of from now on: the slots of padding in front of each row.

        rows: of the run that the rows of the batch belong to, -1 for none; their own numbers by default.
        """
        self._padded = any(padding)
        self._padding = torch.tensor(list(padding), device=self._device)  # (B,)
        self._rows = tuple(range(len(padding)) if rows is None else rows)

    @contextmanager
    def rows_placed(self, padding: Sequence[int], rows: Sequence[int]) -> Iterator[None]:
        """Other rows for the time of the block."""
        before = self._padding.tolist(), self._rows
        self.place_rows(padding, rows)
        try:
            yield
        finally:
            self.place_rows(*before)

    @contextmanager
    def acting(self, acts: Acts) -> Iterator[None]:
        """Other interventions for the time of the block."""
        before, self.acts = self.acts, acts
        try:
            yield
        finally:
            self.acts = before

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
            else:
                handle = self.anatomy.layers[-1].register_forward_hook(self._after_layers)
            stack.callback(handle.remove)
            stack.enter_context(taps_attached(self.model))
            yield

    def _before_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._cancelled():
            raise ForwardCancelled
        residual = args[0] if args else kwargs["hidden_states"]
        if self._exit_at is not None:
            if self._entered == self._exit_at:
                raise _Left(residual)
            self._entered += 1
            return
        self._take(residual)

    def _before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._take(args[0])

    def _after_layers(self, module: nn.Module, args: Any, output: Any) -> None:
        """Where no norm follows, what the last layer returns is what the head reads."""
        self._take(output[0] if isinstance(output, tuple) else output)

    def _take(self, residual: torch.Tensor) -> None:
        if self._newest is not None:
            residual = residual[:, -self._newest :]
        if self._trace is not None:
            self._trace.take_residual(residual)
        if self.keeps_residuals and self._passing:  # parts of the model are also called on their own
            self._residuals.append(residual)

    def take_residuals(self) -> list[torch.Tensor]:
        """The residual stream of the last pass, (L + 1) × (B, n, E), once; empty if it is not kept."""
        taken, self._residuals = self._residuals, []
        return taken

    def __call__(self, ids: torch.Tensor, cache: RunCache, trace: Trace | None) -> torch.Tensor:
        """Feed ids (B, n) after what the cache holds; returns the last position's logits (B, V) float32.

        Embeddings (B, n, E) will do in the place of ids.

        Raises `ForwardCancelled` within one layer's time, with cache and trace as they were before.
        """
        return self.positions(ids, cache, trace, 1)[:, -1]

    def positions(
        self, ids: torch.Tensor, cache: RunCache, trace: Trace | None, keep: int, commit: bool = True
    ) -> torch.Tensor:
        """The same, returning the logits (B, keep, V) float32 of the last `keep` positions.

        Without `commit` the caller must call it, once it knows which rows of the pass count.
        """
        begun, start = perf_counter(), cache_length(cache)
        self.delete(cache)
        self._trace, self._passing, self._residuals = trace, True, []
        self._newest = ids.shape[1] if cache.feeds_all else None
        tap = _Newest(trace, ids.shape[1]) if trace is not None and cache.feeds_all else trace
        cache.shared.begin_pass(self._padding, self._padded)
        try:
            with tapped(tap), gated(cache if cache.gated else None), self.acts.hooked(), self._shortcuts.taken():
                output = self.model(**self._arguments(ids, start, cache, keep))
            if self._device.type != "cpu":
                torch.accelerator.synchronize()  # or the time would be that of queueing the work
        except BaseException:
            crop_cache(cache, start)
            if trace is not None:
                trace.rollback()
            raise
        finally:
            self._trace, self._passing = None, False
            self.spent_s += perf_counter() - begun
        if isinstance(cache, NoCache):
            cache.append(ids)
        if commit:
            self.commit(cache, trace, start)
        return output.logits[:, -keep:].float()  # type: ignore[no-any-return]

    def commit(self, cache: RunCache, trace: Trace | None, start: int, rows: Sequence[int] | None = None) -> None:
        """The pass that fed the slots from `start` on becomes part of the record, or only `rows` of it."""
        if trace is not None:
            trace.commit(keys_since(cache, start) if trace.keeps_keys else (), rows)

    def early(self, ids: torch.Tensor, cache: RunCache, start: int, layers: int) -> torch.Tensor:
        """Logits (1, V) of the last position as if the model had only its first `layers` layers.

        Feeds ids (1, n) into slots from `start` on of those layers' caches; the others stay as they are, so that the
        caller has to crop. Nothing is recorded.
        """
        begun = perf_counter()
        self._exit_at, self._entered = layers, 0
        try:
            with tapped(None), gated(cache if cache.gated else None), self.acts.hooked(), self._shortcuts.taken():
                self.model(**self._arguments(ids, start, cache, 1))
        except _Left as left:
            return self.anatomy.read_out(left.residual[:, -1])
        finally:
            self._exit_at = None
            self.spent_s += perf_counter() - begun
        raise AssertionError("the model has no layer after those")

    def delete(self, cache: RunCache) -> None:
        """Drop from a cache of this batch what is deleted by the interventions in force."""
        if self.acts.deleted and cache_length(cache):
            padding = self._padding.tolist()
            gone = [self.acts.deleted.get(row, ()) for row in self._rows]
            cache.delete([{p + pad for p in its} for its, pad in zip(gone, padding, strict=True)], padding)

    def _muted(self, stop: int) -> list[tuple[int, list[int]]]:
        """Lanes and slots before `stop` that no query may see, although they are no padding."""
        if not self.acts.muted:
            return []
        found = []
        for lane, (row, padding) in enumerate(zip(self._rows, self._padding.tolist(), strict=True)):
            slots = [p + padding for p in self.acts.muted.get(row, ()) if p + padding < stop]
            if slots:
                found.append((lane, slots))
        return found

    def _arguments(self, ids: torch.Tensor, start: int, cache: RunCache, keep: int) -> dict[str, Any]:
        stop = start + ids.shape[1]
        name = "input_ids" if ids.ndim == 2 else "inputs_embeds"
        arguments: dict[str, Any] = {name: ids, "past_key_values": cache, "use_cache": True}
        if isinstance(cache, NoCache):  # the whole text, every time
            arguments, start = {name: cache.whole(ids), "use_cache": False}, 0
        accepts = self.anatomy.accepts
        muted = self._muted(stop)
        if self._padded or muted:
            slots = torch.arange(stop, device=ids.device)
            seen = slots >= self._padding[:, None]  # (B, stop)
            for lane, hidden in muted:
                seen[lane, hidden] = False
            arguments["attention_mask"] = seen.long()
        if "position_ids" in accepts:
            slots = torch.arange(start, stop, device=ids.device)[None]
            # Padding, before a row and after its end, is masked or ignored: any position that exists will do.
            padded = (slots - self._padding[:, None]).clamp(0, self._last_position) if self._padded else slots
            arguments["position_ids"] = padded  # (B, n)
        if "logits_to_keep" in accepts:
            arguments["logits_to_keep"] = keep
        return arguments
