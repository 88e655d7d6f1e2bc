"""A loaded model with everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from core.contract.events import ModelInfo
from core.contract.specs import ModelSpec
from core.domains.domain import Domain


@dataclass(frozen=True)
class LoadedModel:
    """An unmodified transformers model in evaluation mode on `device`, its tokens, and its facts.

    text: its tokens for people; pixels, where it is an image model.
    info.views is empty until the worker's self-test has run.
    """

    spec: ModelSpec
    module: PreTrainedModel
    text: Domain
    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
