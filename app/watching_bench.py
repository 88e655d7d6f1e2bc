"""What looking costs: tokens a second with every view visible against none, the share of each view, and the memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from app.workspace import DESKS

if TYPE_CHECKING:
    from app.offscreen import Stage
    from app.store import Lab
    from core.contract import Command, Event

MODEL, TOKENS, ROUNDS = "smollm2", 256, 3
LONG_TOKENS = 2_000
TARGET_TIMES = 0.85  # of the speed with nothing watched
FLOAT_PX = (420, 300)

Rows = dict[str, dict[str, float]]


class Answers:
    """The lab, and how long the answers took that came out of it, by slot."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.derive_ms: dict[str, list[float]] = {}

    def drain(self) -> list[Event]:
        """As `Lab.drain`."""
        from core.contract import Answered

        events = self.lab.drain()
        for event in events:
            if isinstance(event, Answered):
                self.derive_ms.setdefault(event.slot, []).append(event.derive_ms)
        return events

    def submit(self, command: Command) -> None:
        """As `Lab.submit`."""
        self.lab.submit(command)

    def close(self, timeout_s: float) -> bool:
        """As `Lab.close`."""
        return self.lab.close(timeout_s)


def measure(
    model: str = MODEL, tokens: int = TOKENS, rounds: int = ROUNDS, long_tokens: int = LONG_TOKENS
) -> dict[str, Rows]:
    """`watching`: tokens/s, medians of rounds in turn. `views`: of the last round. `memory`: after a long run.

    Every card of the run is visible, those of the layout in their places and the others as windows of their own.
    """
    from app.offscreen import stage
    from app.state import intents as i

    with stage(model, "everything", (1440, 900)) as scene:
        scene.load()
        scene.store.dispatch(i.SetParameter("eos_token_id", ()))
        scene.run(None, tokens // 4)  # warm
        speeds: dict[bool, list[float]] = {False: [], True: []}
        views: Rows = {}
        for _ in range(rounds):
            for watched in speeds:
                _show(scene, watched)
                answers = scene.store.lab = Answers(scene.store.lab)
                speed = _speed(scene, tokens)
                scene.store.lab = answers.lab
                speeds[watched].append(speed)
                if watched:
                    views = _shares(answers, tokens / speed)
        memory = _memory(scene, long_tokens)
    nothing, every = (median(speeds[watched]) for watched in (False, True))
    watching = {
        "nothing watched": {"tokens/s": nothing, "× nothing": 1.0, "to reach": 1.0},
        "every view": {"tokens/s": every, "× nothing": every / nothing, "to reach": TARGET_TIMES},
    }
    return {"watching": watching, "views": views, "memory": memory}


def _show(scene: Stage, watched: bool) -> None:
    """Every card of the run where it can be seen, or none."""
    from app.state import intents as i

    scene.store.dispatch(i.SetLayout("everything"))
    scene.settle()
    for name, card in scene.window.workspace.cards.items():
        if name in DESKS or not watched:
            card.hide()
        elif card.isHidden() or card.visibleRegion().isEmpty():
            card.setFloating(True)
            card.resize(*FLOAT_PX)
            card.show()
    scene.settle()


def _speed(scene: Stage, tokens: int) -> float:
    scene.run(None, tokens)
    run = scene.state.run
    assert run is not None
    assert run.finish is not None
    assert run.finish.new_tokens == tokens
    return run.finish.tokens_per_s or 0.0


def _shares(answers: Answers, run_s: float) -> Rows:
    """Of each view: share of the run's time in percent, answers, milliseconds of one."""
    found: Rows = {}
    for slot, times in sorted(answers.derive_ms.items(), key=lambda one: -sum(one[1])):
        found[slot] = {"% of run": sum(times) / (10 * run_s), "answers": len(times), "ms each": median(times)}
    return found


def _memory(scene: Stage, tokens: int) -> Rows:
    """After so many tokens with everything visible: what is counted, and by how much the process has grown."""
    before = resident_bytes()
    scene.run(None, tokens)
    scene.settle()
    after, run = resident_bytes(), scene.state.run
    assert run is not None
    step = run.step(run.count - 1)
    budget = 1 << 30  # of records, see `RunSpec.trace_budget_bytes`
    row = {
        "cache MB": step.cache.allocated_bytes / 1e6,
        "records MB": step.trace_bytes / 1e6,
        "budget MB": budget / 1e6,
        "kB/pos.": (step.cache.used_bytes + step.trace_bytes) / 1e3 / step.cache.length,
    }
    if before and after:
        row["grown MB"] = (after - before) / 1e6
    return {f"{step.cache.length:,} positions": row}


def resident_bytes() -> int:
    """What the process holds of the machine's memory; 0 where the system does not tell it this way."""
    return _resident(Path("/proc/self/status").read_text().splitlines()) if Path("/proc/self/status").exists() else 0


def _resident(lines: Iterable[str]) -> int:
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
