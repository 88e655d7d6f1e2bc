"""The engine against `generate()`: one process, interleaved rounds, medians, same weights, dtype and threads.

Decode only: (t(N) − t(1)) / (N − 1), where t(i) is the moment at which the i-th token is there, so prefill and
set-up do not count. EOS is off and decoding is greedy. Ratios are what to read; absolute figures depend on the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicLayer

from core import api, bench_cache, bench_pipeline
from core.bench_branches import branches_table, measure_branches
from core.bench_modes import measure_modes, modes_table
from core.bench_steps import bare_spec, engine_s, generate_s, prompt_ids
from core.contract import (
    Ask,
    AttentionQuery,
    LoadFailed,
    LoadModel,
    ModelLoadError,
    ModelReady,
    ModelSpec,
    RunFinished,
    StartRun,
    StepSnapshot,
    TokenglassError,
)
from core.contract.events import Event
from core.decode.kv import GrowLayer
from core.lab import Lab
from core.models.loaded import LoadedModel

Say = Callable[[str | None], None]
VARIANTS = {
    "a": "generate(), sdpa",
    "b": "generate(), eager, with attentions, hidden states and scores",
    "c": "our engine, bare",
    "d": "our engine watched at 30 Hz: 50 candidates, one attention layer, cache bytes, records of all views",
}
POLL_S = 1 / 30
_run_ids = itertools.count(1)
WATCHED_ROWS = 64  # newest query rows of the watched layer, all heads
APPEND_AT = 4096
TARGETS = {("smollm2", 16): {"c": 1.0, "d": 0.95}, ("smollm2", 1000): {"c": 1.2, "d": 1.2}}  # × a, in bf16


def measure(
    models: Sequence[str],
    *,
    quick: bool = False,
    say: Say = lambda _: None,
    window: Callable[[], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything as plain data. `window` may add what only a window can measure (start-up, lateness, stop)."""
    results = [result for name in models for result in _measure_model(name, quick, say)]
    modes = list(measure_modes(models, quick, say))
    branches = [one for name in models for one in measure_branches(name, api.load_model(name), quick, say)]
    pipelines: dict[str, dict[str, Any]] = {}
    for name in models:
        say(f"{name}: pipeline")
        # bf16 logits have many equal ones, which the filters that avoid a full sort cannot always do without.
        costs = [bench_pipeline.pipeline_cost(api.load_model(name, dtype=dtype)) for dtype in ("auto", "fp32")]
        pipelines[name] = {cost["dtype"]: cost for cost in costs}
    say("append cost")
    positions = bench_cache.POSITIONS[:1] if quick else bench_cache.POSITIONS
    growth = {}
    for name in models:
        say(f"{name}: growth")
        growth[name] = bench_cache.decode_growth(api.load_model(name), 128 if quick else 8192)
    say("kinds of cache")
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "variants": VARIANTS,
        "decode": results,
        "modes": modes,
        "branches": branches,
        "pipeline": pipelines,
        "append_us": append_cost(),
        "cache_layers": list(bench_cache.layer_costs(positions, 4 if quick else bench_cache.ROUNDS)),
        "cache_growth": growth,
        "window": None if window is None else window(),
    }


def _measure_model(name: str, quick: bool, say: Say) -> Iterator[dict[str, Any]]:
    say(f"{name}: loading")
    loaded = api.load_model(name)
    with _lab(name) as lab:
        for context in (16, min(1000, loaded.info.max_positions - 12)):
            tokens = min(16 if quick else 64, loaded.info.max_positions + 1 - context)
            yield _measure_decode(name, loaded, lab, context, tokens, 3 if quick else 7, say)


def _measure_decode(
    name: str, loaded: LoadedModel, lab: Lab, context: int, tokens: int, rounds: int, say: Say
) -> dict[str, Any]:
    ids = prompt_ids(loaded, context)
    run: dict[str, Callable[[], float]] = {
        "a": lambda: generate_s(loaded, ids, tokens, {}),
        "b": lambda: generate_s(loaded, ids, tokens, {}, "eager", everything=True),
        "c": lambda: engine_s(loaded, ids, tokens, {}),
        "d": lambda: _watched_s(lab, loaded, ids, tokens),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in run}
    for number in range(rounds + 1):  # the first round warms up and does not count
        for variant, once in run.items():
            say(f"{name}, context {context:,}: round {number} of {rounds}, {variant}")
            taken_s = once()
            if number:
                seconds[variant].append(taken_s)
    middle = {variant: median(values) for variant, values in seconds.items()}
    return {
        "model": name,
        "device": loaded.info.device,
        "dtype": loaded.info.dtype,
        "context": context,
        "new_tokens": tokens,
        "rounds": rounds,
        "tokens_per_s": {variant: 1 / value for variant, value in middle.items()},
        "times_a": {variant: middle["a"] / value for variant, value in middle.items()},
        "target_times_a": TARGETS.get((name, context), {}) if loaded.info.dtype == "bf16" else {},
    }


@contextmanager
def _lab(name: str) -> Iterator[Lab]:
    """A worker thread with the model loaded."""
    lab = Lab()
    try:
        lab.submit(LoadModel(ModelSpec(name), model_id=1))
        for event in _until(lab, ModelReady | LoadFailed):
            if isinstance(event, LoadFailed):
                raise ModelLoadError(event.error.message, detail=event.error.detail)
        yield lab
    finally:
        lab.close(timeout_s=30.0)


def _until(lab: Lab, last: Any) -> Iterator[Event]:
    """Events as a window drains them, up to one of the kind `last`."""
    while True:
        for event in lab.drain():
            yield event
            if isinstance(event, last):
                return
        time.sleep(POLL_S)


def _watched_s(lab: Lab, loaded: LoadedModel, ids: tuple[int, ...], tokens: int) -> float:
    """Seconds a token while somebody looks: every poll asks for the newest rows of one layer."""
    run_id = next(_run_ids)
    lab.submit(StartRun(run_id, bare_spec(ids, tokens, {})))
    generation = 0
    for event in _until(lab, RunFinished):
        if isinstance(event, StepSnapshot):
            fed = event.cache.length
            if event.id.index >= generation:  # once a poll is enough; later questions replace earlier ones
                generation = event.id.index + 1
                query = AttentionQuery(run_id, loaded.info.layers // 2, rows=(max(0, fed - WATCHED_ROWS), fed))
                lab.submit(Ask("bench", generation, query))
        if isinstance(event, RunFinished):
            if event.error is not None or event.tokens_per_s is None or event.new_tokens != tokens:
                raise TokenglassError("The watched run did not reach its end, so it measured nothing.")
            return 1 / event.tokens_per_s
    raise AssertionError("unreachable")


def append_cost(positions: int = APPEND_AT, appends: int = 64) -> dict[str, float]:
    """Median microseconds to append one position to a layer of 12 × 64 in float32 that holds `positions`."""
    states = torch.randn(1, 12, positions, 64)
    one = torch.randn(1, 12, 1, 64)
    costs: dict[str, float] = {}
    with torch.inference_mode():
        for name, layer in (("ours", GrowLayer()), ("dynamic", DynamicLayer())):
            layer.update(states, states)
            layer.update(one, one)  # ours doubles here, once in 4,096 positions
            times = []
            for _ in range(appends):
                begun = perf_counter()
                layer.update(one, one)
                times.append(perf_counter() - begun)
            costs[name] = 1e6 * median(times)
    return costs


def as_table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"{key}: {text}" for key, text in report["variants"].items()]
    lines += ["", f"{'model':<12}{'dtype':<7}{'context':>8}  {'':2}{'tokens/s':>10}{'× a':>8}{'to reach':>10}"]
    for result in report["decode"]:
        for variant, tps in result["tokens_per_s"].items():
            target = result["target_times_a"].get(variant)
            reach = "" if target is None else f"{target:.2f}"
            head = f"{result['model']:<12}{result['dtype']:<7}{result['context']:>8,}"
            lines.append(f"{head}  {variant:2}{tps:>10.1f}{result['times_a'][variant]:>8.2f}{reach:>10}")
    lines += ["", *modes_table(report["modes"])]
    lines += ["", *branches_table(report["branches"])]
    for name, pipelines in report["pipeline"].items():
        for pipeline in pipelines.values():
            lines += ["", *bench_pipeline.as_lines(pipeline, name)]
    cost = report["append_us"]
    lines += ["", f"append at {APPEND_AT:,} positions: {cost['ours']:.0f} µs, DynamicLayer {cost['dynamic']:.0f} µs"]
    lines += ["", *bench_cache.as_lines(report["cache_layers"], report["cache_growth"]), ""]
    for key, value in (report["window"] or {}).items():
        lines += _grid(key, value) if isinstance(value, Mapping) else [f"{key}: {value:.3g}"]
    lines += [f"{report['threads']} threads, torch {report['torch']}, transformers {report['transformers']}"]
    return "\n".join(lines)


def _grid(title: str, rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Rows of numbers under their names."""
    names = list(next(iter(rows.values()), ()))
    wide = max(map(len, (title, *rows)))
    head = f"{title:<{wide}}" + "".join(f"{name:>10}" for name in names)
    return ["", head, *(f"{row:<{wide}}" + "".join(f"{v[n]:>10.3g}" for n in names) for row, v in rows.items()), ""]
