"""What a model's steps are called: pixels for models that paint, tokens for the others. Pure functions."""

from __future__ import annotations

from app.state.texts import tr
from core.contract import ModelInfo


def paints(model: ModelInfo | None) -> bool:
    """Whether a token of this model is a pixel."""
    return model is not None and model.image is not None


def counted(model: ModelInfo | None, count: int) -> str:
    """So many of them: `1 token`, `256 pixels`."""
    if paints(model):
        return tr("1 pixel") if count == 1 else tr("{0} pixels").format(f"{count:,}")
    return tr("1 token") if count == 1 else tr("{0} tokens").format(f"{count:,}")
