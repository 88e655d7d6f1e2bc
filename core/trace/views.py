"""From a question to the generator that answers it."""

from __future__ import annotations

from collections.abc import Generator

from core.contract.acting import InterventionQuery, WatchQuery
from core.contract.cache_views import CacheContentQuery
from core.contract.errors import ViewUnavailableError
from core.contract.looking import (
    AttributionQuery,
    ColumnQuery,
    HeadsQuery,
    KeyNormsQuery,
    LensQuery,
    NormsQuery,
    RolloutQuery,
    WalkQuery,
)
from core.contract.twins import CompareAttentionQuery, CompareQuery
from core.contract.views import (
    AttentionQuery,
    DistributionQuery,
    ThumbnailQuery,
    ViewAnswer,
    ViewQuery,
    WaterfallQuery,
)
from core.trace.acting import derive_intervention, derive_watch
from core.trace.attention import derive_attention, derive_thumbnails
from core.trace.attribution import derive_attribution
from core.trace.cache_view import derive_content
from core.trace.compare import derive_compared
from core.trace.distribution import derive_distribution
from core.trace.heads import derive_column, derive_heads
from core.trace.lens import derive_lens
from core.trace.norms import derive_key_norms, derive_norms
from core.trace.recording import Recording
from core.trace.rollout import derive_rollout
from core.trace.walk import derive_walk
from core.trace.waterfall import derive_waterfall


def derive(
    recording: Recording, query: ViewQuery, other: Recording | None = None
) -> Generator[float | None, None, ViewAnswer]:
    """Yields between slices of a few milliseconds, some how far they are; the answer is the generator's return value.

    other: the second branch of a comparison.
    """
    match query:
        case CompareQuery() | CompareAttentionQuery():
            if other is None:
                raise ViewUnavailableError("The other branch is no longer held in memory; run it again.")
            return derive_compared(recording, other, query)
        case AttentionQuery():
            return derive_attention(recording, query)
        case ThumbnailQuery():
            return derive_thumbnails(recording, query)
        case DistributionQuery():
            return derive_distribution(recording, query)
        case InterventionQuery():
            return derive_intervention(recording, query)
        case WatchQuery():
            return derive_watch(recording, query)
        case RolloutQuery():
            return derive_rollout(recording, query)
        case ColumnQuery():
            return derive_column(recording, query)
        case HeadsQuery():
            return derive_heads(recording, query)
        case LensQuery():
            return derive_lens(recording, query)
        case NormsQuery():
            return derive_norms(recording, query)
        case KeyNormsQuery():
            return derive_key_norms(recording, query)
        case AttributionQuery():
            return derive_attribution(recording, query)
        case WalkQuery():
            return derive_walk(recording, query)
        case CacheContentQuery():
            return derive_content(recording, query)
        case WaterfallQuery():
            return derive_waterfall(recording, query)
