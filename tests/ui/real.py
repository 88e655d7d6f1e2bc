"""A window on the real engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import core
from app.state import intents as i
from app.state import select
from tests.ui.harness import Driven

PATIENCE_S = 120.0


@contextmanager
def opened(settings: Path, model: str = "tiny-gpt2", size: tuple[int, int] | None = None) -> Iterator[Driven]:
    """The window, shown, the model loaded; everything is closed afterwards."""
    lab = core.Lab()
    one = Driven(lab, settings)
    if size is not None:
        one.window.resize(*size)
    one.window.show()
    try:
        one.do(i.ChooseModel(model, dtype="fp32"))
        live(one, lambda: one.state.model is not None)
        yield one
    finally:
        one.close()
        assert lab.close(30.0)


def live(one: Driven, condition: Callable[[], bool]) -> None:
    """Frames until the condition holds, as long as it takes."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "the condition never held"
        one.frames()
        time.sleep(0.005)
    one.frames(2)


def finished(one: Driven) -> bool:
    """Whether no run goes on."""
    return not select.is_active(one.state)


def answered(one: Driven) -> bool:
    """Whether every question of the panels has its answer."""
    return bool(one.state.answers) and not any(select.is_waiting(one.state, slot) for slot in one.state.asked)
