"""What only a window can measure: start-up, frame cost, lateness while streaming, how fast Stop acts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.offscreen import Stage
    from app.state.state import AppState

TOKENS = 200
LONG_PROMPT_TOKENS = 450
STARTS = 3
LENGTHS = (1_000, 5_000, 10_000)
REPEATS = 15
LOOK_S = 0.7  # that somebody looks at a moment before the next one is chosen
SELECTED_MODEL, SELECTED_TOKENS = "smollm2", 2_000
SENTENCE = ("The", " lamp", " would", " not", " light", ";", " she", " looked", " out", " to", " the", " sea", ".\n")

_START = """
import sys, time
from app.__main__ import _parser, run_window
def shown():
    print(time.time(), flush=True)
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication
    QTimer.singleShot(0, QApplication.quit)
sys.exit(run_window(_parser().parse_args(["--model", "tiny-gpt2"]), shown))
"""


def measure() -> dict[str, Any]:
    """All of it, with tiny-gpt2, every panel open, offscreen, in milliseconds.

    What looking costs, see `watching_bench`, and painting, see `image_bench`.
    """
    from app import image_bench, watching_bench

    own = {**start_up(), **streaming(), **long_text(), **selecting()}
    return {**own, **watching_bench.measure(), **image_bench.measure()}


def start_up() -> dict[str, float]:
    """From the start of a process to the first paint of the window, the best and worst of a few."""
    times = sorted(_one_start() for _ in range(STARTS))
    return {"window_visible_best_ms": times[0], "window_visible_worst_ms": times[-1]}


def _one_start() -> float:
    import os

    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _START],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return (float(done.stdout.split()[0]) - begun) * 1e3


def streaming() -> dict[str, float]:
    """Frames while a run streams with all panels open, then the time from Stop to the end of a run."""
    from app.offscreen import LOAD_S, stage
    from app.state import intents as i
    from app.state import select

    with stage("tiny-gpt2", "everything", (1440, 900)) as scene:
        scene.load()
        scene.run(None, 20)  # warm
        scene.settle()
        scene.store.forget_costs()
        scene.run(None, TOKENS)
        cost = scene.store.cost()
        scene.store.dispatch(i.EditText("once upon a time " * (LONG_PROMPT_TOKENS // 4)))
        scene.store.dispatch(i.Run())
        scene.wait(lambda s: s.requested is None, LOAD_S, "the start of the run")
        begun = time.perf_counter()
        scene.store.dispatch(i.Stop())
        scene.wait(lambda s: not select.is_active(s), LOAD_S, "the end of the run")
        stopped_ms = (time.perf_counter() - begun) * 1e3
    return {
        "frame_work_mean_ms": cost.work_mean_ms,
        "frame_work_p99_ms": cost.work_p99_ms,
        "lateness_p99_ms": cost.lateness_p99_ms,
        "lateness_max_ms": cost.lateness_max_ms,
        "stop_ms": stopped_ms,
    }


def selecting(model: str = SELECTED_MODEL, tokens: int = SELECTED_TOKENS) -> dict[str, dict[str, dict[str, float]]]:
    """From the choice of a token to the moment at which every panel shows what the snapshot holds, and to the answers.

    All panels open, after a long run; frames come as they do for a user. `select_ms`, by number of tokens.
    """
    from app.offscreen import LOAD_S, stage
    from app.state import intents as i

    with stage(model, "everything", (1440, 900)) as scene:
        scene.load()
        scene.store.dispatch(i.SetParameter("eos_token_id", ()))
        scene.run(None, tokens)
        scene.settle()
        idle = _selections(scene, tokens - 1)
        scene.store.dispatch(i.Run())
        scene.wait(lambda s: s.requested is None and s.run is not None and s.run.count >= REPEATS, LOAD_S, "tokens")
        decoding = _selections(scene, REPEATS)
        scene.store.dispatch(i.Stop())
    return {"select_ms": {f"{tokens:,} tokens": idle, "while decoding": decoding}}


def _selections(scene: Stage, count: int) -> dict[str, float]:
    """Milliseconds from choosing one of the first `count` tokens until what is held, and what is derived, is shown."""
    from statistics import median

    from app.offscreen import LOAD_S
    from app.state import intents as i

    held_ms, derived_ms = [], []
    for number in range(REPEATS):
        index = (number * 7919) % count
        begun = time.perf_counter()
        scene.store.dispatch(i.SelectStep(index))
        while not scene.store.shows(partial(_has_selected, index)):
            scene.app.processEvents()
        held_ms.append((time.perf_counter() - begun) * 1e3)
        scene.wait(_answered, LOAD_S, "the answers")
        derived_ms.append((time.perf_counter() - begun) * 1e3)
        until = time.perf_counter() + LOOK_S
        while time.perf_counter() < until:
            scene.app.processEvents()
            time.sleep(0.002)
    return {"held": median(held_ms), "held max": max(held_ms), "derived": median(derived_ms)}


def _has_selected(index: int, state: AppState) -> bool:
    return state.selected == index


def _answered(state: AppState) -> bool:
    return all(
        slot in state.answers and state.answers[slot].generation >= asked.generation
        for slot, asked in state.asked.items()
    )


def long_text() -> dict[str, dict[str, dict[str, float]]]:
    """Medians of what one change of a long output costs, laid out and painted, in a flow of 640 × 560 px.

    `flow_ms`, by tokens, by change.
    """
    from statistics import median

    from PySide6.QtWidgets import QApplication

    app = QApplication.instance() or QApplication(["tokenglass", "-platform", "offscreen"])
    costs = {}
    for tokens in LENGTHS:
        times = _flow_times(tokens, app.processEvents)
        costs[f"{tokens:,} tokens"] = {name: median(values) for name, values in times.items()}
    return {"flow_ms": costs}


def _flow_times(tokens: int, live: Callable[[], object]) -> dict[str, list[float]]:
    """Milliseconds of each change, several times; `live` paints what a change has damaged."""
    import numpy as np

    from app.theme import fonts
    from app.widgets.token_flow import TokenFlow

    fonts.load_fonts()
    flow = TokenFlow()
    flow.resize(640, 560)
    flow.show()
    flow.append((SENTENCE * (tokens // len(SENTENCE) + 1))[:tokens], np.full(tokens, 90, np.int16))
    bar, one = flow.verticalScrollBar(), np.full(1, 200, np.int16)
    changes: dict[str, Callable[[int], object]] = {
        "append": lambda n: flow.append((" word",), one),
        "paint": lambda n: flow.viewport().repaint(),
        "scroll": lambda n: bar.setValue(n * 3),
        "select": lambda n: flow.set_selected((n * 7919) % tokens),
        "recolour": lambda n: flow.set_levels(np.full(flow.tokens, 20 * (n % 10), np.int16)),
        "resize": lambda n: flow.resize(600 + 20 * (n % 2), 560),
    }
    times: dict[str, list[float]] = {}
    for name, change in changes.items():
        times[name] = []
        for n in range(REPEATS + 2):
            live()
            begun = time.perf_counter()
            change(n)
            live()
            times[name].append((time.perf_counter() - begun) * 1e3)
    flow.deleteLater()
    live()
    return {name: of[2:] for name, of in times.items()}
