"""What can be wrong with the rotary positions of a configuration, found before a model is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")  # transformers' own names
POSITIVE = ("rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")


def rope_problem(content: object) -> str | None:
    """A sentence about `rope_parameters` that no model can have, or None."""
    if not isinstance(content, Mapping):
        return 'rope_parameters must be an object, such as {"rope_type": "default", "rope_theta": 10000.0}.'
    kind = content.get("rope_type", "default")
    if kind not in KINDS:
        return f"There are no rotary positions of type {json.dumps(kind)[:60]}; there are {', '.join(KINDS)}."
    for name in POSITIVE:
        value = content.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            return f"{name} must be a number above 0, not {json.dumps(value)[:60]}."
    return None


def rope_init_problem(config: PretrainedConfig) -> str | None:
    """The same by computing the frequencies as the model will; it may need values that are not there."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    content = getattr(config, "rope_parameters", None)
    if not isinstance(content, Mapping):
        return None
    kind = str(content.get("rope_type", "default"))
    if kind == "default":
        return None
    try:
        config.validate_rope()
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    except KeyError as error:
        return f"Rotary positions of type {kind} need more: {str(error.args[0])[:200]}."
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        return f"Rotary positions of type {kind} cannot be computed from this: {str(error)[:200]}."
    if not bool(frequencies.isfinite().all()) or not math.isfinite(scaling):
        return f"Rotary positions of type {kind} come out as no finite numbers from this."
    return None
