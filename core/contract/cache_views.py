"""What is in the cache: how large keys and values are at each position, and which keys resemble each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CacheContentQuery:
    """The content of one layer of a run's cache as it is now.

    head: the key/value head whose keys are compared with each other; None: nothing is compared.
    pool: at most so many rows and columns of the comparison; larger ones are max-pooled.
    """

    run_id: int
    layer: int
    head: int | None = None
    pool: int = 128
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class CacheContentAnswer:
    """Norms (H_kv, T) float32 of K and V by position; NaN where a head holds nothing any more.

    similarity: cosine (n, n) of the keys of one head, cell × cell positions each; NaN where one of them is gone, None
    where it was not asked for.
    """

    query: CacheContentQuery
    key_norms: FloatArray
    value_norms: FloatArray
    similarity: FloatArray | None = None
    cell: int = 1
