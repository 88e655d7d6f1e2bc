"""Each decoding mode against `generate()` where it has that mode: interleaved rounds, medians, the same prompt.

A token of a beam mode is a step of all its beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from core import api
from core.bench_steps import engine_s, generate_s, prompt_ids

CONTEXT = 64


@dataclass(frozen=True)
class ModeCase:
    """A mode as it is measured. target: of the ratio to `generate()`; None where transformers has no such mode."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = 1.0


STEADY = {"num_assistant_tokens_schedule": "constant"}  # as many drafts in both
CASES = (
    ModeCase("greedy_search"),
    ModeCase("sample, temperature 1", {"do_sample": True, "top_k": 0}),
    ModeCase("sample, top_k 50, top_p 0.9", {"do_sample": True, "top_k": 50, "top_p": 0.9}),
    ModeCase("beam_search, 4 beams", {"num_beams": 4}),
    ModeCase("beam_sample, 4 beams", {"num_beams": 4, "do_sample": True, "top_k": 0}),
    ModeCase("group_beam_search, 2 × 2", {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, None),
    ModeCase("constrained_beam_search, 4 beams", {"num_beams": 4, "force_words_ids": [[17, 18], [[19], [20]]]}, None),
    ModeCase("contrastive_search, 4 candidates", {"penalty_alpha": 0.6, "top_k": 4}, None),
    ModeCase("dola_generation, high", {"dola_layers": "high"}, None),
    # generate() of 5.23 fails with early exit on GPT-2.
    ModeCase(
        "assisted_generation, 2 first layers", {"assistant_early_exit": 2, "num_assistant_tokens": 4, **STEADY}, None
    ),
    ModeCase("prompt_lookup, 4 tokens", {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 2, **STEADY}),
    ModeCase("guidance, greedy", {"guidance_scale": 1.5}),
)


def measure_modes(models: Sequence[str], quick: bool, say: Callable[[str | None], None]) -> Iterator[dict[str, Any]]:
    """Tokens a second of every mode, and the ratio to `generate()`."""
    tokens, rounds = (12, 2) if quick else (32, 5)
    for model in models:
        loaded = api.load_model(model)
        ids = prompt_ids(loaded, CONTEXT)
        for case in CASES:
            ours: list[float] = []
            theirs: list[float] = []
            for number in range(rounds + 1):  # the first round warms up and does not count
                say(f"{model}, {case.name}: round {number} of {rounds}")
                engine, library = engine_s(loaded, ids, tokens, case.params), None
                if case.target is not None:
                    library = generate_s(loaded, ids, tokens, case.params)
                if number:
                    ours.append(engine)
                    theirs += [] if library is None else [library]
            yield {
                "model": model,
                "dtype": loaded.info.dtype,
                "mode": case.name,
                "tokens_per_s": 1 / median(ours),
                "times_generate": median(theirs) / median(ours) if theirs else None,
                "target": case.target,
            }


def modes_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results for people, a line a mode."""
    lines = [f"{'model':<12}{'dtype':<7}{'mode':<36}{'tokens/s':>10}{'× generate()':>14}{'to reach':>10}"]
    for result in results:
        ratio = "" if result["times_generate"] is None else f"{result['times_generate']:.2f}"
        target = "" if result["target"] is None else f"{result['target']:.2f}"
        head = f"{result['model']:<12}{result['dtype']:<7}{result['mode']:<36}"
        lines.append(f"{head}{result['tokens_per_s']:>10.1f}{ratio:>14}{target:>10}")
    return lines
