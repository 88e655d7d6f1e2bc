"""Views into the residual stream, the heads and one forward pass: questions and answers, as in `core.contract.views`.

L layers, H heads, E hidden size. Layer l of a lens or a norm is the residual stream entering layer l; layer L is
what enters the final norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.contract.snapshot import FloatArray, IntArray

SINK_WEIGHT = 0.5  # a head whose queries put at least so much on the first position is marked as a sink
PREVIOUS_WEIGHT = 0.4  # the same for the token before, and below for what once followed the current token
INDUCTION_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class RolloutQuery:
    """Attention rollout of the query positions [start, stop) through all layers.

    Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928: half of each layer's mean over heads, half of the
    identity for the residual connection, multiplied over the layers.
    recompute: feed positions again whose records were dropped.
    """

    run_id: int
    rows: tuple[int, int | None]
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class RolloutAnswer:
    """`weights` is (R, C) float32, rows sum to 1; row r is the query at `rows[0]` + r, columns start at position 0."""

    query: RolloutQuery
    weights: FloatArray
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ColumnQuery:
    """Who looks at position `key`: the weights that the query positions `rows` give it in one layer.

    heads, reduce: as in `AttentionQuery`; without `reduce` every head apart.
    recompute: feed positions again whose records were dropped.
    """

    run_id: int
    layer: int
    key: int
    heads: tuple[int, ...] | None = None
    reduce: str | None = None
    rows: tuple[int, int | None] = (0, None)
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class ColumnAnswer:
    """`weights` is (H', R) float32 for the queries [rows[0], rows[1]); queries before the key give it 0."""

    query: ColumnQuery
    weights: FloatArray
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class HeadsQuery:
    """What each head of the given layers does, on average over the query positions `rows`.

    recompute: feed positions again whose records were dropped.
    """

    run_id: int
    layers: tuple[int, ...]
    rows: tuple[int, int | None] = (0, None)
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class HeadsAnswer:
    """Means over the queries `rows`, each (len(layers), H) float32, NaN where no query counts.

    entropy_bits: of the weights. first: weight on position 0. previous: weight on the token before.
    induction: weight on the token after the latest earlier occurrence of the current token (Olsson et al. 2022,
        https://arxiv.org/abs/2209.11895), over the `repeats` queries that have one.
    """

    query: HeadsQuery
    rows: tuple[int, int]
    entropy_bits: FloatArray
    first: FloatArray
    previous: FloatArray
    induction: FloatArray
    repeats: int

    def kind(self, layer: int, head: int) -> str:
        """`sink`, `induction`, `previous` or nothing, for the index of a layer in the query and a head."""
        if self.induction[layer, head] >= INDUCTION_WEIGHT:
            return "induction"
        if self.previous[layer, head] >= PREVIOUS_WEIGHT:
            return "previous"
        return "sink" if self.first[layer, head] >= SINK_WEIGHT else ""


@dataclass(frozen=True, slots=True)
class LensQuery:
    """The logit lens of the fed positions [start, stop): every layer's residual through final norm and head.

    https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru. recompute: feed positions again whose records were dropped.
    """

    run_id: int
    positions: tuple[int, int | None]
    top: int = 5
    recompute: bool = False
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class LensAnswer:
    """One column a position, one entry a layer, the last one the model's own distribution.

    token_ids, logprob: (P, L + 1, K), natural logarithms, likeliest first; `pieces` names every id among them.
    rank, final_logprob: (P, L + 1) of the final layer's likeliest token, in each layer.
    kl_bits: (P, L + 1) Kullback-Leibler divergence of a layer from the final one, KL(final ‖ layer).
    commit: (P,) the first layer from which on the final layer's likeliest token stays the likeliest.
    """

    query: LensQuery
    positions: tuple[int, int]
    token_ids: IntArray
    logprob: FloatArray
    pieces: Mapping[int, str]
    rank: IntArray
    final_logprob: FloatArray
    kl_bits: FloatArray
    commit: IntArray


@dataclass(frozen=True, slots=True)
class NormsQuery:
    """Norms of the residual stream at a fed position.

    contributions: feed the position once more, on a fork of the cache, for what attention and MLP added.
    recompute: feed it once more where its records were dropped.
    """

    run_id: int
    position: int
    contributions: bool = False
    recompute: bool = False
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class NormsAnswer:
    """Euclidean norms; `residual` is (L + 1,), the rest (L,).

    update: of what the whole layer added. cosine: between the residual entering a layer and leaving it.
    attention, mlp: of what each part added; None unless asked for, NaN where the part is not found.
    """

    query: NormsQuery
    residual: FloatArray
    update: FloatArray
    cosine: FloatArray
    attention: FloatArray | None = None
    mlp: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class KeyNormsQuery:
    """How long the cached keys of one layer are: short ones draw little attention, sinks often have the shortest."""

    run_id: int
    layer: int
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class KeyNormsAnswer:
    """Euclidean norms (H_kv, T) float32 of the keys that are cached, positions from 0 on; NaN where one is gone."""

    query: KeyNormsQuery
    norms: FloatArray


@dataclass(frozen=True, slots=True)
class AttributionQuery:
    """Which parts of the model made the logit of a token after a fed position; the position is fed once more."""

    run_id: int
    position: int
    token_id: int
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None


@dataclass(frozen=True, slots=True)
class AttributionAnswer:
    """Direct logit attribution: the logit (before a soft cap) as a sum, under the scale of the final norm.

    embedding + attention + mlp + between + bias + rounding = logit. attention, mlp, between: (L,). heads: (L, H),
    attention without the projection's bias; NaN where the projection cannot be split. between: what a layer added
    beside both (the rounding of its additions, or norms inside it). bias: of final norm and head.
    rounding: what the model's number format, and nothing else, makes of the sum.
    """

    query: AttributionQuery
    piece: str
    logit: float
    embedding: float
    attention: FloatArray
    heads: FloatArray
    mlp: FloatArray
    between: FloatArray
    bias: float
    rounding: float


@dataclass(frozen=True, slots=True)
class TensorFact:
    """One tensor that went in or out. Statistics are None where they say nothing (indices, masks)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class WalkNode:
    """A module that ran (or did not, see `note`), or a named stage between modules.

    key: the same for the same thing in another pass. kind: the module's class, or `stage`.
    ms: of real work, the looking not counted; None where nothing was timed.
    """

    key: str
    depth: int
    title: str
    kind: str
    given: tuple[TensorFact, ...] = ()
    made: tuple[TensorFact, ...] = ()
    ms: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class WalkQuery:
    """One forward pass over the positions [start, stop), fed once more; at most 256 of them.

    token_type: an id that the pass adds to every position, for families that know token types (GPT-2).
    encoder_states: (S, E), what cross attention looks at, for models that have it.
    """

    run_id: int
    positions: tuple[int, int]
    row: int = 0
    branch_id: int = 0
    beam: int = 0
    index: int | None = None
    token_type: int | None = None
    encoder_states: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class WalkAnswer:
    """The pass as a tree in order, children after their parent.

    positions: those really fed. past: positions that the cache held before. named: stages have names (GPT-2, ImageGPT,
    Llama, Qwen2); otherwise it is the plain tree of modules.
    batch: rows that the run fed side by side; the pass here is this row. padding: slots before it in the run, which a
    mask hid from it. unpadded: it was fed from its beginning without them, because the cache has its past no more.
    """

    query: WalkQuery
    positions: tuple[int, int]
    past: int
    nodes: tuple[WalkNode, ...]
    total_ms: float
    named: bool
    batch: int = 1
    padding: int = 0
    unpadded: bool = False


LookingQuery = (
    RolloutQuery | ColumnQuery | HeadsQuery | LensQuery | NormsQuery | KeyNormsQuery | AttributionQuery | WalkQuery
)
LookingAnswer = (
    RolloutAnswer
    | ColumnAnswer
    | HeadsAnswer
    | LensAnswer
    | NormsAnswer
    | KeyNormsAnswer
    | AttributionAnswer
    | WalkAnswer
)
