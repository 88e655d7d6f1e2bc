"""The self-test at load: do derived views equal what this very model computes? A view that fails is switched off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from core.contract.errors import LoadCancelledError, TokenglassError
from core.contract.events import ViewStatus
from core.contract.specs import Prompt, RunSpec
from core.decode.forward import ForwardCancelled
from core.decode.session import Session
from core.domains.domain import Cancelled, never
from core.domains.sandboxed import one_line
from core.models.attention import use_our_attention
from core.models.loaded import LoadedModel
from core.trace.attention import attention_weights
from core.trace.recording import Strand

PROBE_PROMPT, PROBE_STEPS = 6, 2  # a prefill and single steps: the two shapes of a forward pass
# Derived attention is float32; eager attention in bf16 rounds its scores to 8 bits, so it is the less exact of the two.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclasses.dataclass(frozen=True)
class _Probe:
    """A short recorded run under eager attention, and what the model itself returned in each of its passes."""

    session: Session
    logits: list[torch.Tensor]  # (V,) of each pass
    weights: dict[nn.Module, list[torch.Tensor]]  # attention module → (1, H, rows, keys) of each pass


def qualify(loaded: LoadedModel, cancelled: Cancelled = never) -> LoadedModel:
    """The same model with `info.views` filled in. Never raises for a failing view.

    Raises `LoadCancelledError` when `cancelled` says so, within a layer's time.
    """
    probe: _Probe | None = None

    def probed() -> _Probe:
        nonlocal probe
        probe = probe or _probe(loaded, cancelled)
        return probe

    try:
        with torch.inference_mode():
            views = (
                _status("attention", lambda: _attention_error(probed()), loaded),
                _status("distribution", lambda: _read_out_error(probed()), loaded),
            )
    except ForwardCancelled:
        raise LoadCancelledError("The load was cancelled.") from None
    finally:
        use_our_attention(loaded.module)
    return dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, views=views))


def _status(view: str, measure: Callable[[], float], loaded: LoadedModel) -> ViewStatus:
    try:
        error = measure()
    except TokenglassError as problem:
        return ViewStatus(view, False, problem.message)
    except Exception as problem:
        what = f"{loaded.info.title} is built in a way that this view cannot read, so it is off"
        return ViewStatus(view, False, f"{what} (the self-test met {one_line(problem)}).")
    limit = _TOLERANCE.get(loaded.dtype, 1e-4)
    if error <= limit:
        return ViewStatus(view, True, max_error=error)
    reason = f"Derived values differ from the model's own by {error:.2g} (allowed {limit:g}), so this view is off."
    return ViewStatus(view, False, reason, error)


def _probe(loaded: LoadedModel, cancelled: Cancelled) -> _Probe:
    """Run it; hooks are gone afterwards."""
    length = min(PROBE_PROMPT + PROBE_STEPS, loaded.info.max_positions)
    ids = tuple((7 * i + 1) % loaded.info.vocab_size for i in range(length))
    session = Session(loaded, RunSpec(prompts=(Prompt(ids=ids),), params={"max_new_tokens": 1}), cancelled=cancelled)
    use_our_attention(loaded.module, eager=True)
    probe = _Probe(session, [], {})

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], torch.Tensor):
            probe.weights.setdefault(module, []).append(output[1])

    with session.attached(), ExitStack() as stack:
        for module in loaded.module.modules():
            if hasattr(module, "layer_idx"):
                stack.callback(module.register_forward_hook(keep).remove)
        for start, stop in [(0, PROBE_PROMPT), *((n, n + 1) for n in range(PROBE_PROMPT, length))]:
            probe.logits.append(session.forward(session.ids[:, start:stop], session.cache, session.trace)[0])
    return probe


def _strand(probe: _Probe) -> Strand:
    return probe.session.rows[0].strand()


def _attention_error(probe: _Probe) -> float:
    """Largest difference between derived weights and those the model's own eager attention returned.

    Both come from the same passes, so that only the derivation is compared, not the rounding of the layers below.
    """
    recording = probe.session.recording()
    trace, worst, strand = recording.recorded(), 0.0, _strand(probe)
    if not trace.sites:
        attention_weights(recording, trace, 0, strand, 0, 1, None)  # raises with the reason
    for layer, site in enumerate(trace.sites):
        start = 0
        for own in probe.weights[site.module]:
            stop = start + own.shape[2]
            derived = attention_weights(recording, trace, layer, strand, start, stop, None)
            worst = max(worst, float((derived - own[0].float()).abs().max()))
            start = stop
    return worst


def _read_out_error(probe: _Probe) -> float:
    """Largest difference between read-out and the model's logits, relative to the largest logit."""
    recording, layers = probe.session.recording(), probe.session.loaded.info.layers
    fed, worst = recording.recorded().stop, 0.0
    for back, own in enumerate(reversed(probe.logits), start=1):
        residual = recording.residuals(layers, _strand(probe), fed - back, fed - back + 1)[0]
        error = (own - probe.session.forward.anatomy.read_out(residual)).abs().max() / own.abs().max().clamp(min=1.0)
        worst = max(worst, float(error))
    return worst
