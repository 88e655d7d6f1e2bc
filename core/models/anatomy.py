"""Where things are inside a causal language model: its layers, its final norm, its head, its read-out."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from core.contract.errors import ModelLoadError

_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "ln_out")


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that are observed from outside; the model itself is never changed.

    model: all of it. accepts: the keyword names of `forward`. transformers swallows unknown keywords without a word, so
    only these may be passed.
    """

    model: PreTrainedModel
    layers: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    head: nn.Module
    softcap: float | None
    logit_factor: float
    accepts: frozenset[str]

    def read_out(self, residual: torch.Tensor) -> torch.Tensor:
        """Logits of a residual stream (..., E) → (..., V) float32: final norm, head, and what the family adds."""
        normed = residual if self.final_norm is None else self.final_norm(residual)
        logits: torch.Tensor = self.head(normed).float() * self.logit_factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Locate the parts by the names all families share. Raises `ModelLoadError` for a model without layers or head."""
    config = model.config.get_text_config()
    base = getattr(model, model.base_model_prefix, model)
    layers = _layers(base, config.num_hidden_layers)
    head = model.get_output_embeddings()
    if head is None or layers is None:
        what = "language-model head" if head is None else "list of layers"
        raise ModelLoadError(
            f"{type(model).__name__} has no {what} that Tokenglass can find, so it cannot be observed."
        )
    norm = _final_norm(base) or _final_norm(_owner(base, layers[0]))
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Anatomy(
        model=model,
        layers=layers,
        final_norm=norm,
        head=head,
        softcap=getattr(config, "final_logit_softcapping", None),
        logit_factor=factor,
        accepts=frozenset(inspect.signature(model.forward).parameters),
    )


def _final_norm(module: nn.Module) -> nn.Module | None:
    found = (getattr(module, name, None) for name in _FINAL_NORMS)
    return next((norm for norm in found if isinstance(norm, nn.Module)), None)


def _owner(base: nn.Module, layer: nn.Module) -> nn.Module:
    """The module that has the list which this layer is in: OPT's is a decoder inside the base model."""
    owners = (
        module
        for module in base.modules()
        if any(isinstance(child, nn.ModuleList) and layer in list(child) for child in module.children())
    )
    return next(owners, base)


def _layers(base: nn.Module, count: int) -> tuple[nn.Module, ...] | None:
    lists = (child for child in base.modules() if isinstance(child, nn.ModuleList) and len(child) == count)
    found = next(lists, None)
    return None if found is None else tuple(found)
