"""Tensors in a few words: shape, type, a few statistics."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from core.contract.looking import TensorFact

_names: dict[type[nn.Module], list[str]] = {}  # of the arguments of a class's `forward`: looking them up is slow
MOST_TENSORS = 4  # of one module's arguments; more would be a list of caches or weights


class FactReader:
    """Facts of tensors that pass by. `remembers`: what is met again is not read again; nothing changes in place."""

    def __init__(self) -> None:
        self.remembers = False
        self._known: dict[int, tuple[torch.Tensor, TensorFact]] = {}

    def facts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[TensorFact, ...]:
        """Every tensor among arguments or results, one level of tuples and outputs deep."""
        found = [*((n, t) for value in args for n, t in _tensors("", value))]
        found += [pair for name, value in kwargs.items() for pair in _tensors(name, value)]
        return tuple(self.fact(name, tensor) for name, tensor in found[:MOST_TENSORS])

    def fact(self, name: str, tensor: torch.Tensor) -> TensorFact:
        """As the function `fact`."""
        if not self.remembers:
            return fact(name, tensor)
        known = self._known.get(id(tensor))
        if known is None:  # the tensor is held, so that nothing else takes its place
            known = self._known[id(tensor)] = tensor, fact(name, tensor)
        one = known[1]
        return one if one.name == name else replace(one, name=name)


def fact(name: str, tensor: torch.Tensor) -> TensorFact:
    """Shape, dtype, and mean, deviation, smallest and largest value of a floating tensor."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_floating_point() or not tensor.numel():
        return TensorFact(name, shape, dtype)
    values = tensor.float()
    std, mean = torch.std_mean(values, correction=0)
    low, high = torch.aminmax(values)
    numbers = torch.stack([mean, std, low, high]).tolist()
    return TensorFact(name, shape, dtype, *numbers)


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call under the names that the module's `forward` gives them."""
    names = _names.get(type(module))
    if names is None:
        parameters = inspect.signature(module.forward).parameters.items()
        names = _names[type(module)] = [n for n, p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):  # a ModelOutput
        yield from ((key, item) for key, item in value.items() if isinstance(item, torch.Tensor))
    elif isinstance(value, tuple | list):
        yield from ((name, item) for item in value if isinstance(item, torch.Tensor))


def visible_keys(mask: torch.Tensor) -> tuple[int, int]:
    """How many keys a mask (B, 1 | H, Q, K) leaves to the last query of the first row and head, and of how many.

    It holds truth, or what is added to the scores.
    """
    last = mask.flatten(0, -3)[0, -1]  # (K,)
    seen = last if last.dtype is torch.bool else last > torch.finfo(last.dtype).min / 2
    return int(seen.sum()), len(last)


def score_facts(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> tuple[TensorFact, TensorFact]:
    """Scores and weights (B, H, T, K) as the kernel has them, with the statistics of the last query only."""
    batch, heads, count, width = query.shape
    grouped = query[:, :, -1].float().view(batch, key.shape[1], -1, width)  # (B, H_kv, H / H_kv, D)
    scores = grouped @ key.float().transpose(-1, -2) * (width**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, heads, -1)  # (B, H, K)
    visible = scores
    if mask is not None:
        last = mask[:, :, -1, : scores.shape[-1]]
        visible = scores.masked_fill(~last, -torch.inf) if last.dtype is torch.bool else scores + last.float()
    shape = (batch, heads, count, scores.shape[-1])
    of_scores, of_weights = fact("last query", scores), fact("last query", torch.softmax(visible, dim=-1))
    return _as(of_scores, shape), _as(of_weights, shape)


def _as(of_last: TensorFact, shape: tuple[int, ...]) -> TensorFact:
    return TensorFact(of_last.name, shape, of_last.dtype, of_last.mean, of_last.std, of_last.low, of_last.high)
