"""Floating-point operations of a pass, from the model's configuration: a multiplication and an addition count as two.

As torch's `FlopCounterMode` counts eager attention: every query against every key of the pass, hidden ones included.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.configs.estimate import estimate
from core.models.anatomy import find_anatomy
from core.models.loaded import LoadedModel


@dataclass(frozen=True)
class PassCost:
    """body: of one position in all layers, without attention. head: of one position's logits. pair: of a query and a
    key in all layers. all_logits: the model computes those of every position it is fed.
    """

    body: int
    head: int
    pair: int
    all_logits: bool

    def of(self, fed: int, keys: int) -> int:
        """A pass of `fed` positions that attend to `keys`."""
        return fed * self.body + (fed if self.all_logits else 1) * self.head + fed * keys * self.pair


def pass_cost(loaded: LoadedModel) -> PassCost | None:
    """None for families without a formula."""
    try:
        found = estimate(loaded.module.config, loaded.device)
    except ValueError:
        return None
    if found.flops_per_token is None or found.flops_per_position is None:
        return None
    head = 2 * loaded.module.get_output_embeddings().weight.numel()
    accepts = find_anatomy(loaded.module).accepts
    return PassCost(found.flops_per_token - head, head, found.flops_per_position, "logits_to_keep" not in accepts)
