"""Experiments with the KV cache, one file each: generators that do one pass of the model between two yields.

They use the loaded model as the loop does (`Forward` and the caches of `core.decode.kv`), never beside a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from core.cache_lab import chunks, growth, kinds, prefix, why
from core.cache_lab.board import Bench, Report
from core.contract.cache_lab import Experiment, LabResult
from core.models.loaded import LoadedModel

_EXPERIMENTS: dict[str, Callable[[Bench], Iterator[Report]]] = {
    "why": why.measure,
    "prefix": prefix.measure,
    "kinds": kinds.measure,
    "growth": growth.measure,
    "chunks": chunks.measure,
}


def begin(
    loaded: LoadedModel, experiment: Experiment, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Bench, Iterator[Report]]:
    """The bench that collects what is found, and the passes to be made. Raises `PromptError` or `ParameterError`."""
    bench = Bench(loaded, experiment, cancelled)
    return bench, _EXPERIMENTS[experiment.name](bench)


def run(loaded: LoadedModel, experiment: Experiment, say: Callable[[Report], None] = lambda report: None) -> LabResult:
    """To the end, in the calling thread."""
    bench, reports = begin(loaded, experiment)
    for report in reports:
        say(report)
    return bench.result(complete=True)
