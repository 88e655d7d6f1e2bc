"""SynthID-Text (Dathathri et al. 2024), whose class remembers what it has seen: here it reads that from the rows.

The class keeps the last tokens generated and the hashes of the contexts before them. Both follow from the generated
tokens, so its state is set before each call; then it may be replayed, and rows may leave or change places.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import SynthIDTextWatermarkLogitsProcessor
from transformers.generation.logits_process import SynthIDTextWatermarkState

from core.decode.pipeline.stage import Rows, StageFn

_DEFAULTS = {"sampling_table_size": 2**16, "sampling_table_seed": 0, "context_history_size": 1024}


def synthid(config: dict[str, Any], prompt_slots: int, device: torch.device) -> StageFn:
    """The stage for the keys of a `SynthIDTextWatermarkingConfig`."""
    settings = {**_DEFAULTS, **config, "keys": list(config["keys"])}
    processor = SynthIDTextWatermarkLogitsProcessor(**settings, device=device)

    def fn(rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        generated = rows.ids[:, prompt_slots:]  # (B, n)
        processor.state = _state(processor, generated) if generated.shape[1] else None
        result: torch.Tensor = processor(rows.ids, scores)
        return result

    return fn


def _state(processor: Any, generated: torch.Tensor) -> SynthIDTextWatermarkState:
    """What the class would hold after the calls that led to these tokens (B, n)."""
    rows, calls = generated.shape
    width, kept = processor.ngram_len - 1, processor.context_history_size
    state = SynthIDTextWatermarkState(rows, processor.ngram_len, kept, processor.device)
    state.num_calls = calls
    # Before call i the context was the `width` tokens before it; zeros stand before the first.
    padded = torch.cat([generated.new_zeros(rows, width), generated], dim=1)[:, : calls - 1 + width]
    state.context = padded[:, -width:]
    hashed = max(0, calls - kept, width if processor.skip_first_ngram_calls else 0)
    if hashed < calls:
        contexts = padded[:, hashed:].unfold(1, width, 1)  # (B, calls - hashed, width)
        ones = torch.ones(contexts.shape[:2], dtype=torch.long, device=processor.device)
        hashes = processor.accumulate_hash(ones, contexts).flip(1)  # the newest first
        state.context_history = torch.cat([hashes, state.context_history], dim=1)[:, :kept]
    return state
