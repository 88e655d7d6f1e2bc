"""The stages of sampling, temperature and the filters, and the last ones: watermark and normalisation."""

from __future__ import annotations

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    WatermarkLogitsProcessor,
)

from core.contract.errors import ParameterError
from core.contract.params import GenerationParams
from core.decode.pipeline.partial_sort import PartialSort, PartialTopP, PartialTypical
from core.decode.pipeline.stage import Processor, Stage, StageFn, on_batch, on_rows
from core.decode.pipeline.synthid import synthid

_SELFHASH_TRIES = 40  # of the likeliest tokens, in transformers' class


def warpers(params: GenerationParams, device: torch.device) -> list[Stage]:
    """Temperature and the filters that `params` ask for."""
    # Beams must be able to go on when the likeliest tokens are ends.
    least = max(2, len(params.eos_token_id) + 1) if params.num_beams > 1 else 1
    stages: list[Stage] = []

    def add(name: str, processor: Processor | PartialSort) -> None:
        fn = processor if isinstance(processor, PartialSort) else on_batch(processor)
        stages.append(Stage(name, {name: getattr(params, name)}, fn))

    if params.temperature != 1.0:
        add("temperature", TemperatureLogitsWarper(params.temperature))
    if params.top_h > 0.0:
        add("top_h", TopHLogitsWarper(params.top_h))
    if params.top_k > 0:
        add("top_k", TopKLogitsWarper(params.top_k, min_tokens_to_keep=least))
    if params.top_p < 1.0:
        add("top_p", PartialTopP(params.top_p, least))
    if params.min_p > 0.0:
        add("min_p", MinPLogitsWarper(params.min_p, min_tokens_to_keep=least))
    if params.typical_p < 1.0:
        add("typical_p", PartialTypical(params.typical_p, least))
    if 0.0 < params.epsilon_cutoff < 1.0:
        add("epsilon_cutoff", EpsilonLogitsWarper(params.epsilon_cutoff, min_tokens_to_keep=least))
    if 0.0 < params.eta_cutoff < 1.0:
        add("eta_cutoff", EtaLogitsWarper(params.eta_cutoff, min_tokens_to_keep=least, device=device))
    return stages


def last(params: GenerationParams, vocab_size: int, prompt_slots: int, device: torch.device) -> list[Stage]:
    """Watermark and normalisation, in any mode."""
    stages: list[Stage] = []
    if params.watermarking_config:
        fn = _watermark(dict(params.watermarking_config), vocab_size, prompt_slots, device)
        stages.append(Stage("watermarking_config", dict(params.watermarking_config), fn))
    if params.renormalize_logits:
        stages.append(Stage("renormalize_logits", {"renormalize_logits": True}, on_batch(LogitNormalization())))
    return stages


def _watermark(config: dict[str, object], vocab_size: int, prompt_slots: int, device: torch.device) -> StageFn:
    if "keys" in config:
        return synthid(config, prompt_slots, device)
    if config.get("seeding_scheme") == "selfhash" and vocab_size < _SELFHASH_TRIES:
        raise ParameterError(
            f"watermarking_config with the seeding scheme selfhash tries {_SELFHASH_TRIES} tokens, but this model has "
            f"{vocab_size} only; take lefthash."
        )
    return on_rows(WatermarkLogitsProcessor(vocab_size, device, **config))
