"""What the status bar says, from the state alone."""

from __future__ import annotations

from dataclasses import dataclass

from app.state import select
from app.state.acting import stopped_text
from app.state.run import RunView
from app.state.state import AppState
from app.state.texts import tr
from app.state.units import counted, paints
from app.widgets.numbers import byte_count, significant
from core.contract import BranchMemory, WorkerState

NOTHING = "–"
RECENT = 30  # tokens that the running speed is averaged over


@dataclass(frozen=True, slots=True)
class Status:
    """Texts, ready to show; numbers have three significant digits."""

    state: str
    first_token: str
    speed: str
    context: str
    cache: str
    probes: str
    aside: str  # what is worth knowing now: tokens that wait, positions re-used
    aside_brief: str


def status(state: AppState) -> Status:
    """The status of the state."""
    run = state.run
    return Status(
        state=state_text(state),
        first_token=_first_token(run),
        speed=_speed(run),
        context=_context(state),
        cache=_cache(state),
        probes=f"{100 * state.vitals.probe_share:.1f} %" if state.vitals and run else NOTHING,
        aside=_aside(state),
        aside_brief=_aside_brief(state),
    )


def _aside_brief(state: AppState) -> str:
    """The same in less room; empty where the whole is short."""
    reuse = state.branches.reuse or (0, 0)
    if state.pace.waiting or state.run is None or not any(reuse):
        return ""
    return tr("re-used {0}, fed {1}").format(*(f"{count:,}" for count in reuse))


def _aside(state: AppState) -> str:
    waiting, run = state.pace.waiting, state.run
    if waiting:
        count = counted(state.model if run is None else run.model, waiting)
        return tr("{0} waits").format(count) if waiting == 1 else tr("{0} wait").format(count)
    reuse = state.branches.reuse or (0, 0)
    if run is not None and any(reuse):
        return tr("re-used {0} positions, recomputed {1}").format(*(f"{count:,}" for count in reuse))
    reused = run.started.reused_positions if run else 0
    if not reused and run is not None and run.plan.cache.spec.kind == "heavy_hitters" and _later_turn(state):
        return tr("heavy hitters begin anew")  # what they keep depends on the portions that were fed
    return tr("re-used {0} positions").format(f"{reused:,}") if reused else ""


def _later_turn(state: AppState) -> bool:
    """Whether the chat has been answered before."""
    return state.draft.tab == "chat" and sum(turn.role == "user" for turn in state.draft.turns) > 1


def state_text(state: AppState) -> str:
    """What is going on, in a few words."""
    run = state.run
    if state.loading is not None and state.worker is not WorkerState.STARTING:
        return tr("Loading model")
    if state.requested is not None:
        return tr("Waiting to run")
    if run is not None and run.finish is not None and state.worker is WorkerState.READY:
        return tr("Failed") if run.finish.error else _finished(run, run.finish.finish_reason)
    if state.pace.paused and select.is_active(state):
        return tr("Paused")
    stopped = stopped_text(state)
    if stopped and state.worker is WorkerState.PAUSED:
        return stopped
    return {
        WorkerState.STARTING: tr("Starting"),
        WorkerState.NO_MODEL: tr("No model"),
        WorkerState.LOADING: tr("Loading model"),
        WorkerState.READY: tr("Ready"),
        WorkerState.PREFILL: tr("Reading prompt"),
        WorkerState.DECODING: tr("Running"),
        WorkerState.PAUSED: tr("Paused"),
        WorkerState.CLOSED: tr("Closed"),
    }[state.worker]


def _finished(run: RunView, reason: str) -> str:
    if reason == "length_limit" and paints(run.model):
        return tr("Finished · picture complete")
    return {
        "stop": tr("Finished · end of text"),
        "length": tr("Finished · length"),
        "length_limit": tr("Finished · model is full"),
        "time": tr("Finished · time is up"),
        "cancelled": tr("Stopped"),
        "breakpoint": tr("Stopped at a breakpoint"),
    }.get(reason, tr("Finished"))


def _first_token(run: RunView | None) -> str:
    """Prefill and the first step, as soon as it is there."""
    if run is None or run.count == 0:
        return NOTHING
    if run.finish is not None and run.finish.ttft_ms is not None:
        return f"{significant(run.finish.ttft_ms)} ms"
    prefill_ms = run.prefill.elapsed_ms if run.prefill else 0.0
    # The step's own forward time is the prefill's, which is counted already.
    return f"{significant(prefill_ms + float(run.column('pipeline_ms')[0] + run.column('probes_ms')[0]))} ms"


def _speed(run: RunView | None) -> str:
    if run is None:
        return NOTHING
    if run.finish is not None:
        return significant(run.finish.tokens_per_s) if run.finish.tokens_per_s else NOTHING
    recent = run.column("step_ms")[1:][-RECENT:]
    return significant(1e3 * len(recent) / float(recent.sum())) if len(recent) and recent.sum() > 0 else NOTHING


def _context(state: AppState) -> str:
    run = state.run
    model = run.model if run else state.model
    if model is None:
        return NOTHING
    used = select.fed_positions(run) if run else 0
    memory = _held(state)
    if memory is not None:  # a branch that has said nothing yet
        used = max(used, memory.positions)
    return f"{used:,} / {model.max_positions:,}"


def _held(state: AppState) -> BranchMemory | None:
    """What core says that the branch in use holds, as long as no step of it does."""
    run = state.run
    return state.branches.memory.get(run.branch) if run is not None and run.count == 0 else None


def _cache(state: AppState) -> str:
    run, memory = state.run, _held(state)
    if memory is not None and memory.positions:
        return byte_count(memory.cache_bytes) if memory.cache_bytes else tr("shared")
    if run is None or run.count == 0:
        return NOTHING
    used, held = int(run.column("used_bytes")[-1]), int(run.column("allocated_bytes")[-1])
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if held >= s or s == 1.0)
    return f"{significant(used / size)} / {significant(held / size)} {unit}"
