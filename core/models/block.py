"""The parts of one transformer layer, by the names that families share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

ATTENTION = ("attn", "self_attn", "attention", "self_attention")
CROSS_ATTENTION = ("crossattention", "encoder_attn", "cross_attn")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
PROJECTION = ("c_proj", "o_proj", "out_proj", "dense", "wo")


@dataclass(frozen=True)
class BlockParts:
    """What is found of a layer: attention with its output projection, cross attention, MLP."""

    attention: nn.Module | None
    projection: nn.Module | None
    cross_attention: nn.Module | None
    mlp: nn.Module | None


def find_parts(layer: nn.Module) -> BlockParts:
    """The parts of a layer; None for what is not found under a known name."""
    attention = _child(layer, ATTENTION)
    projection = None if attention is None else _child(attention, PROJECTION)
    return BlockParts(attention, projection, _child(layer, CROSS_ATTENTION), _child(layer, MLP))


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)
