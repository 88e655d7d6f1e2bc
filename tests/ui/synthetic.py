"""Realistic runs without a model: snapshots, states and view answers for tests of widgets and panels."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from app.state.intents import AskView, Intent
from app.state.run import begin
from app.state.state import AppState
from app.state.update import update
from app.widgets.heat_matrix import max_pool
from core.contract import (
    Answered,
    AttentionAnswer,
    AttentionQuery,
    CacheReport,
    Candidates,
    ErrorReport,
    GenerationParams,
    ModelInfo,
    ModelSpec,
    ParamsApplied,
    PromptRow,
    RunSpec,
    RunStarted,
    StepId,
    StepSnapshot,
    StepTiming,
    ThumbnailAnswer,
    ThumbnailQuery,
    ViewAnswer,
    ViewQuery,
    ViewStatus,
    WorkerState,
)
from tests.ui import looking
from tests.ui.fake_plan import fake_plan

PROMPT = ("Once", " upon", " a", " time", ",", " a", " lighthouse", " keeper", " named", " Mara")
STORY = (
    " lived at the edge of a quiet village. Every evening she climbed the hundred and twelve steps, lit the great lamp,"
    " and listened to the sea. One night the lamp would not light. Mara looked out and saw a small boat turning in the"
    " dark, and she knew she had to act.\n\n“Unbelievable,” she whispered, and ran\tdown. "
)
PIECES = tuple(m.group() for m in re.finditer(r"\n| ?[A-Za-z]{1,7}|[a-z]+|.", STORY, re.DOTALL))
OTHERS = (
    " come",
    " glow",
    " shine",
    " start",
    " burn",
    " stay",
    " open",
    " the",
    "\n",
    " café",
    "ing",
    "\t",
    " 光",
    " x",
)


def model(layers: int = 30, heads: int = 9, kv_heads: int = 3, positions: int = 8192) -> ModelInfo:
    """SmolLM2-135M's numbers, unless told otherwise."""
    return ModelInfo(
        model_id=1,
        spec=ModelSpec("smollm2"),
        title="SmolLM2-135M-Instruct",
        family="llama",
        device="cpu",
        dtype="bf16",
        parameters=134_515_008,
        weight_bytes=269_030_016,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        hidden_size=576,
        vocab_size=49152,
        max_positions=positions,
        sliding_window=None,
        kv_bytes_per_token=2 * layers * kv_heads * 64 * 2,
        bos_token_id=1,
        eos_token_ids=(2,),
        has_chat_template=True,
        defaults=GenerationParams(),
        from_generation_config=frozenset(),
        views=(ViewStatus("attention", True, max_error=3e-8), ViewStatus("distribution", True)),
        load_ms=420.0,
    )


def candidates(rng: np.random.Generator, piece: str, rank: int, count: int = 50, greedy: bool = False) -> Candidates:
    """Top candidates with a geometric tail; the last two thirds are killed by top_k and top_p."""
    top = rng.beta(1.6, 1.1)  # models are often sure, and sometimes not at all
    tail = np.sort(rng.dirichlet(np.full(count - 1, 0.3)))[::-1] * min(top, 0.98 - top if top < 0.98 else 0.0)
    raw = np.concatenate([[top], tail]) + 1e-4
    raw *= 0.98 / max(raw.sum(), 0.98)
    killed = np.full(count, -1, np.int8)
    keep = max(rank + 1, 6, int(np.searchsorted(np.cumsum(raw), 0.9)) + 1)
    killed[keep:] = 1
    killed[min(40, count) :] = 0
    final = np.where(killed < 0, raw**1.25, 0.0)
    final /= final.sum()
    with np.errstate(divide="ignore"):
        logprob, final_logprob = np.log(raw), np.log(final)
    names = [OTHERS[i % len(OTHERS)] + ("" if i < len(OTHERS) else str(i)) for i in range(count)]
    names[rank] = piece
    stages = () if greedy else ("temperature", "top_k", "top_p")
    killed = killed + np.where(killed >= 0, 1, 0).astype(np.int8)
    return Candidates(
        np.arange(count) + 100,
        tuple(names),
        logprob.astype(np.float32),
        final_logprob.astype(np.float32),
        killed.astype(np.int8),
        stages,
    )


def cache_report(info: ModelInfo, length: int) -> CacheReport:
    """A doubling cache of this many positions."""
    per_layer = info.kv_heads * info.head_dim * 2
    allocated = 1 << max(6, (length - 1).bit_length())
    used = np.full(info.layers, length * per_layer, np.int64)
    held = np.full(info.layers, allocated * per_layer, np.int64)
    return CacheReport(length, used, used, held, held)


def snapshot(
    info: ModelInfo, index: int, rng: np.random.Generator, greedy: bool = False, pieces: tuple[str, ...] = PIECES
) -> StepSnapshot:
    """Step `index` of the story."""
    piece = pieces[index % len(pieces)]
    rank = int(rng.geometric(0.75)) - 1
    top = candidates(rng, piece, min(rank, 20), greedy=greedy)
    chosen = min(rank, 20)
    raw = np.exp(top.logprob)
    entropy = float(-(raw * np.log2(raw)).sum())
    final = np.exp(top.final_logprob[np.isfinite(top.final_logprob)])
    before = np.exp(top.final_logprob[np.isfinite(top.final_logprob)][:chosen]).sum()
    step_ms = float(22 + rng.gamma(2.0, 0.8))
    return StepSnapshot(
        id=StepId(1, 1, 0, 0, 0, index, len(PROMPT) + index, 0),
        token_id=100 + chosen,
        piece=piece,
        text=piece,
        token_bytes=piece.encode(),
        logprob=float(top.logprob[chosen]),
        final_logprob=float(top.final_logprob[chosen]),
        entropy_bits=entropy,
        final_entropy_bits=float(-(final * np.log2(final)).sum()),
        rank=chosen,
        top=top,
        u=None if greedy else float(min(before + 0.4 * np.exp(top.final_logprob[chosen]), 0.9999)),
        timing=StepTiming(step_ms - 1.4, 0.9, 0.5, step_ms),
        cache=cache_report(info, len(PROMPT) + index),
        trace_bytes=70_000 * (len(PROMPT) + index),
    )


def state(
    steps: int = 63, info: ModelInfo | None = None, *, greedy: bool = False, seed: int = 7, flag_at: int | None = 30
) -> AppState:
    """A state whose run has this many steps."""
    info = info or model()
    started = RunStarted(
        model_id=1,
        run_id=1,
        branch_id=0,
        rows=(PromptRow(tuple(range(len(PROMPT))), PROMPT, "".join(PROMPT)),),
        params=GenerationParams(do_sample=not greedy),
        seed=seed,
        max_length=266,
        plan=fake_plan(info, RunSpec((), seed=seed), GenerationParams(do_sample=not greedy), len(PROMPT)),
    )
    flags: tuple[ParamsApplied, ...] = ()
    if flag_at is not None and flag_at < steps:
        changed = replace(started.params, temperature=0.8)
        flags = (ParamsApplied(1, 1, flag_at, changed, ("temperature",)),)
    run = replace(begin(started, info), flags=flags)
    base = AppState(model=info, run=run, worker=WorkerState.DECODING)
    return extend(base, steps, seed=seed, greedy=greedy)


def extend(before: AppState, steps: int, *, seed: int = 8, greedy: bool = False) -> AppState:
    """The state some steps later."""
    run = before.run
    assert run is not None
    rng = np.random.default_rng(seed)
    for index in range(run.count, run.count + steps):
        run.columns.append(snapshot(run.model, index, rng, greedy))
    return replace(before, run=replace(run, count=run.columns.count))


def attention_weights(n: int, seed: int = 3) -> np.ndarray:
    """(n, n) causal rows that sum to 1: a sink at the first token, a diagonal, some scattered matches."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.25, 1.0, (n, n)) * 0.15
    raw[:, 0] += 1.2
    raw[np.arange(n), np.arange(n)] += 0.9
    raw[np.arange(1, n), np.arange(n - 1)] += 0.7
    raw = np.tril(raw)
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def attention_answer(query: AttentionQuery, newest: int) -> AttentionAnswer:
    """What core would answer with `newest` positions fed."""
    weights = attention_weights(newest, seed=3 + query.layer)
    start, stop = query.rows[0], newest if query.rows[1] is None else query.rows[1]
    part = weights[start:stop, :stop]
    cell = (1, 1)
    if query.pool:
        cell = (-(-part.shape[0] // query.pool[0]), -(-part.shape[1] // query.pool[1]))
        part = max_pool(max_pool(part, cell[0], axis=0), cell[1], axis=1)
    return AttentionAnswer(query, part[None], (start, stop), stop, cell)


def pool(values: np.ndarray, limit: tuple[int, int]) -> np.ndarray:
    """Max-pool to at most `limit` cells."""
    for axis in (0, 1):
        size = values.shape[axis]
        if size > limit[axis]:
            edges = np.linspace(0, size, limit[axis], endpoint=False).astype(int)
            values = np.maximum.reduceat(values, edges, axis=axis)
    return values


def thumbnail_answer(query: ThumbnailQuery, info: ModelInfo, newest: int) -> ThumbnailAnswer:
    """Maps of every head of the layers asked for."""
    maps = np.stack(
        [
            np.stack([_thumbnail(newest, layer * 31 + head, query.size) for head in range(info.heads)])
            for layer in query.layers
        ]
    )
    return ThumbnailAnswer(query, maps.astype(np.float32), (0, newest))


def _thumbnail(n: int, seed: int, size: int) -> np.ndarray:
    side = min(n, size)
    out = np.full((size, size), np.nan, np.float32)
    out[:side, :side] = pool(attention_weights(n, seed), (size, size))
    return out


class Bench:
    """A panel's surroundings: intents change the state as in the window, questions wait until `answer`."""

    def __init__(self, start: AppState) -> None:
        self.state = start
        self.intents: list[Intent] = []

    def dispatch(self, intent: Intent) -> None:
        """What the store does, without core."""
        self.intents.append(intent)
        self.state = update(self.state, intent)

    def asked(self, slot: str) -> list[ViewQuery]:
        """Every question in a slot so far."""
        return [i.query for i in self.intents if isinstance(i, AskView) and i.slot == slot]

    def fed(self) -> int:
        """Positions whose attention core could derive."""
        assert self.state.run is not None
        return len(PROMPT) + self.state.run.count - 1

    def answer(self, slot: str) -> None:
        """Answer the waiting question of a slot."""
        question = self.state.asked[slot]
        assert self.state.run is not None
        if isinstance(question.query, AttentionQuery):
            reply: ViewAnswer = attention_answer(question.query, self.fed())
        elif isinstance(question.query, ThumbnailQuery):
            reply = thumbnail_answer(question.query, self.state.run.model, self.fed())
        else:
            reply = looking.answer(question.query, self.state.run.model, self.fed())
        self.state = update(self.state, Answered(slot, question.generation, reply))

    def decline(self, slot: str, message: str, can_recompute: bool, first_recorded: int = 0) -> None:
        """Say why there is no answer."""
        error = ErrorReport("view_unavailable", message)
        generation = self.state.asked[slot].generation
        self.state = update(self.state, Answered(slot, generation, None, error, can_recompute, 0.0, first_recorded))

    def grow(self, steps: int) -> None:
        """More tokens."""
        self.state = extend(self.state, steps)
