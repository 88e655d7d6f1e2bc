"""Tokenglass's engine: a KV-cached streaming generator over unmodified transformers models that records what it does.

Scripts and notebooks use one blocking call, or a stream of snapshots::

    import core

    result = core.run("tiny-gpt2", "Once upon a time", params={"max_new_tokens": 40}, seed=1)
    print(result.text, result.finish_reason)
    print([step.entropy_bits for step in result.steps])
    print(result.attention(layer=2).shape)  # (H, rows, T)

    for step in core.stream("tiny-gpt2", "Once upon a time"):
        print(step.text, end="", flush=True)

Public names:

- `run(model, prompt, …)`: generate, blocking, in the calling thread; returns a `RunResult`.
- `RunResult`: `sequences`, `text`, `finish_reason`, `steps`, and derived when they are asked for `attention(layer, …)`,
  `distribution(position, …)`, `scores(steps)`, `logits(steps)`, `hidden_states(layer, …)`, `past_key_values(row)`.
- `stream(model, prompt, …)`: the same arguments; yields a `StepSnapshot` for each token as it comes.
- `branch(result, position, …)`: a second run that keeps the first tokens of one, with its cache and records.
- `compare(first, second)`, `compare_attention(first, second, layer)`: how two results differ, token by token.
- `plan(model, prompt, …)`: the same arguments; what a run would do and why, as a `contract.GenerationPlan`.
- `score_picture(model, image)`: the bits that each pixel of a picture costs an image model.
- `unload(model=None)`: free models that `run` and `stream` keep loaded between calls.
- `list_models()`: what can be loaded by name, and why something cannot.
- `list_cached_models()`: models of the Hugging Face hub that are on this disk.
- `preview(spec)`: parameters and bytes of a model, and the memory free for it, before it is loaded.
- `new_model_families()`: architectures that can be made with random weights, and their options.
- `check_pattern(text)`: whether a regular expression can be used, else a `ParameterError` says why not.
- `Lab`: the worker thread with its mailbox, for a front end: `submit(command)`, `drain()`, `close()`.
- `contract`: the frozen plain data all of them speak: specs, commands, events, snapshots, views, errors.

Shapes are written with these letters: B rows, T positions, V vocabulary, L layers, H heads (H_kv key/value heads),
D head dim, E hidden size, K candidates. Units end the name: `_ms`, `_bytes`, `_bits`, `_tps`. Logarithms of
probabilities are natural, entropies are in bits. Positions count from a row's first real token.

Importing this package imports neither torch nor transformers; that happens when a model is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read by OpenMP when torch is imported. Threads that spin while they wait starve the window, and each other when the
# machine is busy: beside another busy process, waiting passively measured 24 tokens/s against 1.8.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from core import contract
    from core.api import branch, compare, compare_attention, plan, run, score_picture, stream, unload
    from core.lab import Lab
    from core.models.hub_cache import list_cached_models
    from core.models.new_model import new_model_families
    from core.models.preview import preview
    from core.models.sources import list_models
    from core.patterns import check_pattern
    from core.result import RunResult

__all__ = [
    "Lab",
    "RunResult",
    "branch",
    "check_pattern",
    "compare",
    "compare_attention",
    "contract",
    "list_cached_models",
    "list_models",
    "new_model_families",
    "plan",
    "preview",
    "run",
    "score_picture",
    "stream",
    "unload",
]

_HOMES = {
    "Lab": "core.lab",
    "RunResult": "core.result",
    "check_pattern": "core.patterns",
    "branch": "core.api",
    "compare": "core.api",
    "compare_attention": "core.api",
    "list_cached_models": "core.models.hub_cache",
    "list_models": "core.models.sources",
    "new_model_families": "core.models.new_model",
    "plan": "core.api",
    "preview": "core.models.preview",
    "run": "core.api",
    "score_picture": "core.api",
    "stream": "core.api",
    "unload": "core.api",
}


def __getattr__(name: str) -> Any:  # PEP 562
    if name == "contract":
        return import_module("core.contract")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
