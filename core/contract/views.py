"""Views: questions about recorded positions, and their answers. Every answer is derived, nothing is stored.

Positions count tokens fed to the model, from the row's first real token (padding excluded). The step with
index i of a prompt of P tokens was chosen by the query at position P - 1 + i.

Every question names a sequence: `row` of the batch, and in modes with beams the `beam` it was when the token with
`index` was chosen (None: the newest). A beam that died keeps its past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.contract.acting import ActingAnswer, ActingQuery
from core.contract.cache_views import CacheContentAnswer, CacheContentQuery
from core.contract.looking import LookingAnswer, LookingQuery
from core.contract.params import GenerationParams
from core.contract.snapshot import FloatArray
from core.contract.twins import TwinAnswer, TwinQuery


class Place(Protocol):
    """What every question says about the sequence it means."""

    @property
    def row(self) -> int: ...

    @property
    def beam(self) -> int: ...

    @property
    def index(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class AttentionQuery:
    """Attention weights of a range of query positions in one layer.

    heads: None means every head apart; reduce `mean` or `max` joins the chosen heads into one.
    rows: [start, stop) query positions; stop None means up to the newest.
    pool: at most so many (rows, columns); larger answers are max-pooled, so that sharp lines stay visible.
    recompute: where records were evicted, run the model again for those positions.
    """

    run_id: int
    layer: int
    heads: tuple[int, ...] | None = None
    reduce: str | None = None
    rows: tuple[int, int | None] = (0, None)
    pool: tuple[int, int] | None = None
    recompute: bool = False
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class AttentionAnswer:
    """`weights` is (H', R, C) float32; row r covers query positions from `rows[0]`, columns start at position 0.

    cell: query rows and key columns that were joined (by maximum) into one cell; (1, 1) unpooled. Then
    R = rows[1] - rows[0] and C = columns; keys after a query weigh 0.
    """

    query: AttentionQuery
    weights: FloatArray
    rows: tuple[int, int]
    columns: int
    cell: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class ThumbnailQuery:
    """Every head of the given layers as a `size` × `size` max-pooled map of query and key positions in `span`.

    span: [start, stop) positions on both axes; stop None means up to the newest.
    """

    run_id: int
    layers: tuple[int, ...]
    span: tuple[int, int | None] = (0, None)
    size: int = 16
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class ThumbnailAnswer:
    """`maps` is (len(layers), H, size, size) float32; cells beyond a span shorter than `size` are NaN."""

    query: ThumbnailQuery
    maps: FloatArray
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class DistributionQuery:
    """The full-vocabulary distribution that followed `position`, read out of the recorded residual of `layer`.

    layer None means the final residual (the model's own distribution); otherwise the logit lens of that layer.
    The pipeline, with the parameters in force at that step, is applied when `final` is true. `top` tokens are returned.
    """

    run_id: int
    position: int
    layer: int | None = None
    final: bool = False
    top: int = 50
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class DistributionAnswer:
    """Natural logarithms of the `top` likeliest tokens, in descending order, and the entropy of the whole."""

    query: DistributionQuery
    token_ids: NDArray[np.int64]
    pieces: tuple[str, ...]
    logprob: FloatArray
    entropy_bits: float


@dataclass(frozen=True, slots=True)
class WaterfallQuery:
    """What each stage of the pipeline did to the distribution that followed `position`.

    The parameters are those that were in force when the token after `position` was chosen, with `changes` on top: what
    if. `top` tokens are named, of all and of those that each stage killed.
    """

    run_id: int
    position: int
    changes: Mapping[str, object] = field(default_factory=dict)
    top: int = 20
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did. Probabilities and entropies are those of the scores before and after it, normalised.

    killed, survivors: tokens that it left -inf, and that are left. mass_kept: of the probability before this stage.
    killed_ids, killed_pieces, killed_probability: the likeliest ones that it killed, likeliest first.
    """

    name: str
    params: Mapping[str, object]
    killed: int
    survivors: int
    mass_kept: float
    entropy_before_bits: float
    entropy_after_bits: float
    killed_ids: NDArray[np.int64]
    killed_pieces: tuple[str, ...]
    killed_probability: FloatArray


@dataclass(frozen=True, slots=True)
class WaterfallAnswer:
    """The pipeline of one step, stage by stage.

    params, mode: in force, changes included. entropy_bits: before the first stage; survivors: after the last.
    token_ids: the likeliest before and after, in descending order of `logprob` (before the first stage; natural
        logarithm); `final_logprob` is -inf for killed ones.
    token_id, u: the token that these parameters choose here, with the draw of that step. token_id is None, and `reason`
        says why, where one step does not tell it.
    replayable: False where a stage cannot be run again; then `stages` ends before it, and `reason` names it.
    """

    query: WaterfallQuery
    params: GenerationParams
    mode: str
    stages: tuple[StageReport, ...]
    entropy_bits: float
    final_entropy_bits: float
    survivors: int
    token_ids: NDArray[np.int64]
    pieces: tuple[str, ...]
    logprob: FloatArray
    final_logprob: FloatArray
    token_id: int | None
    piece: str
    u: float | None
    replayable: bool
    reason: str


ViewQuery = (
    AttentionQuery
    | ThumbnailQuery
    | DistributionQuery
    | WaterfallQuery
    | CacheContentQuery
    | LookingQuery
    | ActingQuery
    | TwinQuery
)
ViewAnswer = (
    AttentionAnswer
    | ThumbnailAnswer
    | DistributionAnswer
    | WaterfallAnswer
    | CacheContentAnswer
    | LookingAnswer
    | ActingAnswer
    | TwinAnswer
)
