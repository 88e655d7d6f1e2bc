"""Decoding modes: how positions are fed and the next token is chosen. One file a mode."""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.contract.params import GenerationParams
from core.contract.specs import RunSpec
from core.decode.modes.assisted import Assisted
from core.decode.modes.beam import BeamSearch, CounterBeamSample, TorchBeamSample
from core.decode.modes.constrained_beam import ConstrainedBeamSearch
from core.decode.modes.contrastive import Contrastive
from core.decode.modes.dola import Dola
from core.decode.modes.drafts import Draft, EarlyExitDraft, LookupDraft, ModelDraft
from core.decode.modes.greedy import Greedy
from core.decode.modes.group_beam import GroupBeamSearch
from core.decode.modes.mode import Choice, Mode, Past
from core.decode.modes.sample import CounterSample, TorchSample
from core.models.loaded import LoadedModel

__all__ = ["Choice", "Mode", "Past", "make_mode"]

PLAIN = ("greedy_search", "sample")  # a run may change from one to the other


def make_mode(
    params: GenerationParams,
    spec: RunSpec,
    loaded: LoadedModel,
    assistant: LoadedModel | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Mode:
    """The mode that these parameters ask for. Raises `ParameterError` for a draft that does not fit the model."""
    name = params.infer_mode(assistant is not None)
    generator = None
    if spec.draw_source == "torch":
        generator = torch.Generator(device=loaded.device).manual_seed(spec.seed)
    match name:
        case "greedy_search":
            return Greedy()
        case "sample":
            return _sampler(generator)
        case "contrastive_search":
            return Contrastive()
        case "dola_generation":
            return Dola(_sampler(generator))
        case "assisted_generation":
            return Assisted(_make_draft(params, loaded, assistant, cancelled), generator)
        case "beam_search":
            return BeamSearch()
        case "beam_sample":
            return CounterBeamSample() if generator is None else TorchBeamSample(generator)
        case "group_beam_search":
            return GroupBeamSearch()
        case "constrained_beam_search":
            return ConstrainedBeamSearch()
    raise AssertionError(f"no mode {name}")  # of those that `infer_mode` tells


def _sampler(generator: torch.Generator | None) -> Mode:
    return CounterSample() if generator is None else TorchSample(generator)


def _make_draft(
    params: GenerationParams, loaded: LoadedModel, assistant: LoadedModel | None, cancelled: Callable[[], bool]
) -> Draft:
    if assistant is not None:
        return ModelDraft(loaded, assistant, cancelled)
    if params.assistant_early_exit is not None:
        return EarlyExitDraft(loaded, params.assistant_early_exit)
    return LookupDraft()
