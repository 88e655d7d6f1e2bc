"""What will happen when Run is pressed: core's own plan of a run, or what can be said before there is one."""

from __future__ import annotations

from app.state import select
from app.state.state import AppState
from app.state.texts import tr
from core.contract import PARAMETERS, ModelInfo, PlanLine


def plan(state: AppState) -> tuple[PlanLine, ...]:
    """The plan of the run in progress, or of the last one while Run would repeat it, else the expected one."""
    run = state.run
    if run is not None and (select.is_active(state) or _repeats(state)):
        return run.started.plan
    return expected(state)


def _repeats(state: AppState) -> bool:
    run, row = state.run, state.draft.tokenized
    if run is None or row is None or run.params != select.params(state) or run.started.seed != state.seed:
        return False
    return row.token_ids == run.prompt.token_ids


def expected(state: AppState) -> tuple[PlanLine, ...]:
    """Mode, length, stopping, cache and draws, as far as they are known before a run; empty without a model."""
    model = state.model
    if model is None:
        return ()
    params = select.params(state)
    lines = [PlanLine("mode", params.mode, _why_mode(state))]
    row = state.draft.tokenized
    if row is not None:
        wanted = len(row.token_ids) + params.max_new_tokens
        limited = wanted > model.max_positions + 1
        sum_text = f"{len(row.token_ids):,} + {params.max_new_tokens:,}"
        reason = f"all {model.max_positions:,} positions" if limited else sum_text
        lines.append(PlanLine("length", f"{min(wanted, model.max_positions + 1):,}", reason))
    eos = ", ".join(map(str, params.eos_token_id)) or "none"
    stops = " · ".join([f"eos {eos}", *(repr(s) for s in params.stop_strings)])
    lines.append(PlanLine("stop", stops, _origin(state, "eos_token_id")))
    lines.append(PlanLine("cache", "growing", f"{model.kv_bytes_per_token / 1e3:.3g} kB a token"))
    if params.mode == "sample":
        lines.append(PlanLine("draws", f"seed {state.seed}", "counter-based"))
    else:
        lines.append(PlanLine("draws", "none", "greedy"))
    return tuple(lines)


def _why_mode(state: AppState) -> str:
    params = select.params(state)
    if params.do_sample and params.temperature == 0:
        return "temperature is 0"
    if "do_sample" not in state.overrides and state.model is not None and not state.model.defaults.do_sample:
        return "window default"
    return _origin(state, "do_sample")


def _origin(state: AppState, name: str) -> str:
    if name in state.overrides:
        return "yours"
    return "model" if state.model is not None and name in state.model.from_generation_config else "default"


def default_source(model: ModelInfo | None, name: str, default: object) -> str:
    """One sentence: the default value and where it comes from."""
    if name == "do_sample":
        return tr("Default: sampling, the choice of this window.")
    shown = ", ".join(map(str, default)) or "none" if isinstance(default, tuple) else f"{default:g}"
    if model is not None and name in model.from_generation_config:
        return tr("Default: {0}, from the generation_config of {1}.").format(shown, model.title)
    return tr("Default: {0}, from the library.").format(shown)


_NO_ROWS = ("do_sample", "num_return_sequences", "num_beams")


def shown_parameters() -> tuple[str, ...]:
    """The parameters that the window offers as rows, in order; `do_sample` is its mode switch."""
    return tuple(n for n, p in PARAMETERS.items() if not p.advanced and n not in _NO_ROWS)
