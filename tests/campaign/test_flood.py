"""Far more events than any model makes, into the real window: it stays smooth and bounded, and no text is lost."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEventLoop, QTimer

from app.state import intents as i
from core.contract import (
    Command,
    Event,
    LoadModel,
    ModelReady,
    ParamsApplied,
    PrefillProgress,
    PromptRow,
    RunFinished,
    RunSpec,
    RunStarted,
    StateChanged,
    StepSnapshot,
    Vitals,
    WorkerState,
)
from core.mailbox import CAPACITY, Mailbox
from tests.campaign.driver import rss_bytes
from tests.campaign.figures import note, p99
from tests.ui.fake_lab import WORDS, model_info, snapshot
from tests.ui.fake_plan import fake_plan
from tests.ui.harness import Driven

EVENTS_PER_S = 20_000
TOKENS_PER_S = 1_000  # of them; the fastest model here makes 300
LATEST_MS = 33.0
RUN, PROMPT_TOKENS = 7, 10

pytestmark = pytest.mark.usefixtures("qapp")


class FloodLab:
    """A worker that writes events through a real mailbox at a set rate."""

    def __init__(self, seconds: float, tokens_per_s: int) -> None:
        self.mailbox = Mailbox()
        self.seconds, self.tokens_per_s = seconds, tokens_per_s
        self.info = model_info(1)
        self.texts: list[str] = []
        self.sent = 0
        self.fullest = 0
        self.frame_cpu_ms: list[float] = []
        self._events: list[Event] = []
        self._thread: threading.Thread | None = None

    def submit(self, command: Command) -> None:
        if isinstance(command, LoadModel):
            self.info = model_info(command.model_id, spec=command.spec)
            self.mailbox.put(ModelReady(self.info))

    def drain(self) -> list[Event]:
        return self.mailbox.drain()

    def close(self, timeout_s: float) -> bool:
        self.mailbox.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def make(self) -> None:
        """Make the events beforehand, so that the flood is one of events and not of making them."""
        every = EVENTS_PER_S // self.tokens_per_s
        self._events = list(itertools.islice(self._endless(every), int(self.seconds * EVENTS_PER_S)))

    def pour(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._write, args=(self._events,), name="flood")
        self._thread.start()

    def _endless(self, every: int) -> Iterator[Event]:
        params = self.info.defaults
        row = PromptRow(tuple(range(PROMPT_TOKENS)), ("word",) * PROMPT_TOKENS, "word" * PROMPT_TOKENS)
        plan = fake_plan(self.info, RunSpec(()), params, PROMPT_TOKENS)
        yield RunStarted(self.info.model_id, RUN, 0, (row,), params, 0, 100_000, plan)
        steps = itertools.count()
        for n in itertools.count(1):
            if n % every == 0:
                index = next(steps)
                piece = " " + WORDS[index % len(WORDS)]
                self.texts.append(piece)
                yield snapshot(RUN, index, PROMPT_TOKENS, piece)
            elif n % 4_000 == 1:
                yield ParamsApplied(RUN, n, n // every, params, ("temperature",))
            elif n % 2:
                yield StateChanged(WorkerState.DECODING)
            else:
                yield PrefillProgress(RUN, PROMPT_TOKENS, PROMPT_TOKENS, float(n))

    def _write(self, events: list[Event]) -> None:
        begun = time.perf_counter()
        for first in range(0, len(events), 100):
            for event in events[first : first + 100]:
                self.mailbox.put(event)
            self.mailbox.put_latest("vitals", Vitals(RUN, 0.01, 1000))
            self.sent += 100
            self.fullest = max(self.fullest, len(self.mailbox._ordered))
            time.sleep(max(0.0, begun + self.sent / EVENTS_PER_S - time.perf_counter()))
        text = "".join(self.texts)
        self.mailbox.put(RunFinished(RUN, "length", ("length",), (text,), ((),), (10,), len(self.texts), 1.0, 1.0))


def flood(lab: FloodLab, settings: Path) -> Driven:
    """Pour everything into a shown window with live frames; returns it."""
    one = Driven(lab, settings)
    one.window.resize(1440, 900)
    one.window.show()
    one.do(i.ChooseModel("tiny-gpt2"))
    one.frames(5)
    lab.make()
    plain = one.store.frame

    def frame() -> None:
        begun = time.thread_time()
        plain()
        lab.frame_cpu_ms.append(1e3 * (time.thread_time() - begun))

    one.store.frame = frame  # type: ignore[method-assign]
    gc.collect()
    gc.freeze()
    one.store.start()
    lab.pour()
    loop, watch = QEventLoop(), QTimer()
    watch.timeout.connect(lambda: loop.quit() if one.state.run is not None and one.state.run.finish else None)
    watch.start(50)
    loop.exec()
    watch.stop()
    return one


def told(one: Driven, lab: FloodLab) -> None:
    """Every token arrived, in order."""
    run = one.state.run
    assert run is not None
    assert run.count == len(lab.texts)
    assert run.text() == "".join(lab.texts) == run.finish.texts[0]
    assert lab.fullest <= CAPACITY


def test_a_flood_loses_no_text_and_fills_no_memory(tmp_path: Path) -> None:
    lab = FloodLab(1.0, TOKENS_PER_S)
    one = flood(lab, tmp_path / "settings.ini")
    try:
        told(one, lab)
    finally:
        one.close()
        assert lab.close(10)


@pytest.mark.slow
@pytest.mark.parametrize("tokens_per_s", [TOKENS_PER_S, EVENTS_PER_S])
def test_five_seconds_of_flood_leave_the_window_smooth(tmp_path: Path, tokens_per_s: int) -> None:
    """The best of three counts where there is a bound: a neighbour on the machine only ever adds."""
    campaign = f"flood of {EVENTS_PER_S:,} events/s, {tokens_per_s:,} of them tokens"
    late: list[float] = []
    for attempt in range(3):
        lab = FloodLab(5.0, tokens_per_s)
        before = rss_bytes()
        one = flood(lab, tmp_path / f"{attempt}.ini")
        try:
            told(one, lab)
            cost = one.store.cost()
            late.append(cost.lateness_p99_ms)
            note(campaign, "processor time of a frame, p99", p99(lab.frame_cpu_ms), "ms")
            note(campaign, "frame work, p99", cost.work_p99_ms, "ms")
            note(campaign, "fullest mailbox", lab.fullest, "events", CAPACITY)
            steps = sum(isinstance(event, StepSnapshot) for event in one.state.run.steps())
            note(campaign, f"memory, {steps:,} steps kept included", (rss_bytes() - before) / 1e6, "MB")
        finally:
            one.close()
            assert lab.close(10)
        if min(late) <= LATEST_MS:
            break
    bound = LATEST_MS if tokens_per_s == TOKENS_PER_S else None
    kept = note(campaign, f"lateness, p99, best of {len(late)}", min(late), "ms", bound)
    assert kept.kept
