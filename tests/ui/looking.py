"""Plausible answers to lens, head and walk questions, without a model."""

from __future__ import annotations

import numpy as np

from core.contract import (
    AttributionAnswer,
    AttributionQuery,
    ColumnAnswer,
    ColumnQuery,
    HeadsAnswer,
    HeadsQuery,
    KeyNormsAnswer,
    KeyNormsQuery,
    LensAnswer,
    LensQuery,
    ModelInfo,
    NormsAnswer,
    NormsQuery,
    RolloutAnswer,
    RolloutQuery,
    TensorFact,
    ViewAnswer,
    ViewQuery,
    WalkAnswer,
    WalkNode,
    WalkQuery,
)

WORDS = (" the", " lamp", "<b>", "\n", " sea", " and", " 光")


def answer(query: ViewQuery, info: ModelInfo, fed: int) -> ViewAnswer:
    """What core might say with so many positions fed."""
    rng = np.random.default_rng(5)
    match query:
        case LensQuery():
            return lens(query, info, fed)
        case NormsQuery():
            layers, added = info.layers, query.contributions
            parts = [rng.random(layers).astype(np.float32) + 1 for _ in range(4)]
            residual = np.cumsum(rng.random(layers + 1)).astype(np.float32) + 1
            return NormsAnswer(query, residual, parts[0], parts[1] / 2, *(parts[2:] if added else ()))
        case KeyNormsQuery():
            return KeyNormsAnswer(query, rng.random((info.kv_heads, fed)).astype(np.float32))
        case AttributionQuery():
            heads = rng.normal(0, 1, (info.layers, info.heads)).astype(np.float32)
            attention, mlp = heads.sum(1), rng.normal(0, 1, info.layers).astype(np.float32)
            logit = 0.5 + float(attention.sum() + mlp.sum()) + 0.25 + 0.001
            between = np.zeros(info.layers, np.float32)
            return AttributionAnswer(query, " lamp", logit, 0.5, attention, heads, mlp, between, 0.25, 0.001)
        case HeadsQuery():
            shape = (len(query.layers), info.heads)
            first, previous, induction = (np.zeros(shape, np.float32) for _ in range(3))
            first[:, 0], previous[:, 1], induction[:, 2] = 0.9, 0.8, 0.6
            return HeadsAnswer(query, (query.rows[0], fed), np.ones(shape, np.float32), first, previous, induction, 7)
        case ColumnQuery():
            weights = np.linspace(0, 1, fed, dtype=np.float32)[None]
            return ColumnAnswer(query, np.where(np.arange(fed) < query.key, 0, weights), (0, fed))
        case RolloutQuery():
            stop = query.rows[1] or fed
            return RolloutAnswer(query, np.full((1, stop), 1 / stop, np.float32), (stop - 1, stop))
        case WalkQuery():
            return walk(query)
    raise AssertionError(query)


def lens(query: LensQuery, info: ModelInfo, fed: int) -> LensAnswer:
    """Every layer says another word; the last third agrees."""
    start, stop = query.positions[0], min(fed, query.positions[1] or fed)
    rows, layers, top = stop - start, info.layers, query.top
    ids = (np.arange(start, stop)[:, None, None] + np.arange(layers + 1)[:, None] + np.arange(top)) % len(WORDS)
    commit = np.full(rows, layers * 2 // 3)
    ids[:, commit[0] :] = ids[:, -1:]
    probability = np.linspace(0.1, 0.7, layers + 1)[:, None] * 0.6 ** np.arange(top)
    logprob = np.broadcast_to(np.log(probability), (rows, layers + 1, top)).astype(np.float32)
    rank = np.broadcast_to(np.maximum(0, commit[0] - np.arange(layers + 1)), (rows, layers + 1)).astype(np.int64)
    kl = (rank * 0.5).astype(np.float32)
    pieces = dict(enumerate(WORDS))
    return LensAnswer(query, (start, stop), ids, logprob, pieces, rank, logprob[:, :, 0], kl, commit)


def walk(query: WalkQuery) -> WalkAnswer:
    """A model of one layer."""
    start, stop = query.positions
    n = stop - start

    def node(key: str, depth: int, title: str, *shape: int, kind: str = "Linear", note: str = "") -> WalkNode:
        fact = TensorFact("", shape, "float32", 0.1, 1.0, -3.0, 3.0)
        return WalkNode(key, depth, title, kind, (fact,), (fact,), None if kind == "stage" else 1.5, note)

    nodes = (
        node("#1", 0, "model", 1, n, 100, kind="Model"),
        node("wte#1", 1, "token embeddings", 1, n, 8),
        node("h.0#1", 1, "layer 0", 1, n, 8, kind="Block"),
        node("h.0.attn#1", 2, "attention", 1, n, 8),
        node("h.0.attn#1:cache", 3, "cache append", 1, 2, stop, 4, kind="stage", note=f"{start} → {stop} positions"),
        node("lm_head#1", 1, "head", 1, 1, 100),
    )
    return WalkAnswer(query, (start, stop), start, nodes, 12.5 * n, True)
