"""From a question to the generator that answers it."""

from __future__ import annotations

from collections.abc import Generator

from core.contract.views import (
    AttentionQuery,
    DistributionQuery,
    ThumbnailQuery,
    ViewAnswer,
    ViewQuery,
    WaterfallQuery,
)
from core.trace.attention import derive_attention, derive_thumbnails
from core.trace.distribution import derive_distribution
from core.trace.recording import Recording
from core.trace.waterfall import derive_waterfall


def derive(recording: Recording, query: ViewQuery) -> Generator[None, None, ViewAnswer]:
    """Yields between slices of a few milliseconds; the answer is the generator's return value."""
    match query:
        case AttentionQuery():
            return derive_attention(recording, query)
        case ThumbnailQuery():
            return derive_thumbnails(recording, query)
        case DistributionQuery():
            return derive_distribution(recording, query)
        case WaterfallQuery():
            return derive_waterfall(recording, query)
