"""What attention and MLP of each layer added at one position: fed once more, with hooks for that pass only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from core.models.block import BlockParts, find_parts
from core.trace.reading import feed_again, residuals
from core.trace.recording import Recording, Strand


@dataclass(frozen=True)
class Contributions:
    """One position. residuals: (L + 1, E). attention, mlp: (E,) each layer, None where the part is not found.

    merged: the heads side by side as they entered the output projection, (H · D,). All in float32.
    """

    parts: tuple[BlockParts, ...]
    residuals: torch.Tensor
    attention: list[torch.Tensor | None]
    mlp: list[torch.Tensor | None]
    merged: list[torch.Tensor | None]


@dataclass
class _Seen:
    """Module → what its hook saw of the last position of the last pass, (E,) float32."""

    made: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    given: dict[nn.Module, torch.Tensor] = field(default_factory=dict)

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        self.made[module] = first[0, -1].float()

    def before(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.given[module] = args[0][0, -1].float().flatten()


def contributions(recording: Recording, strand: Strand, position: int) -> Contributions:
    """Feed `position` of a strand once more. The hooks are gone when this returns or raises."""
    parts = tuple(map(find_parts, recording.anatomy.layers))
    seen = _Seen()
    with _hooked(parts, seen.after, seen.before):
        trace, again = feed_again(recording, strand, position, position + 1)
    layers = recording.info.layers
    stream = [residuals(trace, again, n, position, position + 1)[0] for n in range(layers + 1)]
    return Contributions(
        parts,
        torch.stack(stream).float(),
        [None if p.attention is None else seen.made.get(p.attention) for p in parts],
        [None if p.mlp is None else seen.made.get(p.mlp) for p in parts],
        [None if p.projection is None else seen.given.get(p.projection) for p in parts],
    )


@contextmanager
def _hooked(parts: tuple[BlockParts, ...], after: Callable[..., None], before: Callable[..., None]) -> Iterator[None]:
    with ExitStack() as stack:
        for part in parts:
            for module in (part.attention, part.mlp):
                if module is not None:
                    stack.callback(module.register_forward_hook(after).remove)
            if part.projection is not None:
                stack.callback(part.projection.register_forward_pre_hook(before).remove)
        yield
