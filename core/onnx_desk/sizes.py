"""The numbers of a model that decide what its graph looks like."""

from __future__ import annotations

from dataclasses import dataclass

from core.models.loaded import LoadedModel

BATCH, SEQUENCE = 2, 8  # as transformers 4 traced: lengths of 0 and 1 would be taken for constants
PAST_MORE = 2  # the past is so much longer than the sequence


@dataclass(frozen=True, slots=True)
class GraphSizes:
    """pad_token_id: None where the model has none. logits: V of the head; ImageGPT's predicts no start token."""

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    logits: int
    max_positions: int
    pad_token_id: int | None

    @property
    def sequence(self) -> int:
        """Length of the dummy sequence: what fits together with its past, at least 2."""
        return max(2, min(SEQUENCE, (self.max_positions - PAST_MORE) // 2))

    @property
    def past(self) -> int:
        """Length of the dummy past."""
        return self.sequence + PAST_MORE


def graph_sizes(loaded: LoadedModel) -> GraphSizes:
    """Of a loaded model."""
    info = loaded.info
    pad = getattr(loaded.module.config.get_text_config(), "pad_token_id", None)
    return GraphSizes(
        family=info.family,
        layers=info.layers,
        heads=info.heads,
        kv_heads=info.kv_heads,
        head_dim=info.head_dim,
        hidden_size=info.hidden_size,
        vocab_size=info.vocab_size,
        logits=int(loaded.module.get_output_embeddings().weight.shape[0]),
        max_positions=info.max_positions,
        pad_token_id=pad if isinstance(pad, int) else None,
    )
