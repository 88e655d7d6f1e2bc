"""Views: questions about recorded positions, and their answers. Every answer is derived, nothing is stored.

Positions count tokens fed to the model, from the row's first real token (padding excluded). The step with
index i of a prompt of P tokens was chosen by the query at position P - 1 + i.

Every question names a sequence: `row` of the batch, and in modes with beams the `beam` it was when the token with
`index` was chosen (None: the newest). A beam that died keeps its past.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.contract.picture import Picture
from core.contract.snapshot import FloatArray


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
    The pipeline of the run's current parameters is applied when `final` is true. `top` tokens are returned.
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
class PictureQuery:
    """How surprising a whole picture is to the loaded model; it needs no run."""

    model_id: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class PictureAnswer:
    """The picture as the model sees it, and what each pixel costs after those before it.

    token_ids (H, W): the colours. surprisal_bits (H, W) float32: -log2 p of each; their mean is the picture's bits
    per pixel, which is the model's loss in bits.
    """

    query: PictureQuery
    token_ids: NDArray[np.int64]
    surprisal_bits: FloatArray

    @property
    def bits_per_pixel(self) -> float:
        """The mean surprisal."""
        return float(self.surprisal_bits.mean())


ViewQuery = AttentionQuery | ThumbnailQuery | DistributionQuery
ViewAnswer = AttentionAnswer | ThumbnailAnswer | DistributionAnswer
