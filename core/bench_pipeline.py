"""What each stage of the logits pipeline costs, on the logits of a text that the model itself wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import torch

from core import api
from core.contract import Prompt, RunSpec, StepSnapshot, WaterfallQuery
from core.decode.pipeline import PipelineContext, Rows, Stage, build_pipeline
from core.decode.pipeline.partial_sort import PartialSort
from core.decode.session import Session
from core.models.loaded import LoadedModel

TOKENS = 64
STAGES: Mapping[str, object] = {
    "sequence_bias": [[[7], 1.0], [[5, 6], -1.0]],
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[3], [8, 12]],
    "min_new_tokens": TOKENS,
    "exponential_decay_length_penalty": [1, 1.01],
    "suppress_tokens": [1, 2, 3],
    "temperature": 0.8,
    "top_h": 0.7,
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 0.95,
    "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
    "watermarking_config": {"bias": 2.0},
    "renormalize_logits": True,
}


def pipeline_cost(loaded: LoadedModel) -> dict[str, Any]:
    """Median milliseconds of each stage alone and of a view of several; full sorts of the filters that avoid them.

    The text is sampled at temperature 1 with all tokens left in.
    """
    neutral = {"do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": [], "max_new_tokens": TOKENS}
    prompt = Prompt(ids=(loaded.info.bos_token_id or 0,))
    session = api.open_session(loaded, RunSpec((prompt,), {**neutral, "stop_strings": []}, seed=1, top_logprobs=0))
    steps = [event for event in api.events(session) if isinstance(event, StepSnapshot)]
    with torch.inference_mode():
        ids = torch.tensor([session.result().sequences[0][:-1]], device=loaded.device)
        logits = loaded.module(input_ids=ids, use_cache=False).logits[0].float()  # (T, V)
        stages = {name: _stage_cost(loaded, name, ids, logits) for name in STAGES}
    return {"vocab_size": loaded.info.output_size, "dtype": loaded.info.dtype, "stages": stages,
            "waterfall_ms": _waterfall_ms(session, steps)}  # fmt: skip


def _stage_cost(loaded: LoadedModel, name: str, ids: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    params = loaded.info.defaults.replace(
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": [0], "top_p": 1.0, name: STAGES[name]}
    )
    context = PipelineContext(prompt_slots=1, vocab_size=loaded.info.output_size, device=loaded.device)
    stage = next(stage for stage in build_pipeline(params, context) if stage.name == name)
    stage.fn(Rows(ids[:, :1], (0,)), logits[:1])  # warms up
    times = list(_times_ms(stage, ids, logits))
    cost = {"ms": median(times)}
    if isinstance(stage.fn, PartialSort):
        cost |= {"calls": stage.fn.calls, "full_sorts": stage.fn.fallbacks}
    return cost


def _times_ms(stage: Stage, ids: torch.Tensor, logits: torch.Tensor) -> Iterator[float]:
    for fed in range(ids.shape[1]):
        rows = Rows(ids[:, : fed + 1], (0,))
        begun = perf_counter()
        float(stage.fn(rows, logits[fed : fed + 1])[0, 0])  # a number back: the work is done
        yield 1e3 * (perf_counter() - begun)


def _waterfall_ms(session: Session, steps: list[StepSnapshot]) -> dict[str, float]:
    """Of a waterfall of four stages: for another step each time, and again for the same (a slider is dragged)."""
    times: dict[str, list[float]] = {"new_step": [], "same_step": []}
    for step in steps[1:]:
        for which, temperature in (("new_step", 0.8), ("same_step", 0.7)):
            changes = {"temperature": temperature, "top_k": 50, "top_p": 0.95, "min_p": 0.05}
            begun = perf_counter()
            session.answer(WaterfallQuery(session.run_id, step.id.position - 1, changes))
            times[which].append(1e3 * (perf_counter() - begun))
    return {which: median(values) for which, values in times.items()}


def as_lines(cost: Mapping[str, Any], model: str) -> list[str]:
    """The same for people."""
    lines = [f"pipeline, {cost['vocab_size']:,} logits of {model} in {cost['dtype']}, median ms a row:"]
    for name, stage in cost["stages"].items():
        sorts = f"  full sort {stage['full_sorts']} of {stage['calls']}" if stage.get("calls") else ""
        lines.append(f"  {name:<34}{stage['ms']:>8.3f}{sorts}")
    for which, ms in cost["waterfall_ms"].items():
        lines.append(f"  {f'waterfall of 4 stages, {which}':<34}{ms:>8.3f}")
    return lines
