"""The self-test at load: do derived views equal what this very model computes? A view that fails is switched off."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from core.contract.errors import TokenglassError
from core.contract.events import ViewStatus
from core.contract.specs import Prompt, RunSpec
from core.decode.session import Session
from core.models.attention import use_our_attention
from core.models.loaded import LoadedModel
from core.trace.attention import attention_weights

PROBE_PROMPT, PROBE_STEPS = 6, 3  # a prefill and single steps: the two shapes of a forward pass
# bf16 keeps 8 bits of a weight; derived attention is float32, so it is the more exact of the two.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def qualify(loaded: LoadedModel) -> LoadedModel:
    """The same model with `info.views` filled in. Never raises for a failing view."""
    views = (_status("attention", _attention_error, loaded), _status("distribution", _read_out_error, loaded))
    return dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, views=views))


def _status(view: str, measure: Any, loaded: LoadedModel) -> ViewStatus:
    try:
        with torch.inference_mode():
            error = float(measure(loaded))
    except TokenglassError as problem:
        return ViewStatus(view, False, problem.message)
    except Exception as problem:
        return ViewStatus(view, False, f"The self-test of this view failed on {loaded.info.title}: {problem!r}.")
    finally:
        use_our_attention(loaded.module)
    limit = _TOLERANCE.get(loaded.dtype, 1e-4)
    if error <= limit:
        return ViewStatus(view, True, max_error=error)
    reason = f"Derived values differ from the model's own by {error:.2g} (allowed {limit:g}), so this view is off."
    return ViewStatus(view, False, reason, error)


def _probe_ids(loaded: LoadedModel, count: int) -> torch.Tensor:
    return torch.tensor([[(7 * i + 1) % loaded.info.vocab_size for i in range(count)]], device=loaded.device)


def _probe(loaded: LoadedModel) -> tuple[Session, list[torch.Tensor]]:
    """A short recorded run, hooks already removed, and the logits (V,) of each of its forward passes."""
    ids = _probe_ids(loaded, PROBE_PROMPT + PROBE_STEPS)[0].tolist()
    session = Session(loaded, RunSpec(prompts=(Prompt(ids=tuple(ids)),), params={"max_new_tokens": 1}))
    logits = []
    with session.attached():
        for start, stop in [(0, PROBE_PROMPT), *((n, n + 1) for n in range(PROBE_PROMPT, len(ids)))]:
            logits.append(session.forward(session.ids[:, start:stop], session.cache, session.trace)[0])
    return session, logits


def _attention_error(loaded: LoadedModel) -> float:
    """Largest difference between derived weights and the weights eager attention returns."""
    recording = _probe(loaded)[0].recording()
    fed = recording.positions(0)
    derived = [
        attention_weights(recording, recording.recorded(), layer, 0, 0, fed, None)
        for layer in range(loaded.info.layers)
    ]
    sites = [site.module for site in recording.recorded().sites]
    own = _eager_weights(loaded, sites, fed)
    return max(float((a - b.float()[0]).abs().max()) for a, b in zip(derived, own, strict=True))


def _eager_weights(loaded: LoadedModel, sites: list[nn.Module], fed: int) -> list[torch.Tensor]:
    """Weights (1, H, T, T) of each attention module in one plain pass under eager attention."""
    weights: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            weights[index] = output[1]

        return hook

    loaded.module.set_attn_implementation("eager")
    with ExitStack() as stack:
        for index, site in enumerate(sites):
            stack.callback(site.register_forward_hook(keep(index)).remove)
        loaded.module(input_ids=_probe_ids(loaded, fed), use_cache=False)
    return [weights[index] for index in range(len(sites))]


def _read_out_error(loaded: LoadedModel) -> float:
    """Largest difference between read-out and the model's logits, relative to the largest logit."""
    session, own = _probe(loaded)
    trace = session.recording().recorded()
    worst = 0.0
    for back, logits in enumerate(reversed(own), start=1):
        residual = trace.residuals(loaded.info.layers, trace.stop - back, trace.stop - back + 1)[0, 0]
        error = (logits - session.forward.anatomy.read_out(residual)).abs().max() / logits.abs().max().clamp(min=1.0)
        worst = max(worst, float(error))
    return worst
